"""Decisions made to fool attacks: the checks of the suite's records say so, and say nothing of a healthy one."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deqpipe.analysis import radius, sanity
from deqpipe.analysis import suite as analysis
from deqpipe.analysis.answers import FINAL
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.sanity import Finding
from deqpipe.attack import suite as attacks
from deqpipe.attack.suite import Batch, Victim
from deqpipe.evaluation.evaluated_model import EvaluatedModel
from deqpipe.evaluation.judge import NetworkJudge
from deqpipe.evaluation.scoring import Columns
from deqpipe.evaluation.suite_target import SuiteTarget
from deqpipe.results.records import Records
from deqpipe.seeding import Stream
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import vocabulary
from deqpipe.workflow.suite_attacks import SuiteAttack, against, suite_attacks
from tests.analysis.suites import asked, stored

IMAGES, SHAPE, CLASSES, EPSILON = 40, (1, 4, 4), 4, 0.1
DECISION = Decision(vocabulary.FEEDFORWARD[0], "plain")
SUITE = asked(
    iterations=12, restarts=2, targets=2, long=(10, 20), queries=60, decision_queries=60, images=IMAGES,
    radii=(0.0, 1.0, 4.5), radius_images=IMAGES,
)  # fmt: skip
Network = Callable[[Tensor], Tensor]
X = torch.rand(IMAGES, *SHAPE, generator=torch.Generator().manual_seed(3))
MARKS = torch.arange(IMAGES) % CLASSES
X[:, 0, 0, 0], X[:, 0, 0, 1] = (MARKS // 2).float(), (MARKS % 2).float()


class Decided(nn.Module):
    """A network as a function gives it."""

    def __init__(self, function: Network) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.function(x)


def _weights(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FIRST, SECOND = 0.5 * _weights(16, 10, seed=1), _weights(10, CLASSES, seed=2)


def healthy(x: Tensor) -> Tensor:
    return torch.tanh((x - 0.5).flatten(1) @ FIRST) @ SECOND


def masked(x: Tensor) -> Tensor:
    """Steps as of a staircase: a gradient of zero almost everywhere."""
    return torch.round(1e4 * healthy(x)) / 1e4


def randomised(x: Tensor) -> Tensor:
    return healthy(x) + 0.3 * torch.randn(len(x), CLASSES)


def leaking(x: Tensor) -> Tensor:
    """Reads the class off marks in two pixels, black or white, which no change below a half hides."""
    mark = (2 * x[:, 0, 0, 0].round() + x[:, 0, 0, 1].round()).long()
    return nn.functional.one_hot(mark, CLASSES) * 100.0 + healthy(x)


class Named(EvaluatedModel):
    """A model of which a target asks the name and its states alone."""

    def __init__(self) -> None:
        object.__setattr__(self, "name", DECISION.model)

    def final_point(self) -> None:
        """It has no states."""


def target(network: Network, epsilon: float = EPSILON) -> SuiteTarget:
    model = Decided(network)
    return SuiteTarget(Named(), NetworkJudge(model, DECISION.model), Victim(model, LinfBall(epsilon)))


def attacked(
    one: SuiteTarget, attack: SuiteAttack, standing: np.ndarray, y: Tensor, best: Tensor
) -> tuple[Columns, Tensor]:
    """As the stage does: the rows of an attack on the images that are right when clean, and its images."""
    x, label, images = X[standing], y[standing], [int(number) for number in standing]
    warm = best[standing] if attack.warm else None
    crafted = attacks.run(attack, one.victim, Batch(x, label, images, warm), stream=Stream(0, attack.name), suite=SUITE)
    return one.attacked_rows(attack.name, images, x, label, crafted, per_step=1.0), crafted.images


def labels(network: Network) -> Tensor:
    return MARKS if network is leaking else healthy(X).argmax(1)


@cache
def found(network: Network) -> dict[str, Finding]:
    """What the checks say after all attacks, and after those of Figure 7."""
    torch.manual_seed(0)
    return {finding.check: finding for finding in sanity.findings([suite_on(network)], [curve_on(network)])}


def suite_on(network: Network) -> analysis.SuiteOutcome:
    one, y, best = target(network), labels(network), X.clone()
    flags = [] if torch.equal(network(X), network(X)) else ["decision is not deterministic: two answers to an image"]
    parts = [one.clean_rows(range(IMAGES), X, y)]
    standing = np.flatnonzero(parts[0]["broken_at"] < 0)
    for attack in against(SUITE, "network"):
        rows, made = attacked(one, attack, standing, y, best)
        parts.append(rows)
        best[standing] = made
    records = Records(stored(parts), ({"flags": flags},))
    return analysis.outcome(records, DECISION, SUITE, state=FINAL, images=IMAGES, sources=())


def curve_on(network: Network) -> radius.RadiusCurve:
    y, parts = labels(network), [target(network).clean_rows(range(IMAGES), X, labels(network))]
    standing = np.flatnonzero(parts[0]["broken_at"] < 0)
    for factor in SUITE.radii:
        one = target(network, factor * EPSILON)
        for name in (radius.ATTACK, radius.NOISE):
            parts.append(attacked(one, suite_attacks(SUITE)[name], standing, y, X)[0])
    within = [factor * EPSILON for factor in SUITE.radii]
    return radius.curve(Records(stored(parts), ()), DECISION, state=FINAL, images=IMAGES, within=within, sources=())


def failed(network: Network) -> set[str]:
    return {name for name, finding in found(network).items() if finding.verdict == "failed"}


def test_of_a_healthy_decision_no_check_fails() -> None:
    assert not failed(healthy)
    verdicts = {finding.verdict for finding in found(healthy).values()}
    assert "passed" in verdicts


@pytest.mark.parametrize(
    ("network", "checks"),
    [
        (masked, {"lost gradients"}),
        (randomised, {"deterministic"}),
        (leaking, {"never succeeds", "reaches zero"}),
    ],
    ids=["masked gradient", "randomised output", "label leak"],
)
def test_what_fools_attacks_is_found(network: Network, checks: set[str]) -> None:
    assert checks <= failed(network), {name: one.words for name, one in found(network).items()}
