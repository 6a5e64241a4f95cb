"""Training histories: one row per epoch."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deqpipe import specs
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


def chosen(epochs: Sequence[Epoch], model: str) -> Epoch:
    """The epoch whose weights were kept: the first of the most robust ones; the trunk's is the last."""
    tried = [epoch for epoch in epochs if epoch.robust is not None]
    if model == specs.TRUNK or not tried:
        return epochs[-1]
    return max(tried, key=lambda epoch: (epoch.robust or 0.0, -epoch.epoch))
