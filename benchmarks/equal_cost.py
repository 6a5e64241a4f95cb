"""Attacks on a decision at equal cost: what each leaves once it has spent so many evaluations of f per image.

python -m benchmarks.equal_cost RESULTS [--images 120] [--seed 0] [--budgets 250 500 1000 2000 4000]

RESULTS is a finished results folder. Each attack runs alone, from random start after random start, on every image that
is right when clean, until it has spent the last budget; an image that falls spends nothing more. Forward evaluations of
f and backward ones to the input count one each, judging included. Where RESULTS has records of the grid on these
images, the grid stands beside them, with the cost of crafting it: per image, under all its points together.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch

import deqpipe
from deqpipe import build, config
from deqpipe.api import Model
from deqpipe.attack.suite import Batch, Victim, run
from deqpipe.config import AttackSuiteConfig, Config
from deqpipe.planning import suite_formulas
from deqpipe.reporting.figures.figure8 import point_cost
from deqpipe.results import records
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Labels, State
from deqpipe.workflow import gridpoints
from deqpipe.workflow.suite_attacks import SuiteAttack, suite_attacks
from deqpipe.workflow.vocabulary import DEQS

ATTACKS = ("exact_margin", "exact_cross_entropy", "unrolled_margin", "unrolled_cross_entropy", "adjoint_margin")
BUDGETS = (250, 500, 1000, 2000, 4000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--models", nargs="+", choices=DEQS, default=DEQS)
    parser.add_argument("--attacks", nargs="+", default=ATTACKS)
    options = parser.parse_args(arguments)
    asked = config.load([options.results / "config.yaml"])
    x, y = deqpipe.images(options.results / "data/dataset.safetensors", count=options.images)
    print(f"| model | attack | f per step | {' | '.join(f'{one:,}' for one in options.budgets)} |")
    print(f"| --- | --- | --- |{' --- |' * len(options.budgets)}")
    for name in options.models:
        folder = options.results / "models" / name / f"seed{options.seed}"
        bench = Bench(deqpipe.load(folder / "best.safetensors"), asked, x, y, options.budgets)
        for attack in options.attacks:
            print(f"| {name} | {bench.row(attack)} |", flush=True)
        print_grid(options.results, asked, name, options.seed, options.images, bench.model.early_states["plain"])
    return 0


ITERATIONS = 20
"""Of APGD from each start."""


@dataclass(frozen=True)
class Bench:
    """The undefended decision of a model, attacked alone by one attack after the other.

    Attributes:
        model: whose.
        config: of its experiment.
        x, y: the images.
        budgets: evaluations of f per image.
    """

    model: Model
    config: Config
    x: Images
    y: Labels
    budgets: Sequence[int]

    @property
    def state(self) -> int:
        """That decides."""
        return self.model.early_states["plain"]

    def row(self, name: str) -> str:
        """An attack's label, its evaluations of f per step, and the share that withstands it at each budget."""
        plain = build.plain_dynamics(self.model.settings)
        victim = Victim(self.model.network, self.model.ball, plain, self.state, plain)
        right = (victim.logits(self.x).argmax(1) == self.y).nonzero().flatten()
        starts = self.starts(name)
        attack = _with_starts(suite_attacks(_suite(1))[name], starts)
        before = self.model.network.counter.counted
        batch = Batch(self.x[right], self.y[right], right.tolist())
        made = run(attack, victim, batch, stream=Stream(0, f"equal/{name}"), suite=_suite(starts))
        spent = self.model.network.counter.counted - before
        per_step = spent.total / float(made.taken.sum())
        fallen_after = np.where(made.broken_at.numpy() < 0, np.inf, np.maximum(made.broken_at.numpy(), 1) * per_step)
        shares = [(fallen_after > budget).sum() / len(self.x) for budget in self.budgets]
        return f"{attack.label} | {per_step:.1f} | {' | '.join(f'{share:.1%}' for share in shares)}"

    def starts(self, name: str) -> int:
        """As few as spend the last budget on an image that withstands them."""
        attack, classes = suite_attacks(_suite(1))[name], self.model.network.logits(self._state()).shape[1]
        decided = suite_formulas.decided(self.config, "plain", self.state)
        for starts in count(1):
            spent = suite_formulas.spent(_with_starts(attack, starts), _suite(starts), decided, others=classes - 1)
            if spent.total >= max(self.budgets):
                return starts
        raise AssertionError("an attack costs nothing")

    def _state(self) -> State:
        return self.model.network.initial_state(self.x[:1])


def _with_starts(attack: SuiteAttack, starts: int) -> SuiteAttack:
    return replace(attack, starts=lambda suite, others: starts)


def _suite(restarts: int) -> AttackSuiteConfig:
    suite = config.load([Path("config.yaml")]).suite
    assert isinstance(suite, AttackSuiteConfig)
    return suite.model_copy(update={"iterations": ITERATIONS, "restarts": restarts})


def print_grid(results: Path, asked: Config, model: str, seed: int, images: int, state: int) -> None:
    """What all points of the grid leave together, and what crafting them costs."""
    files = sorted((results / "attacks/grid" / model / f"seed{seed}").glob("*.parquet"))
    if not files:
        return
    rows = records.merge([records.read(file) for file in files])
    own = rows.where((rows["model"] == model) & (rows["defence"] == "plain") & (rows["image"] < images))
    scored = set(own["image"].tolist())
    if len(scored) < images:
        return
    right = own["predicted"][:, state - 1] == own["label"]
    points = gridpoints.grid_points(asked)
    stands = [bool(right[own["image"] == image].all()) for image in sorted(scored)]
    strongest = min(
        right[
            (own["state"] == one.state) & (own["steps"] == one.steps) & np.isclose(own["damping"], one.damping)
        ].mean()
        for one in points
    )
    cost = sum(point_cost(point, asked) for point in points)
    print(
        f"| {model} | all {len(points)} points of the grid, {cost:,} evaluations per image | | "
        f"per image {np.mean(stands):.1%}, strongest point {strongest:.1%} |"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    raise SystemExit(main())
