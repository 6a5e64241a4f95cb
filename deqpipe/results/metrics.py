"""metrics.jsonl: how a training goes, one line of JSON per interval of steps. No torch.

A line is written whole and never changed. One that a stopped training wrote after its last saved step is cut off when
it goes on: it writes it again. So every step is in exactly one line, however often the training was stopped.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from deqpipe.errors import UserError
from deqpipe.machine import faults

NAME = "metrics.jsonl"
COLUMNS: Mapping[str, str] = {
    "model": "which model is trained",
    "seed": "of the repetition",
    "phase": "pretrain or adversarial",
    "step": "steps taken so far, pretraining included; lines are ordered by it, and none stands twice",
    "epoch": "of the last of these steps, counted from 1",
    "steps": "of the interval: since the line before, within the epoch",
    "images": "of the interval",
    "loss": "mean over the images of the interval",
    "clean_accuracy": "share of these images that are classified right, unattacked (TRADES, pretraining)",
    "robust_accuracy": "the same of their attacked versions (PGD-AT)",
    "learning_rate": "of the last step",
    "images_per_second": "of the interval; validation is left out",
    "peak_share": "of the arithmetic that the device could do at most in the same time (model flops utilisation)",
    "memory_mib": "most memory so far, in MiB: of the GPU, or of the process on a CPU",
    "validation_clean_accuracy": "share of the held-out images classified right; on the last line of an epoch",
    "validation_robust_accuracy": "the same under PGD at the final state",
    "elapsed": "seconds of training so far, validation included, time when it was stopped left out",
}
"""What a line holds, and what it means; null where it is not known."""


@dataclass(frozen=True)
class Interval:
    """A line; what its values mean stands in `COLUMNS`."""

    model: str
    seed: int
    phase: str
    step: int
    epoch: int
    steps: int
    images: int
    loss: float
    clean_accuracy: float | None
    robust_accuracy: float | None
    learning_rate: float
    images_per_second: float | None
    peak_share: float | None
    memory_mib: float | None
    validation_clean_accuracy: float | None
    validation_robust_accuracy: float | None
    elapsed: float


def append(path: Path, interval: Interval) -> None:
    """Write one line more, and put it on the disk: a state that is saved later must not know more than this file.

    Raises:
        UserError: the disk does not take it.
    """
    line = json.dumps(asdict(interval), allow_nan=False) + "\n"
    with faults.written(path), path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def cut_back(path: Path, *, after: int) -> None:
    """Take off the lines behind a step, and one that was not written whole.

    Args:
        path: of the file, which need not be there.
        after: the step that a training goes on from.

    Raises:
        UserError: the file cannot be read or written.
    """
    if not path.exists():
        return
    with faults.written(path), path.open("r+b") as file:
        kept = 0
        for line in file:
            if not _is_whole(line) or json.loads(line)["step"] > after:
                break
            kept += len(line)
        file.truncate(kept)


def _is_whole(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        return isinstance(json.loads(line).get("step"), int)
    except (ValueError, AttributeError):
        return False


def read(path: Path) -> tuple[Interval, ...]:
    """All whole lines; the last one may be under way.

    Raises:
        UserError: the file is missing, cannot be read, or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"metrics {path} cannot be read: {faults.words(error, path)}") from None
    return tuple(_parsed(content, path))


def _parsed(content: bytes, path: Path) -> Iterator[Interval]:
    names = {field.name for field in fields(Interval)}
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            told = json.loads(line)
            yield Interval(**{name: told[name] for name in names})
        except (ValueError, KeyError, TypeError):
            raise UserError(f"metrics {path} are damaged in line {number}: it is no line of a training") from None
