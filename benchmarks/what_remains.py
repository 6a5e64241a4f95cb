"""What is left of the paper's gains under the suite of attacks that know the defence: docs/findings.md.

python -m benchmarks.what_remains RESULTS [--images 96] [--seeds 0 1 2] [--configfile config/suite.yaml]

RESULTS has finished jobs of `attack_suite`; those that are missing have no row. Two tables in Markdown:

* for the first seed: what each decision is right about after each group of attacks, in their order, and under all of
  them, with the grid per image and with images made against other decisions where RESULTS has them;
* gains under the suite, paired by image: for each seed, and pooled over all (images and trainings resampled). Both
  decisions faced the suite; nothing else is counted, as not every decision faced it.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from deqpipe import config
from deqpipe.analysis import gains, suite, union
from deqpipe.analysis.answers import FINAL
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.suite import SuiteOutcome
from deqpipe.config import AttackSuiteConfig, Config
from deqpipe.results import early_states, records
from deqpipe.results.columns import OWN_SEED
from deqpipe.results.records import Records
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Correct, Estimate, Term
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import defence_of
from deqpipe.workflow.suite_attacks import GROUPS

KEY = ("image", "attack", "crafted_on", "crafted_seed", "crafted_defence", "state", "steps", "damping")
"""Whose answers a row has, of one decision."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--configfile", type=Path, nargs="+", default=[Path("config/demo.yaml"), Path("config/suite.yaml")]
    )
    options = parser.parse_args(arguments)
    asked = config.load([Path("config.yaml"), *options.configfile])
    trees = [Finished(options.results, asked, seed, options.images) for seed in options.seeds]
    print_unions(trees[0])
    print_gains(trees)
    return 0


@dataclass(frozen=True)
class Finished:
    """What the suite's finished jobs say of one repetition, on the first so many images.

    Attributes:
        results: the folder.
        config: with the suite's budget.
        seed: of the repetition.
        images: how many.
    """

    results: Path
    config: Config
    seed: int
    images: int

    def outcome(self, decision: Decision) -> SuiteOutcome | None:
        """The suite on a decision; None where its jobs do not reach so many images."""
        rows = _of(self._files(decision), self.images, decision)
        if rows is None:
            return None
        if "crafted_seed" in rows.columns:  # what others have made stands beside it
            rows = rows.where(rows["crafted_seed"] == OWN_SEED)
        asked = self.config.suite
        assert isinstance(asked, AttackSuiteConfig)
        return suite.outcome(rows, decision, asked, state=self.state(decision), images=self.images, sources=())

    def _files(self, decision: Decision) -> list[Path]:
        """Records of the suite on a decision; those of all seeds together belong to none."""
        folder = self.results / "attacks"
        if defence_of(decision.defence).of_seeds:
            return sorted((folder / "ensemble" / decision.model).glob("images*.parquet"))
        return sorted(
            (folder / "suite" / decision.model / f"seed{self.seed}").glob(f"{decision.defence}_images*.parquet")
        )

    def state(self, decision: Decision) -> int:
        """That decides."""
        value = defence_of(decision.defence)
        if decision.model not in vocabulary.DEQS or value.of_seeds:
            return FINAL
        if value.matched_to:
            return self.config.solver.steps
        whose = value.control_of or decision.defence
        chosen, _ = early_states.read(self.results / "select" / decision.model / f"seed{self.seed}.json", [whose])
        return chosen[whose].state

    def transferred(self, decision: Decision) -> Correct | None:
        """(images,) right under all images made against other decisions; None where none were judged."""
        files = sorted((self.results / "attacks/transferred" / decision.model / f"seed{self.seed}").glob("*.parquet"))
        return self._worst(files, decision)

    def grid(self, decision: Decision) -> Correct | None:
        """(images,) right under every attack of the grid; None where it was not scored on them."""
        files = sorted((self.results / "attacks/grid" / decision.model / f"seed{self.seed}").glob("*.parquet"))
        return self._worst(files, decision)

    def _worst(self, files: Sequence[Path], decision: Decision) -> Correct | None:
        rows = _of(files, self.images, decision)
        if rows is None:
            return None
        state = self.state(decision)
        place = rows["predicted"].shape[1] - 1 if state == FINAL else state - 1
        right = np.ones(self.images, bool)
        right[rows["image"][rows["predicted"][:, place] != rows["label"]]] = False
        return right


def _of(files: Sequence[Path], images: int, decision: Decision) -> Records | None:
    """The rows of a decision's first images, once each; None where an image has none.

    Files of one image and attack that overlap (of another suite.images_per_job) say the same of it.
    """
    parts = []
    for path in files:
        rows = records.read(path)
        mask = (rows["model"] == decision.model) & (rows["defence"] == decision.defence) & (rows["image"] < images)
        parts.append(rows.where(mask))
    if not parts:
        return None
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].columns}
    if len(np.unique(columns["image"])) < images:
        return None
    whose = zip(*(columns[name].tolist() for name in KEY if name in columns), strict=True)
    once = sorted({key: row for row, key in enumerate(whose)}.values())
    return Records({name: column[once] for name, column in columns.items()}, parts[0].provenance)


def print_unions(tree: Finished) -> None:
    """What is left of each decision, group by group."""
    names = [group.label for group in GROUPS[:-1]]
    print(f"Seed {tree.seed}, the first {tree.images} test images, %.\n")
    print(f"| decision | state | clean | grid | {' | '.join(names)} | suite | transferred | all | f per image |")
    print(f"|{' --- |' * (len(names) + 8)}")
    for decision in union.decisions(tree.config):
        outcome = tree.outcome(decision)
        if outcome is None:
            continue
        after = [outcome.group(group) for group in GROUPS[:-1]]
        grid, foreign = tree.grid(decision), tree.transferred(decision)
        everything: Correct = np.logical_and.reduce(
            [one for one in (outcome.crafted, grid, foreign) if one is not None]
        )
        state = "final" if outcome.state == FINAL else str(outcome.state)
        shares = (outcome.clean, grid, *after, outcome.crafted, foreign, everything)
        cells = " | ".join("" if one is None else f"{100 * one.mean():.1f}" for one in shares)
        print(f"| {decision.row} | {state} | {cells} | {outcome.evaluations:,.0f} |", flush=True)
    print()


@dataclass(frozen=True)
class Comparison:
    """Two decisions that a claim compares.

    Attributes:
        label: of the gain.
        method: with what the paper proposes.
        rival: without.
    """

    label: str
    method: Decision
    rival: Decision


def comparisons(decisions: Sequence[Decision]) -> Iterator[Comparison]:
    """Every gain of Table 11: of Sec. 3.2 over each of its rivals, of Sec. 3.3 over the weights without."""
    for one in decisions:
        others: Mapping[str, Decision | None] = {
            "Sec. 3.2 over undefended": gains.undefended(one),
            "Sec. 3.2 over its control R = 0": gains.own_control(one),
            **{f"Sec. 3.2 over the {defence_of(rival.defence).label}": rival for rival in gains.equal_cost(one)},
            "Sec. 3.3": gains.without_random_states(one),
        }
        yield from (Comparison(label, one, rival) for label, rival in others.items() if rival in decisions and rival)


def print_gains(trees: Sequence[Finished]) -> None:
    """What the suite leaves of each gain, seed by seed and pooled."""
    bootstrap = Bootstrap(10_000, 0.95, 0)
    outcome = cache(lambda number, decision: trees[number].outcome(decision))
    print(f"Points, with 95 % intervals, paired by image ({trees[0].images} images).\n")
    print(
        f"| gain | of | {' | '.join(f'seed {tree.seed}' for tree in trees)} | pooled |\n|{' --- |' * (len(trees) + 3)}"
    )
    for one in sorted(comparisons(union.decisions(trees[0].config)), key=lambda pair: pair.label):
        pairs = [(outcome(number, one.method), outcome(number, one.rival)) for number in range(len(trees))]
        by_seed = [_difference(method, rival, bootstrap) for method, rival in pairs if method and rival]
        if not by_seed:
            continue
        pooled = (
            intervals.pooled_difference([each.answers for each in by_seed], bootstrap) if len(by_seed) > 1 else None
        )
        cells = [*map(_shown, by_seed), *[""] * (len(trees) - len(by_seed)), "" if pooled is None else _shown(pooled)]
        print(f"| {one.label} | {one.method.row} | {' | '.join(cells)} |", flush=True)


def _difference(method: SuiteOutcome, rival: SuiteOutcome, bootstrap: Bootstrap) -> Estimate:
    first, second = (Term(one.crafted[None]) for one in (method, rival))
    found = intervals.paired_difference((first,), (second,), bootstrap)
    return replace(found, answers=(first, replace(second, sign=-1)))


def _shown(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


if __name__ == "__main__":
    raise SystemExit(main())
