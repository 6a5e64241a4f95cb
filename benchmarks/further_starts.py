"""What further random starts turn of what a suite has left: how loose its number still is (docs/what_remains.md).

python -m benchmarks.further_starts RESULTS [--images 96] [--seed 0] [--configfile F ...] [--models M ...] [--defence D]

RESULTS has a finished `attack_suite` of the decisions. The images that withstood it are attacked again, from starts of
other random numbers, by one attack after the other; an image that falls is gone. Where nothing falls any more, more of
the same attacks would not lower the number.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import deqpipe
from benchmarks.what_remains import Finished
from deqpipe import build, config
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.suite import SuiteOutcome
from deqpipe.api import Model
from deqpipe.attack.suite import Batch, Victim, run
from deqpipe.config import AttackSuiteConfig
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Labels
from deqpipe.workflow.suite_attacks import SuiteAttack, suite_attacks
from deqpipe.workflow.vocabulary import DEQS

ATTACKS = ("exact_margin", "exact_targeted", "unrolled_margin", "unrolled_cross_entropy", "average_margin")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[Path("config/demo.yaml")])
    parser.add_argument("--models", nargs="+", choices=DEQS, default=DEQS)
    parser.add_argument("--defence", default="entropy")
    parser.add_argument("--attacks", nargs="+", default=ATTACKS)
    parser.add_argument("--starts", type=int, default=8, help="of each attack; unrolled ones take four states in turn")
    options = parser.parse_args(arguments)
    asked = config.load([Path("config.yaml"), *options.configfile])
    assert isinstance(asked.suite, AttackSuiteConfig)
    suite = asked.suite.model_copy(update={"restarts": options.starts, "targets": options.starts})
    x, y = deqpipe.images(options.results / "data/dataset.safetensors", count=options.images)
    print(f"| decision | after the suite | {' | '.join(options.attacks)} |\n|{' --- |' * (2 + len(options.attacks))}")
    for name in options.models:
        decision = Decision(name, options.defence)
        outcome = Finished(options.results, asked, options.seed, options.images).outcome(decision)
        if outcome is None:
            continue
        model = deqpipe.load(options.results / f"models/{name}/seed{options.seed}/best.safetensors")
        counts = Again(model, outcome, suite, x, y).left(options.attacks)
        print(f"| {decision.row} | {' | '.join(map(str, counts))} |", flush=True)
    return 0


@dataclass(frozen=True)
class Again:
    """A decision that has faced the suite.

    Attributes:
        model: whose.
        outcome: of the suite.
        suite: what each attack spends now.
        x, y: the test images, from the first one on.
    """

    model: Model
    outcome: SuiteOutcome
    suite: AttackSuiteConfig
    x: Images
    y: Labels

    def left(self, attacks: Sequence[str]) -> list[int]:
        """How many images withstand the suite, and then each attack and all before it."""
        images = torch.from_numpy(self.outcome.crafted.nonzero()[0])
        counts = [len(images)]
        for name in attacks:
            images = images[self._withstands(suite_attacks(self.suite)[name], images)]
            counts.append(len(images))
        return counts

    def _withstands(self, attack: SuiteAttack, images: torch.Tensor) -> torch.Tensor:
        """(images,) whether the decision stays right."""
        batch = Batch(self.x[images], self.y[images], images.tolist())
        made = run(attack, self._victim, batch, stream=Stream(0, f"further/{attack.name}"), suite=self.suite)
        return made.broken_at < 0

    @property
    def _victim(self) -> Victim:
        settings, defence = self.model.settings, self.outcome.decision.defence
        plain = build.plain_dynamics(settings)
        dynamics = build.dynamics(settings, defence)
        return Victim(self.model.network, self.model.ball, dynamics, self.outcome.state, plain)


if __name__ == "__main__":
    raise SystemExit(main())
