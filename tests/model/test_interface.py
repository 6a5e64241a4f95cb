"""A model of one's own is attacked as our own is: the same numbers, and the same count of evaluations of f."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deqpipe.attack import suite as attacks
from deqpipe.attack.suite import Batch, Victim
from deqpipe.attack.surrogate import stacked_surrogate_of, surrogate_of
from deqpipe.defence.entropy import InputDescent, InputEntropyReduction, Schedule
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.model.adapter import AdaptedModel, adapted
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.interface import FixedPointModel, UserModel
from deqpipe.seeding import Stream
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.suite_attacks import suite_attacks
from tests.analysis.suites import asked
from tests.reference.tiny import images, tiny_model

SIZE, N = 4, 4
BALL = LinfBall(0.02)
SUITE = asked(iterations=1, restarts=1, targets=2, long=(2,), queries=3, decision_queries=3)
PLAIN = PlainDynamics(Broyden(), Termination(N))
REDUCTION = InputEntropyReduction(Broyden(), Termination(N), InputDescent(BALL, steps=1, step_size=0.01), Schedule(2))


class Own(nn.Module):
    """The least that somebody writes."""

    def __init__(self, model: DEQClassifier) -> None:
        super().__init__()
        self.model = model

    def bind(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        fn = self.model.bind(x)
        return lambda z: fn(z)

    def initial_state(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.model.state_size)

    def logits(self, z: Tensor) -> Tensor:
        return self.model.logits(z)


def both() -> tuple[DEQClassifier, AdaptedModel]:
    ours = tiny_model(2, size=SIZE).requires_grad_(False)
    theirs = adapted(Own(tiny_model(2, size=SIZE)), images(1, size=SIZE))
    assert isinstance(theirs, AdaptedModel)
    return ours, theirs


def test_what_is_a_model_with_states_is_seen_by_what_it_offers() -> None:
    ours, theirs = both()
    assert isinstance(ours, FixedPointModel)
    assert isinstance(theirs, FixedPointModel)
    assert isinstance(theirs.inner, UserModel)
    assert not isinstance(theirs.inner, FixedPointModel)
    network = nn.Linear(1, 1)
    assert adapted(network, images(1)) is network
    assert not isinstance(network, UserModel)
    assert adapted(ours, images(1)) is ours


def test_a_model_is_frozen_and_in_evaluation_mode_and_its_shapes_are_known() -> None:
    ours, _ = both()
    theirs = adapted(Own(tiny_model(2, size=SIZE)).train(), images(2, size=SIZE))
    assert isinstance(theirs, AdaptedModel)
    assert not any(module.training for module in theirs.inner.modules())
    assert not any(parameter.requires_grad for parameter in theirs.parameters())
    wanted = (ours.image_shape, ours.classes, ours.state_size)
    assert (theirs.image_shape, theirs.classes, theirs.state_size) == wanted


@pytest.mark.parametrize("dynamics", [PLAIN, REDUCTION], ids=["plain", "defended"])
@pytest.mark.parametrize("name", ["exact_margin", "unrolled_margin", "adjoint_margin", "straight_through"])
def test_attacks_come_to_the_same_at_the_same_cost(dynamics: Dynamics, name: str) -> None:
    attack, x = suite_attacks(SUITE)[name], images(2, size=SIZE)
    crafted, counted = [], []
    for model in both():
        victim = Victim(model, BALL, dynamics, 3, PLAIN)
        if victim.kind not in attack.against:
            pytest.skip("not against such a decision")
        y, before = victim.logits(x).argmax(1), model.counter.counted
        crafted.append(attacks.run(attack, victim, Batch(x, y, [0, 1]), stream=Stream(0, name), suite=SUITE))
        counted.append(model.counter.counted - before)
    assert torch.equal(crafted[0].images, crafted[1].images)
    assert torch.equal(crafted[0].margin, crafted[1].margin)
    assert counted[0] == counted[1]


def test_surrogates_of_several_attacks_share_a_solve_with_a_model_of_ones_own() -> None:
    points = [GridPoint(damping=0.5, state=2, steps=steps) for steps in (3, 1)]
    x = images(2, size=SIZE).requires_grad_()
    stacked = stacked_surrogate_of(points, dynamics=PLAIN, lead_step=False)
    alone = [surrogate_of(point, dynamics=PLAIN, lead_step=False) for point in points]
    ours, theirs = both()
    logits = stacked(theirs, torch.cat([x, x]))
    assert torch.equal(logits, stacked(ours, torch.cat([x, x])))
    torch.testing.assert_close(logits, torch.cat([one(theirs, x) for one in alone]))
