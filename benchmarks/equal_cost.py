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
from pathlib import Path

import numpy as np
import torch

import deqpipe
from deqpipe import build, config
from deqpipe.api import Model
from deqpipe.attack.suite import Victim, run
from deqpipe.config import AttackSuiteConfig
from deqpipe.results import records
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Labels
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
    x, y = deqpipe.images(options.results / "data/dataset.safetensors", count=options.images)
    print(f"| model | attack | f per step | {' | '.join(f'{one:,}' for one in options.budgets)} |")
    print(f"| --- | --- | --- |{' --- |' * len(options.budgets)}")
    for name in options.models:
        folder = options.results / "models" / name / f"seed{options.seed}"
        model = deqpipe.load(folder / "best.safetensors")
        for attack in options.attacks:
            told = measured(model, attack, x, y, options.budgets)
            left = " | ".join(f"{share:.1%}" for share in told.left)
            print(f"| {name} | {suite_attacks(_suite(1))[attack].label} | {told.per_step:.1f} | {left} |", flush=True)
        print_grid(options.results, name, options.seed, options.images, model.early_states["plain"])
    return 0


@dataclass(frozen=True)
class Told:
    """What an attack leaves.

    Attributes:
        per_step: evaluations of f of a step.
        left: share of the images that withstand it at each budget.
    """

    per_step: float
    left: list[float]


def measured(model: Model, name: str, x: Images, y: Labels, budgets: Sequence[int]) -> Told:
    """An attack on the undefended decision, alone."""
    plain = build.plain_dynamics(model.settings)
    victim = Victim(model.network, model.ball, plain, model.early_states["plain"], plain)
    right = (victim.logits(x).argmax(1) == y).nonzero().flatten()
    starts = -(-max(budgets) // (15 * ITERATIONS))  # at least 15 evaluations a step, so enough for the last budget
    counted = model.network.counter.counted
    attack, stream = _with_starts(name, starts), Stream(0, f"equal/{name}")
    made = run(attack, victim, x[right], y[right], images=right.tolist(), stream=stream, suite=_suite(starts))
    spent = model.network.counter.counted - counted
    per_step = (spent.forward + spent.backward_input) / float(made.taken.sum())
    at = made.broken_at.numpy() * per_step
    stands = [((made.broken_at.numpy() < 0) | (at > budget)).sum() / len(x) for budget in budgets]
    return Told(per_step, [float(share) for share in stands])


ITERATIONS = 20


def _suite(restarts: int) -> AttackSuiteConfig:
    suite = config.load([Path("config.yaml")]).suite
    assert isinstance(suite, AttackSuiteConfig)
    return suite.model_copy(update={"iterations": ITERATIONS, "restarts": restarts})


def _with_starts(name: str, starts: int) -> SuiteAttack:
    return replace(suite_attacks(_suite(1))[name], starts=lambda suite, others: starts)


def print_grid(results: Path, model: str, seed: int, images: int, state: int) -> None:
    """What all points of the grid leave together, and what crafting them costs."""
    files = sorted((results / "attacks/grid" / model / f"seed{seed}").glob("*.parquet"))
    if not files:
        return
    rows = records.merge([records.read(file) for file in files])
    own = rows.where((rows["model"] == model) & (rows["defence"] == "plain") & (rows["image"] < images))
    found = set(own["image"].tolist())
    if len(found) < images:
        return
    right = own["predicted"][:, state - 1] == own["label"]
    points = {(int(a), int(b), float(c)) for a, b, c in zip(own["state"], own["steps"], own["damping"], strict=True)}
    stands = [bool(right[own["image"] == image].all()) for image in sorted(found)]
    strongest = min(
        right[(own["state"] == a) & (own["steps"] == b) & (own["damping"] == np.float32(c))].mean()
        for a, b, c in points
    )
    steps = config.load([Path("config.yaml"), Path("config/demo.yaml")]).attack.pgd.steps
    cost = sum(steps * (point[0] + 2 * point[1]) for point in points)
    print(
        f"| {model} | all {len(points)} points of the grid, {cost:,} evaluations per image | | "
        f"per image {np.mean(stands):.1%}, strongest point {strongest:.1%} |"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    raise SystemExit(main())
