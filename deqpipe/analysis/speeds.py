"""What the timing jobs measured: images per second, and on which machine."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqpipe.analysis.decisions import Tree, read_made
from deqpipe.analysis.reading import Source
from deqpipe.errors import UserError
from deqpipe.statistics.intervals import Estimate
from deqpipe.workflow import gridpoints, vocabulary

PLAIN = "plain"
"""Inference without Sec. 3.2 (R = 0)."""
BRACKETS = "median; low and high are the slowest and the fastest repeat"
FARTHEST = "ratio of medians; low and high are those of the repeats that are farthest apart"


@dataclass(frozen=True)
class Speed:
    """Images per second: median, lowest and highest repeat."""

    median: float
    low: float
    high: float
    repeats: int

    @property
    def estimate(self) -> Estimate:
        """The median between lowest and highest repeat, which is no confidence interval."""
        return Estimate(self.median, self.low, self.high, self.repeats)

    def over(self, other: "Speed") -> Estimate:
        """Ratio of the medians, between what it would be at the repeats that are farthest apart."""
        return Estimate(self.median / other.median, self.low / other.high, self.high / other.low, self.repeats)


@dataclass(frozen=True)
class Timed:
    """A timing job.

    Attributes:
        speeds: by model (training) or by setting of Sec. 3.2 (inference).
        device: what it ran on.
        batch_size: images at once.
        warmup: passes before the clock started.
        repeats: timed passes.
        precision: of the computation.
        threads: of the processor.
        load: averages over 1, 5 and 15 minutes, before and after.
        steps_per_repeat: training steps of a pass; None for inference.
        sources: the file behind it.
    """

    speeds: Mapping[str, Speed]
    device: str
    batch_size: int
    warmup: int
    repeats: int
    precision: str
    threads: int
    load: tuple[tuple[float, ...], tuple[float, ...]]
    steps_per_repeat: int | None
    sources: tuple[Source, ...]


def first_seed(tree: Tree) -> bool:
    """Speeds are measured for the first seed only."""
    return tree.seed == tree.config.seeds[0]


def training(tree: Tree) -> Timed:
    """Speed of training steps of the four DEQs.

    Raises:
        UserError: the file is missing, cut short, of another configuration, or holds no speeds.
    """
    raw = read_made(tree, "time_training", None, tree.timed_training)
    return _timed(tree, raw, tree.timed_training, key="methods", names=vocabulary.DEQS)


def inference(tree: Tree) -> Timed:
    """Speed of inference without Sec. 3.2 and with every T_f and R.

    Raises:
        UserError: as `training`.
    """
    path = tree.timed_inference(vocabulary.SWEEP_MODEL)
    names = [one.defence for one in gridpoints.entropy_settings(tree.config) if one.input_steps]
    return _timed(
        tree,
        read_made(tree, "time_inference", vocabulary.SWEEP_MODEL, path),
        path,
        key="settings",
        names=(PLAIN, *names),
    )


def _timed(tree: Tree, raw: Mapping[str, Any], path: Path, *, key: str, names: Sequence[str]) -> Timed:
    try:
        foreign = sorted(set(raw[key]) - set(names))
        if foreign:
            raise UserError(f"{path} holds the speed of {foreign[0]}, which the configuration does not ask for")
        return Timed(
            speeds={name: _speed(raw[key][name], name, path) for name in names},
            device=str(raw["device"]),
            batch_size=int(raw["batch_size"]),
            warmup=int(raw["warmup"]),
            repeats=int(raw["repeats"]),
            precision=str(raw["precision"]),
            threads=int(raw["threads"]),
            load=(_averages(raw["load"]["before"]), _averages(raw["load"]["after"])),
            steps_per_repeat=int(raw["steps_per_repeat"]) if "steps_per_repeat" in raw else None,
            sources=(tree.source(path, raw["provenance"]),),
        )
    except KeyError as error:
        raise UserError(f"{path} lacks {error}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is no result of a timing job: {error}") from None


def _speed(raw: Mapping[str, Any], name: str, path: Path) -> Speed:
    speed = Speed(float(raw["median"]), float(raw["low"]), float(raw["high"]), len(raw["images_per_second"]))
    if not (0 < speed.low <= speed.median <= speed.high and math.isfinite(speed.high)):
        raise UserError(
            f"{path} says that {name} ran at {speed.median:g} images/s, {speed.low:g} to {speed.high:g}, which must be "
            "positive and in order"
        )
    return speed


def _averages(raw: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(average) for average in raw)


def conditions(timed: Timed) -> tuple[str, ...]:
    """Machine and method of the measurement, and what the brackets are."""
    steps = "" if timed.steps_per_repeat is None else f" of {timed.steps_per_repeat} steps each"
    return (
        f"Measured on {timed.device}: batch size {timed.batch_size} (paper 96), precision {timed.precision}, "
        f"{timed.threads} {'thread' if timed.threads == 1 else 'threads'}; {timed.warmup} warm-up "
        f"{'pass' if timed.warmup == 1 else 'passes'}, then {timed.repeats} timed ones{steps}. Load averages over 1, 5 "
        f"and 15 minutes: {_written(timed.load[0])} before, {_written(timed.load[1])} after.",
        "A number is the median of the repeats; brackets hold the lowest and the highest repeat, which is no "
        "confidence interval. In brackets of a ratio stand the repeats that are farthest apart. Speeds are "
        "measured for the first seed only.",
        "The paper's speeds were measured on other hardware: they are context, and only ratios can be compared.",
    )


def _written(load: tuple[float, ...]) -> str:
    return ", ".join(f"{average:g}" for average in load)
