"""metrics.jsonl: how a training goes, one line of JSON per interval of steps. No torch.

A line is written whole and never changed. One that a stopped training wrote after its last saved step is cut off when
it goes on: it writes it again. So every step is in exactly one line, however often the training was stopped.
"""

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from deqpipe.errors import UserError
from deqpipe.machine import faults
from deqpipe.results import records
from deqpipe.workflow import vocabulary

_logger = logging.getLogger(__name__)

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

    Other lines that cannot be read go as well; what the file was then lies beside it, and the log says so.

    Args:
        path: of the file, which need not be there.
        after: the step that a training goes on from.

    Raises:
        UserError: the file cannot be read or written.
    """
    if not path.exists():
        return
    with faults.written(path):
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        parsed = [(line, _parsed(line)) for line in lines]
        if damaged := sum(interval is None for _, interval in parsed):
            _keep_damaged(path, damaged)
        kept = b"".join(line for line, interval in parsed if interval is not None and interval.step <= after)
        records.write_text(path, kept.decode())


def _keep_damaged(path: Path, lines: int) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    shutil.copyfile(path, aside)
    _logger.warning(
        "%s has %d damaged line(s), which are left out from now on; %s is as it was", path, lines, aside.name
    )


def read(path: Path) -> tuple[Interval, ...]:
    """All whole lines; the last one may be under way.

    Raises:
        UserError: the file is missing, cannot be read, or holds something else.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"metrics {path} cannot be read: {faults.words(error, path)}") from None
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    return tuple(_checked(line, f"metrics {path} are damaged in line {n}") for n, line in enumerate(lines, start=1))


def _checked(line: bytes, where: str) -> Interval:
    interval = _parsed(line)
    if interval is None:
        raise UserError(f"{where}: it is no line of a training")
    if interval.model not in vocabulary.MODELS:
        raise UserError(f"{where}: there is no model {interval.model!r}")
    return interval


def _parsed(line: bytes) -> Interval | None:
    """None: it is no line of a training."""
    try:
        told = json.loads(line.decode())
        values = {name: told[name] for name in _KINDS}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Interval(**values) if all(_is_a(kind, values[name]) for name, kind in _KINDS.items()) else None


_KINDS: Mapping[str, object] = {field.name: field.type for field in fields(Interval)}


def _is_a(kind: object, value: object) -> bool:
    """Whether a value of JSON may stand where this type is annotated; what is not finite may nowhere."""
    if kind in (str, int):
        return type(value) is kind
    if value is None:
        return kind == float | None
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
