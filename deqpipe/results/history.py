"""Training histories: one row per epoch."""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from deqpipe.errors import DamagedFileError, UserError
from deqpipe.machine import faults
from deqpipe.results import integrity


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


def digest(content: bytes) -> str:
    """What the weights of the same training say of its history: a table of plain numbers has no place for it."""
    return hashlib.sha256(content).hexdigest()


def read(path: Path, told: str | None) -> tuple[Epoch, ...]:
    """The epochs of a history.

    Args:
        path: of the file.
        told: its digest, as the weights of the same training give it (`weights.Weights.history`).

    Raises:
        DamagedFileError: it is not the history of that training.
        UserError: the file is missing, cannot be read, is empty, or lacks a column.
    """
    content = _content(path)
    if told is None:
        raise integrity.without_digest(f"training history {path}, with the weights beside it,")
    if told != digest(content):
        raise DamagedFileError(
            f"training history {path} is damaged, or not of the training of the weights beside it; {integrity.ADVICE}"
        )
    try:
        epochs = tuple(_epoch(row) for row in csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))
    except KeyError as error:
        raise UserError(f"training history {path} has no column {error}") from None
    except (ValueError, TypeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise DamagedFileError(f"training history {path} is no table of numbers ({reason})") from None
    if not epochs:
        raise UserError(f"training history {path} has no epochs")
    return epochs


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"training history {path} does not exist") from None
    except OSError as error:
        raise UserError(f"training history {path} cannot be read: {faults.words(error, path)}") from None


def _epoch(row: dict[str, str]) -> Epoch:
    return Epoch(int(row["epoch"]), _optional(row["clean_accuracy"]), _optional(row["robust_accuracy"]),
                 float(row["seconds"]))  # fmt: skip


def _optional(value: str) -> float | None:
    return float(value) if value else None


def at(path: Path, told: str | None, number: int) -> Epoch:
    """One epoch of a history, by its number; the others as in `read`.

    Raises:
        UserError: as `read`, or the history has no such epoch.
    """
    for epoch in read(path, told):
        if epoch.epoch == number:
            return epoch
    raise UserError(f"training history {path} has no epoch {number}, whose weights were kept")
