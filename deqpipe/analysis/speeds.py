"""What the timing jobs measured: images per second, and on which machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.errors import UserError
from deqpipe.results import speeds
from deqpipe.results.speeds import Speed, Speeds
from deqpipe.statistics.intervals import Estimate
from deqpipe.workflow import gridpoints, vocabulary

PLAIN = "plain"
"""Inference without Sec. 3.2 (R = 0)."""
BRACKETS = "median; low and high are the slowest and the fastest repeat"
FARTHEST = "ratio of medians; low and high are those of the repeats that are farthest apart"


@dataclass(frozen=True)
class Timed:
    """A timing job of the configuration.

    Attributes:
        measured: its result.
        sources: the file behind it.
    """

    measured: Speeds
    sources: tuple[Source, ...]

    @property
    def speeds(self) -> Mapping[str, Speed]:
        """By model (training) or by setting of Sec. 3.2 (inference)."""
        return self.measured.speeds


def estimate(speed: Speed) -> Estimate:
    """The median between lowest and highest repeat, which is no confidence interval."""
    return Estimate(speed.median, speed.low, speed.high, len(speed.images_per_second))


def ratio(speed: Speed, other: Speed) -> Estimate:
    """Ratio of the medians, between what it would be at the repeats that are farthest apart."""
    repeats = len(speed.images_per_second)
    return Estimate(speed.median / other.median, speed.low / other.high, speed.high / other.low, repeats)


def first_seed(tree: Tree) -> bool:
    """Speeds are measured for the first seed only."""
    return tree.seed == tree.config.seeds[0]


def training(tree: Tree) -> Timed:
    """Speed of training steps of the four DEQs.

    Raises:
        UserError: the file is missing, cut short, of another configuration, or holds no speeds.
    """
    measured, provenance = speeds.read(tree.timed_training, "methods")
    source = tree.checked_source("time_training", None, tree.timed_training, provenance)
    _check_names(measured, vocabulary.DEQS, tree.timed_training)
    return Timed(measured, (source,))


def inference(tree: Tree) -> Timed:
    """Speed of inference without Sec. 3.2 and with every T_f and R.

    Raises:
        UserError: as `training`.
    """
    path = tree.timed_inference(vocabulary.SWEEP_MODEL)
    measured, provenance = speeds.read(path, "settings")
    source = tree.checked_source("time_inference", vocabulary.SWEEP_MODEL, path, provenance)
    names = [one.defence for one in gridpoints.entropy_settings(tree.config) if one.input_steps]
    _check_names(measured, (PLAIN, *names), path)
    return Timed(measured, (source,))


def _check_names(measured: Speeds, names: Sequence[str], path: Path) -> None:
    foreign = sorted(set(measured.speeds) - set(names))
    if foreign:
        raise UserError(f"{path} holds the speed of {foreign[0]}, which the configuration does not ask for")
    lacking = [name for name in names if name not in measured.speeds]
    if lacking:
        raise UserError(f"{path} lacks the speed of {lacking[0]}")


def conditions(measured: Speeds) -> tuple[str, ...]:
    """Machine and method of the measurement, and what the brackets are."""
    steps = "" if measured.steps_per_repeat is None else f" of {measured.steps_per_repeat} steps each"
    return (
        f"Measured on {measured.device}: batch size {measured.batch_size} (paper 96), precision {measured.precision}, "
        f"{measured.threads} {'thread' if measured.threads == 1 else 'threads'}; {measured.warmup} warm-up "
        f"{'pass' if measured.warmup == 1 else 'passes'}, then {measured.repeats} timed ones{steps}. Load averages "
        f"over 1, 5 and 15 minutes: {_written(measured.load[0])} before, {_written(measured.load[1])} after.",
        "A number is the median of the repeats; brackets hold the lowest and the highest repeat, which is no "
        "confidence interval. In brackets of a ratio stand the repeats that are farthest apart. Speeds are "
        "measured for the first seed only.",
        "The paper's speeds were measured on other hardware: they are context, and only ratios can be compared.",
    )


def _written(load: tuple[float, ...]) -> str:
    return ", ".join(f"{average:g}" for average in load)
