"""Gradients through the way to a state, against finite differences in double precision of the same way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deqpipe.defence import entropy
from deqpipe.defence.entropy import (
    DifferentiableDescent,
    InputDescent,
    InputEntropyReduction,
    RestartedEntropyReduction,
    Schedule,
)
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.gradient.through import EXACT, Through, UpdateRule, moved_with
from deqpipe.model.interface import FixedPointModel
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from tests.reference.tiny import images, tiny_model
from tests.sampling import one_in

N, SIZE = 5, 4
MODEL = tiny_model(2, size=SIZE).requires_grad_(False)  # as under attack
X = images(2, size=SIZE) * 0.6 + 0.2  # no pixel at the border of [0, 1], where a projection has a kink
DESCENT = InputDescent(LinfBall(0.05), steps=2, step_size=0.02)
SOLVERS: list[Solver[Any]] = [Broyden(), Anderson(3), FixedPointIteration()]
PLAIN = PlainDynamics(Broyden(), Termination(N))
REDUCTION = InputEntropyReduction(Broyden(), Termination(N), DESCENT, Schedule(2))
RESTARTED = RestartedEntropyReduction(Broyden(), Termination(N), DESCENT, Schedule(2))
LOWEST = replace(REDUCTION, schedule=Schedule(2, lowest=True))
EVERY: list[Dynamics] = [PLAIN, REDUCTION, RESTARTED, LOWEST]
DEFENDED: list[InputEntropyReduction | RestartedEntropyReduction] = [REDUCTION, RESTARTED]


def value_and_gradient(dynamics: Dynamics, through: Through, state: int) -> tuple[Tensor, Tensor]:
    """A weighted sum of a state's logits, and its gradient to the images."""
    x = X.clone().requires_grad_()
    along = dynamics.up_to(state).with_gradient(MODEL, x, through)
    value = weighted(along.state(state))
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def weighted(z: Tensor) -> Tensor:
    logits = MODEL.logits(z)
    return (logits * torch.arange(1.0, logits.numel() + 1, dtype=logits.dtype).view_as(logits)).sum()


def slope(function: Callable[[Tensor], Tensor], direction: Tensor, step: float = 1e-6) -> Tensor:
    """A directional derivative at X by a central difference."""
    with torch.no_grad():
        return (function(X + step * direction) - function(X - step * direction)) / (2 * step)


def assert_is_derivative(gradient: Tensor, function: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        direction = torch.randn(X.shape, generator=generator, dtype=X.dtype)
        torch.testing.assert_close((gradient * direction).sum(), slope(function, direction), rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("dynamics", EVERY, ids=["plain", "alg1", "restarted", "lowest"])
@pytest.mark.parametrize("updates", ["constant", "straight_through"])
@pytest.mark.parametrize("single", [False, True], ids=["double", "single"])
def test_states_with_gradient_are_those_that_decide_bit_for_bit(
    dynamics: Dynamics, updates: UpdateRule, single: bool
) -> None:
    model = tiny_model(2, size=SIZE).requires_grad_(False).float() if single else MODEL
    x = X.float() if single else X
    for recompute in (False, True):
        through = Through(updates, recompute=recompute)
        along = dynamics.with_gradient(model, x.clone().requires_grad_(), through)
        expected = dynamics(model, x)
        assert torch.equal(along.solution.states, expected.solution.states)
        assert torch.equal(along.equilibrium, expected.equilibrium)
        assert torch.equal(along.x, expected.x)
        assert along.solution.states.requires_grad


@pytest.mark.parametrize("solver", SOLVERS, ids=["broyden", "anderson", "fixed_point"])
@pytest.mark.parametrize("state", [1, 2, N])
def test_gradient_through_a_solvers_steps_is_that_of_finite_differences(solver: Solver[Any], state: int) -> None:
    dynamics = PlainDynamics(solver, Termination(N))
    _, gradient = value_and_gradient(dynamics, EXACT, state)
    assert_is_derivative(gradient, lambda x: weighted(dynamics(MODEL, x).state(state)))


def test_an_image_that_stops_early_keeps_its_gradient() -> None:
    """By a tolerance between residuals that the two images have, one stops before the other."""
    tolerances = PLAIN(MODEL, X).solution.residuals.flatten().mul(1.01).tolist()
    stopping = (PlainDynamics(Broyden(), Termination(N, rtol=one)) for one in tolerances)
    dynamics = next(one for one in stopping if len(set(one(MODEL, X).solution.steps.tolist())) == 2)
    _, gradient = value_and_gradient(dynamics, EXACT, N)
    assert_is_derivative(gradient, lambda x: weighted(dynamics(MODEL, x).state(N)))


@dataclass(frozen=True)
class Recorded(InputDescent):
    """A descent whose every step moves by a function of its number and of where it is."""

    moves: Callable[[int, Tensor, Tensor], Tensor] = lambda number, z, x: x
    number: list[int] = field(default_factory=lambda: [0])

    def __call__(self, model: FixedPointModel, z: Tensor, x: Tensor, received: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = self.ball.project(x + self.moves(self.number[0], z, x), received)
            self.number[0] += 1
        return x


@dataclass(frozen=True)
class Updated(InputDescent):
    """A descent that moves the received input by changes that are known."""

    changes: Iterator[Tensor] = field(default_factory=lambda: iter(()))

    def __call__(self, model: FixedPointModel, z: Tensor, x: Tensor, received: Tensor) -> Tensor:
        return received + next(self.changes)


@dataclass(frozen=True)
class Watched(InputDescent):
    """The descent itself, whose changes are kept."""

    changes: list[Tensor] = field(default_factory=list)

    def __call__(self, model: FixedPointModel, z: Tensor, x: Tensor, received: Tensor) -> Tensor:
        self.changes.append(super().__call__(model, z, x, received) - received)
        return received + self.changes[-1]


def like(kind: type[Any], **more: Any) -> Any:
    return kind(DESCENT.ball, DESCENT.steps, DESCENT.step_size, **more)


def entropy_gradient(z: Tensor, x: Tensor) -> Tensor:
    return entropy._entropy_gradient(MODEL, lambda moved: MODEL.bind(moved)(z), x)


def recording(monkeypatch: pytest.MonkeyPatch, dynamics: Any) -> list[Tensor]:
    """The gradients of the entropy that the descents meet at X, in order."""
    met: list[Tensor] = []
    plain = entropy._entropy_gradient

    def watched(model: FixedPointModel, value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        met.append(plain(model, value, x))
        return met[-1]

    with monkeypatch.context() as patch:
        patch.setattr(entropy, "_entropy_gradient", watched)
        dynamics(MODEL, X)
    assert met
    return met


def with_moves(dynamics: Any, moves: Callable[[int, Tensor, Tensor], Tensor], state: int) -> Callable[[Tensor], Tensor]:
    def value(x: Tensor) -> Tensor:
        moving = replace(dynamics, descent=like(Recorded, moves=moves))
        return weighted(moving.up_to(state)(MODEL, x).state(state))

    return value


defended = pytest.mark.parametrize("dynamics", DEFENDED, ids=["alg1", "restarted"])


@defended
def test_constant_updates_move_the_input_by_what_they_moved_it_by(dynamics: Any) -> None:
    watched = like(Watched)
    replace(dynamics, descent=watched)(MODEL, X)

    def value(x: Tensor) -> Tensor:
        return weighted(replace(dynamics, descent=like(Updated, changes=iter(watched.changes)))(MODEL, x).state(N))

    _, gradient = value_and_gradient(dynamics, EXACT, N)
    assert_is_derivative(gradient, value)


@defended
def test_a_straight_through_sign_counts_as_the_gradient_over_its_mean(
    dynamics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = recording(monkeypatch, dynamics)
    _, gradient = value_and_gradient(dynamics, Through("straight_through"), N)

    def moves(number: int, z: Tensor, x: Tensor) -> Tensor:
        at_x = met[number]
        mean = at_x.abs().mean((1, 2, 3), keepdim=True)
        return -DESCENT.step_size * (at_x.sign() + (entropy_gradient(z, x) - at_x) / mean)

    assert_is_derivative(gradient, with_moves(dynamics, moves, N))


@defended
@pytest.mark.parametrize("sharpness", one_in(2, [0.5, 4.0]))
def test_smoothed_updates_are_differentiated_as_they_are(dynamics: Any, sharpness: float) -> None:
    value, gradient = value_and_gradient(dynamics, Through("smoothed", sharpness=sharpness), N)
    means: list[Tensor] = []

    def moves(number: int, z: Tensor, x: Tensor) -> Tensor:
        at = entropy_gradient(z, x)
        if number == len(means):
            means.append(at.abs().mean((1, 2, 3), keepdim=True))
        return -DESCENT.step_size * torch.tanh(sharpness * at / means[number])

    smooth = with_moves(dynamics, moves, N)
    torch.testing.assert_close(smooth(X), value)
    assert_is_derivative(gradient, smooth)


def test_smoothed_updates_come_close_to_the_sign_where_they_are_sharp() -> None:
    exact = REDUCTION(MODEL, X).state(N)
    near, far = (
        REDUCTION.with_gradient(MODEL, X, Through("smoothed", sharpness=sharpness)).state(N) - exact
        for sharpness in (1e6, 1.0)
    )
    assert near.abs().max() < 1e-3 * far.abs().max()


@defended
def test_gradient_through_steps_along_the_raw_gradient_is_that_of_finite_differences(dynamics: Any) -> None:
    raw = replace(dynamics, descent=replace(DESCENT, sign=False, step_size=0.5))
    _, gradient = value_and_gradient(raw, Through("straight_through"), N)
    assert_is_derivative(gradient, lambda x: weighted(raw(MODEL, x).state(N)))


@defended
def test_a_projection_counts_as_it_is(dynamics: Any) -> None:
    """Steps far larger than the ball: every pixel sits at its border, and the input moves with the received one."""
    raw = replace(dynamics, descent=replace(DESCENT, sign=False, step_size=1e6))
    _, gradient = value_and_gradient(raw, Through("straight_through"), N)
    assert_is_derivative(gradient, lambda x: weighted(raw(MODEL, x).state(N)))


@pytest.mark.parametrize("updates", ["constant", "straight_through", "smoothed"])
def test_what_is_computed_again_has_the_same_gradient(updates: UpdateRule) -> None:
    kept = value_and_gradient(REDUCTION, Through(updates), N)
    again = value_and_gradient(REDUCTION, Through(updates, recompute=True), N)
    torch.testing.assert_close(again, kept, rtol=1e-12, atol=1e-14)


def test_an_image_has_the_gradient_that_it_has_alone() -> None:
    for through in (EXACT, Through("straight_through")):
        x = X.clone().requires_grad_()
        weights = torch.ones(MODEL.classes, dtype=X.dtype)
        both = REDUCTION.with_gradient(MODEL, x, through).state(N)
        (together,) = torch.autograd.grad((MODEL.logits(both) * weights).sum(), x)
        for number in range(len(X)):
            one = X[number : number + 1].clone().requires_grad_()
            z = REDUCTION.with_gradient(MODEL, one, through).state(N)
            (alone,) = torch.autograd.grad((MODEL.logits(z) * weights).sum(), one)
            torch.testing.assert_close(together[number], alone[0], rtol=1e-9, atol=1e-12)


def test_interventions_are_what_the_updates_look_at() -> None:
    along = REDUCTION.with_gradient(MODEL, X)
    assert [one.after for one in along.interventions] == [2, 4]
    assert torch.equal(along.interventions[0].z, PLAIN(MODEL, X).state(2))
    assert torch.equal(
        along.interventions[0].fn(X.new_zeros(2, MODEL.state_size)), MODEL.bind(X)(X.new_zeros(2, MODEL.state_size))
    )
    assert not REDUCTION(MODEL, X).interventions


@pytest.mark.parametrize(
    ("through", "forward", "backward"),
    # N + 4 f of a solve that ends with its last state, of which two are solved again; 2 x 2 descent steps with a
    # backward pass each. Through them a second one goes, and one through f again, which the next update needs as well.
    [(EXACT, 7 + 4, 7 + 4), (Through("straight_through"), 7 + 4, 7 + 4 + 2 * 4)],
)
def test_evaluations_are_counted(through: Through, forward: int, backward: int) -> None:
    before = MODEL.counter.counted
    value_and_gradient(REDUCTION, through, N)
    counted = MODEL.counter.counted - before
    assert (counted.forward / len(X), counted.backward_input / len(X)) == (forward, backward)


def test_moved_input_has_the_value_of_one_and_the_gradient_of_the_other() -> None:
    received, value = X.clone().requires_grad_(), torch.rand_like(X)
    moved = moved_with(value, received)
    assert torch.equal(moved, value)
    moved.sum().backward()
    assert torch.equal(received.grad, torch.ones_like(X))  # type: ignore[arg-type]


@pytest.mark.parametrize("sharpness", [0.0, -1.0, float("nan")])
def test_a_sharpness_that_smooths_nothing_is_refused(sharpness: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Through("smoothed", sharpness=sharpness)


def test_a_descent_without_gradient_gives_the_same_input() -> None:
    z = PLAIN(MODEL, X).state(2)
    for updates in ("constant", "straight_through"):
        moved = DifferentiableDescent(DESCENT, Through(updates))(MODEL, z, X, X)
        assert torch.equal(moved, DESCENT(MODEL, z, X, X))
