"""What a timing job measured: images per second, and under which circumstances (JSON)."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from deqpipe.errors import UserError
from deqpipe.results import document
from deqpipe.results.document import number, text, whole

TimedKind: TypeAlias = Literal["methods", "settings"]
"""What has a speed each: the trainings of models, or decisions with a setting of Sec. 3.2."""


@dataclass(frozen=True)
class Speed:
    """Images per second.

    Attributes:
        images_per_second: of every repeat.
        median, low, high: of the repeats.
        evaluations_per_image: of f, by the way that it is evaluated; None where they were not counted.
    """

    images_per_second: tuple[float, ...]
    median: float
    low: float
    high: float
    evaluations_per_image: Mapping[str, float] | None = None

    @classmethod
    def of(cls, rates: Sequence[float], *, evaluations_per_image: Mapping[str, float] | None = None) -> "Speed":
        """The speed that repeats of these rates come to."""
        return cls(tuple(rates), statistics.median(rates), min(rates), max(rates), evaluations_per_image)


@dataclass(frozen=True)
class Speeds:
    """The result of a timing job.

    Attributes:
        timed: what has a speed.
        speeds: of each, by name.
        batch_size: images at once.
        warmup: passes before the clock started.
        repeats: timed passes.
        precision: of the computation.
        device: what it ran on.
        threads: of the processor.
        load: averages over 1, 5 and 15 minutes, before and after.
        steps_per_repeat: training steps of a pass; None for inference.
        jacobian: what became of the Jacobian term; None for inference.
    """

    timed: TimedKind
    speeds: Mapping[str, Speed]
    batch_size: int
    warmup: int
    repeats: int
    precision: str
    device: str
    threads: int
    load: tuple[tuple[float, ...], tuple[float, ...]]
    steps_per_repeat: int | None = None
    jacobian: str | None = None


def write(path: Path, measured: Speeds, provenance: Mapping[str, Any]) -> None:
    """Write the result of a timing job."""
    facts = asdict(measured)
    timed, speeds, (before, after) = facts.pop("timed"), facts.pop("speeds"), facts.pop("load")
    facts |= {timed: {name: _told(speed) for name, speed in speeds.items()}, "load": {"before": before, "after": after}}
    document.write(path, _told(facts), provenance)


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What there is."""
    return {name: value for name, value in facts.items() if value is not None}


def read(path: Path, timed: TimedKind) -> tuple[Speeds, dict[str, Any]]:
    """The result of a timing job, and its provenance.

    Raises:
        UserError: the file is missing or no such result, or a speed is not positive or lies beyond its repeats.
    """
    content, provenance = document.read(path)
    with document.understood(path, as_what="result of a timing job"):
        measured = Speeds(
            timed=timed,
            speeds={name: _speed(entry) for name, entry in content[timed].items()},
            batch_size=whole(content["batch_size"]),
            warmup=whole(content["warmup"]),
            repeats=whole(content["repeats"]),
            precision=text(content["precision"]),
            device=text(content["device"]),
            threads=whole(content["threads"]),
            load=(_numbers(content["load"]["before"]), _numbers(content["load"]["after"])),
            steps_per_repeat=whole(content["steps_per_repeat"]) if timed == "methods" else None,
            jacobian=content.get("jacobian"),
        )
    for name, speed in measured.speeds.items():
        _check(speed, name, path)
    return measured, provenance


def _speed(entry: Mapping[str, Any]) -> Speed:
    return Speed(
        images_per_second=_numbers(entry["images_per_second"]),
        median=number(entry["median"]),
        low=number(entry["low"]),
        high=number(entry["high"]),
        evaluations_per_image=entry.get("evaluations_per_image"),
    )


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(number(value) for value in values)


def _check(speed: Speed, name: str, path: Path) -> None:
    if not (0 < speed.low <= speed.median <= speed.high and math.isfinite(speed.high)):
        raise UserError(
            f"{path} says that {name} ran at {speed.median:g} images/s, {speed.low:g} to {speed.high:g}, which must be "
            "positive and in order"
        )
