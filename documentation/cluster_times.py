"""docs/cluster_times.md: how long jobs take on a cluster, how many tries that are, and what each keeps."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deqpipe import config
from deqpipe.planning import cost
from deqpipe.planning.cluster import limits
from deqpipe.planning.cluster.limits import POLICY
from deqpipe.planning.cluster.needs import Need
from deqpipe.planning.sources import images_of
from deqpipe.planning.speeds import ROWS, Speed
from deqpipe.workflow import gridpoints
from deqpipe.workflow.defences import ENTROPY
from deqpipe.workflow.library_attacks import APGD_T, SQUARE
from documentation.cluster_limits import SEEDS, needs_at, needs_of_others

HEAD = """\
# Hours, tries and kept work on a cluster

This page is generated (`make generate`) from config.yaml, the counts of evaluations of f ([method.md](method.md)) and
two speeds:

{speeds}

`deqpipe plan --profile profiles/slurm` says the same of any profile and configuration, and what would not come to its
end (exit status 1): with `--speeds paper`, `--speeds rates` (the GPU's), or `--speeds here`, measured on this machine.
"""
FORMULAS = """\
## How limits are chosen

    useful minutes of a try = time budget of the runtime - what every try does again - one unit
    whole job               = what every try does again + the longest job but for its start
    tries needed            = 1 where the whole job fits, else the longest job / useful minutes, rounded up
    tries allowed           = {safety:g} x tries needed, rounded up, + {spare}
    runtime                 = the shortest multiple of {step} minutes, from {shortest} to {longest}, that holds
                              {safety:g} times the whole job, and four units

What every try does again is its start (a minute, left out of the longest job above), the clean states of a grid and
the warm-up of a timing; these two are part of the longest job, too, so they are reckoned once more than computed.
A unit is the smallest work that is kept whole or not at all: a try that is stopped loses the one under way. It must fit
a quarter of the runtime. What a job takes at most is reckoned with the deepest points of the grid for the strongest
ones, and with no image that leaves AutoAttack early. Snakemake knows one number of retries for all rules: the profile
has that of the rule that needs most. A job that would fail again in the same way is not started as often
([cluster.md](cluster.md)). Trainings save every five minutes, too, so that one that is killed loses no more.

Memory is 2.3 GB for libraries and CUDA, measured with a small model; 2.7 GB for compilers, assumed; and what a job
holds by the shapes of its arrays. A third more is asked for.

Runtimes and tries allowed are those of profiles/slurm, for the paper's speeds. Short ones let a scheduler fill gaps.
"""


def page(root: Path) -> str:
    """The page.

    Args:
        root: the repository.
    """
    (paper, of_paper), (here, of_rates) = needs_at(root, "paper"), needs_at(root, "rates")
    told = f"* **paper**: {paper.words}; what these do not time, by counts.\n* **GPU**: {here.words}."
    policy = {name: getattr(POLICY, name) for name in ("safety", "spare", "step", "shortest", "longest")}
    return "\n".join(
        [
            HEAD.format(speeds=told),
            "## Every rule\n",
            *_rows(of_paper, of_rates),
            *_in_sum(of_paper, of_rates),
            f"With several seeds (here {SEEDS}), and with the model and the attack of extending.md, there are more:\n",
            *_rows(needs_of_others(root, "paper"), needs_of_others(root, "rates")),
            "",
            FORMULAS.format(**policy),
            "## Against what is known\n",
            *_trainings(root, paper),
            *_pieces(root, paper),
        ]
    )


_COLUMNS = (
    "rule", "jobs", "runtime (min)", "memory (GB)", "longest job (h), paper", "GPU", "tries needed, paper", "GPU",
    "tries allowed", "smallest unit of kept work", "takes (min), paper", "GPU", "fits a quarter",
)  # fmt: skip


def _rows(of_paper: Sequence[Need], of_rates: Sequence[Need]) -> Iterator[str]:
    """A row per rule: both speeds."""
    yield _cells(_COLUMNS)
    yield "| --- |" + " ---: |" * 8 + " --- |" + " ---: |" * 2 + " --- |"
    for paper, other in zip(of_paper, of_rates, strict=True):
        asked = limits.limits(paper.longest)
        needed = limits.tries_needed(other.longest, asked.runtime)
        fits = "yes" if limits.fits(paper.longest, asked.runtime) else "no"
        yield _cells(
            (paper.rule, paper.jobs, asked.runtime, paper.mem_mb // 1000, _hours(paper), _hours(other), asked.needed,
             needed, asked.allowed, paper.unit, _minutes(paper), _minutes(other), fits)
        )  # fmt: skip


def _in_sum(of_paper: Sequence[Need], of_rates: Sequence[Need]) -> Iterator[str]:
    """All rules together."""
    yield ""
    total = [sum(need.minutes for need in found) / 60 / 24 for found in (of_paper, of_rates)]
    yield (
        f"In sum {total[0]:,.0f} days on one GPU at the paper's speeds, {total[1]:,.1f} at the other, as expected:\n"
        "with the mean of the grid for the strongest points, and images that leave AutoAttack as assumed.\n"
    )


def _cells(values: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, values))} |"


def _hours(need: Need) -> str:
    return f"{need.longest.minutes / 60:,.2f}"


def _minutes(need: Need) -> str:
    return f"{need.longest.unit:.1f}"


def _trainings(root: Path, paper: Speed) -> Iterator[str]:
    """Trainings at the images per second of Table 9 alone, with all that they do, and at those measured here."""
    settings = config.load([root / "config.yaml"])
    images, measured = images_of(settings), _measured(root / "docs" / "performance_gpu.csv")
    yield _cells(("training", "steps alone, paper (h)", "with the Jacobian term and validation, paper (h)", _WHERE))
    yield "| --- | ---: | ---: | --- |"
    for model, name in ROWS.items():
        wildcards = {"model": model, "seed": "0"}
        seen = cost.taken("train_deq", wildcards, settings, images)
        steps = cost.training_work(cost.training_step(settings, model) * seen, f"train/{model}")
        whole = cost.job("train_deq", wildcards, settings, images)
        own = measured.get(_operation(name))
        here = (
            "not yet"
            if own is None
            else f"{seen / float(own['rate']) / 3600:.1f} ({own['device']}, {own['precision']})"
        )
        yield _cells((name, f"{paper.minutes(steps) / 60:.1f}", f"{paper.minutes(whole) / 60:.1f}", here))
    yield ""


_WHERE = "steps alone, as measured ([performance.md](performance.md)) (h)"


def _operation(name: str) -> str:
    """As benchmarks call a training step: "training step, PGD-AT, Sec. 3.3" of "PGD-AT + Sec. 3.3"."""
    return f"training step, {name.replace(' baseline', '').replace(' + ', ', ')}"


def _measured(path: Path) -> dict[str, Mapping[str, str]]:
    """The fastest of this package's rows in a file of benchmarks, by operation."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["side"], row["protocol"]) == ("ours", "paper")]
    return {row["operation"]: row for row in sorted(rows, key=lambda row: float(row["rate"]))}


def _pieces(root: Path, paper: Speed) -> Iterator[str]:
    """One attack on one batch, through Sec. 3.2."""
    settings = config.load([root / "config.yaml"])
    batch, targets = settings.autoattack.batch_size, settings.autoattack.targets
    deepest, third = cost.deepest_points(gridpoints.grid_points(settings)), [gridpoints.GridPoint(0.5, 3, 5)]
    yield _cells((f"one attack on {batch} images, through Sec. 3.2", "at the deepest point (h)", "at (3, 5, 0.5) (h)"))
    yield "| --- | ---: | ---: |"
    for attack in (APGD_T, SQUARE):
        passes = attack.passes(settings.autoattack, targets)
        hours = []
        for points in (deepest, third):
            target = cost.attacked(settings, "deq_trades_random_states", ENTROPY.name, points)
            work = target.gradient * (passes.gradients * batch) + target.forward * (passes.forwards * batch)
            hours.append(f"{paper.minutes(work) / 60:.1f}")
        yield f"| {attack.label} | {' | '.join(hours)} |"
    yield ""
    yield (
        "At Table 10's images per second alone they would be 5 and 30 hours: such a pass goes to the last state, and\n"
        "nothing is unrolled behind it, with gradient or without. Attacks keep every answer that the model gave,\n"
        "so that none of this has to fit into a try."
    )
    yield ""
