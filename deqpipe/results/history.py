"""Training histories: one row per epoch."""

import csv
from dataclasses import dataclass
from pathlib import Path

from deqpipe.errors import UserError


@dataclass(frozen=True)
class Epoch:
    """Some columns of history.csv.

    Attributes:
        epoch: counted from 1, pretraining included.
        clean, robust: validation accuracies; robust is under PGD at the final state, None where it was not evaluated.
        seconds: of training so far.
    """

    epoch: int
    clean: float | None
    robust: float | None
    seconds: float


def read(path: Path) -> tuple[Epoch, ...]:
    """The epochs of a history.

    Raises:
        UserError: the file is missing, empty, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            epochs = tuple(_epoch(row) for row in csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"training history {path} does not exist") from None
    except KeyError as error:
        raise UserError(f"training history {path} has no column {error}") from None
    if not epochs:
        raise UserError(f"training history {path} has no epochs")
    return epochs


def _epoch(row: dict[str, str]) -> Epoch:
    return Epoch(int(row["epoch"]), _optional(row["clean_accuracy"]), _optional(row["robust_accuracy"]),
                 float(row["seconds"]))  # fmt: skip


def _optional(value: str) -> float | None:
    return float(value) if value else None


def at(path: Path, number: int) -> Epoch:
    """One epoch of a history.

    Raises:
        UserError: as `read`, or the history has no such epoch.
    """
    for epoch in read(path):
        if epoch.epoch == number:
            return epoch
    raise UserError(f"training history {path} has no epoch {number}, whose weights were kept")
