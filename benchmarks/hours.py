"""From measured speeds to the hours of the full reproduction on that device."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.operations import METHODS
from benchmarks.speed_rows import Row
from deqpipe.compute.precision import PrecisionName
from deqpipe.config import Config
from deqpipe.data import steps_per_epoch
from deqpipe.planning import cost
from deqpipe.planning.cost import Images
from deqpipe.planning.leavers import entering
from deqpipe.planning.printed import CostPlan, Measured
from deqpipe.planning.rates import rates as measured_rates
from deqpipe.results.records import write_text
from deqpipe.workflow import gridpoints, vocabulary
from deqpipe.workflow.dry_run import jobs

PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "tf32", "bf16")
GRID, SCORING = "attack step, mean over the grid", "scoring, "
TRAINING = "training step, "


@dataclass(frozen=True)
class Part:
    """Some work of the full reproduction.

    Attributes:
        name: in words.
        images: times how often, of each operation that it is made of.
    """

    name: str
    images: Mapping[str, float]


def parts(config: Config, images: Images) -> Iterator[Part]:
    """The trainings and the grid of a configuration, in images of measured operations."""
    steps = config.training.epochs * steps_per_epoch(images.train, config.training.batch_size) - config.pretrain.steps
    for method in METHODS:
        if not method.regularised:
            yield Part(f"training, {method.name}", {f"{TRAINING}{method.name}": steps * config.training.batch_size})
    attacked = len(vocabulary.DEQS) * len(gridpoints.grid_points(config)) * config.evaluation.images
    yield Part("grid: crafting", {GRID: attacked * config.attack.pgd.steps})
    entropy = config.entropy
    defended = f"{SCORING}Sec. 3.2, T_f {entropy.solver_steps}, R {entropy.input_steps}"
    yield Part("grid: scoring, plain and with Sec. 3.2", {f"{SCORING}undefended": attacked, defended: attacked})


def hours(part: Part, rows: Sequence[Row], precision: PrecisionName) -> float | None:
    """Of a part in a precision, in the fastest way that was measured; None: not all of it was."""
    total = 0.0
    for operation, images in part.images.items():
        rates = [row.rate for row in _ours(rows, precision) if row.operation == operation]
        if not rates:
            return None
        total += images / max(rates) / 3600
    return total


def _ours(rows: Sequence[Row], precision: PrecisionName) -> list[Row]:
    return [row for row in rows if row.precision == precision and row.side == "ours" and row.protocol == "paper"]


def by_rule(config: Config, images: Images, rates: Path) -> dict[str, Mapping[PrecisionName, float]]:
    """Hours of every computing rule, by its evaluations of f and a file of rates; no image leaves AutoAttack early.

    Raises:
        UserError: Snakemake, which knows the jobs, is not there or cannot plan.
    """
    everything = [job for job in jobs([], cores=1, everything=True) if cost.uses_device(job.rule)]
    nothing = Measured({}, "", cuda=True, processes=1)
    plan = CostPlan(config, images, everything, (), nothing, 1, entering(config, everything), measured_rates(rates))
    rules = dict.fromkeys(job.rule for job in everything)
    seconds = {rule: plan.on_h100([job for job in everything if job.rule == rule]) for rule in rules}
    return {rule: {name: float(each) / 3600 for name, each in taken.items()} for rule, taken in seconds.items()}


def write_rates(path: Path, rows: Sequence[Row]) -> None:
    """What the device computes, for `deqpipe plan`: per precision and kind of work, the fastest way of what is slowest.

    Columns: precision; work, training or evaluation; teraflops, 10^12 operations of f per second; source.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["precision", "work", "teraflops", "source"])
    for precision in PRECISIONS:
        for kind, prefixes in (("training", (TRAINING,)), ("evaluation", (GRID, SCORING))):
            found = _teraflops([row for row in _ours(rows, precision) if row.operation.startswith(prefixes)])
            if found is not None:
                row, teraflops = found
                writer.writerow([precision, kind, f"{teraflops:.4g}", f"{row.device}, torch {row.torch}, {row.date}"])
    write_text(path, text.getvalue())


def _teraflops(rows: Sequence[Row]) -> tuple[Row, float] | None:
    if not rows:
        return None
    best = [
        max((row for row in rows if row.operation == name), key=lambda row: row.teraflops)
        for name in dict.fromkeys(row.operation for row in rows)
    ]
    slowest = min(best, key=lambda row: row.teraflops)
    return slowest, slowest.teraflops
