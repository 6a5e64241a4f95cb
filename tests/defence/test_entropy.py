"""Input entropy reduction against Algorithm 1 written out for one image, with dense matrices."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqpipe.config import Entropy
from deqpipe.defence.entropy import InputEntropyReduction, build_entropy_reduction, prediction_entropy
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Status, Termination
from deqpipe.threat_model import LinfBall
from tests.reference import slow_mdeq, textbook
from tests.reference.tiny import images, tiny_model

N, SIZE = 6, 4
MODEL = tiny_model(2, size=SIZE)
BALL = LinfBall(0.05)
REDUCTION = InputEntropyReduction(
    solver=Broyden(), termination=Termination(N), ball=BALL, solver_steps=2, input_steps=3, step_size=0.02
)
PLAIN = PlainDynamics(Broyden(), Termination(N))


def slow(image: torch.Tensor, reduction: InputEntropyReduction) -> tuple[torch.Tensor, torch.Tensor]:
    weights, shapes = MODEL.state_dict(), MODEL.scale_shapes
    states, x = textbook.algorithm_1(
        lambda z, x: slow_mdeq.f(weights, z, x, shapes=shapes, groups=4),
        lambda z: slow_mdeq.head(weights, z, shapes=shapes),
        image,
        torch.zeros(MODEL.state_size, dtype=torch.float64),
        steps=reduction.termination.max_steps,
        solver_steps=reduction.solver_steps,
        input_steps=reduction.input_steps,
        step_size=reduction.step_size,
        epsilon=reduction.ball.epsilon,
        sign=reduction.sign,
        update_last=reduction.update_last,
    )
    return torch.stack(states), x


CASES = [
    REDUCTION,
    replace(REDUCTION, solver_steps=1, input_steps=2),
    replace(REDUCTION, solver_steps=3, input_steps=1),
    replace(REDUCTION, solver_steps=N),
    replace(REDUCTION, solver_steps=4),
    replace(REDUCTION, update_last=False),
    replace(REDUCTION, solver_steps=N, update_last=False),
    replace(REDUCTION, sign=False, step_size=0.5),
    replace(REDUCTION, step_size=0.04),
]


@pytest.mark.parametrize("reduction", CASES)
def test_states_and_input_are_those_of_algorithm_1(reduction: InputEntropyReduction) -> None:
    x = images(2, size=SIZE)
    trajectory = reduction(MODEL, x)
    for n, image in enumerate(x):
        states, updated = slow(image, reduction)
        torch.testing.assert_close(trajectory.x[n], updated, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(trajectory.solution.states[:, n], states, rtol=1e-6, atol=1e-7)


def test_cases_differ_from_each_other_and_from_the_plain_dynamics() -> None:
    """So that none of them agrees with its slow version by doing nothing."""
    x = images(1, size=SIZE)
    plain = PLAIN(MODEL, x).state(N)
    last = [case(MODEL, x).state(N) for case in CASES]
    for n, state in enumerate(last):
        dead = CASES[n].solver_steps == N and not CASES[n].update_last
        assert torch.equal(state, plain) == dead
        assert not any(torch.allclose(state, other, rtol=1e-6) for other in last[:n])


@pytest.mark.parametrize("solver", [Broyden(), Anderson(3), FixedPointIteration()])
@pytest.mark.parametrize(
    "changes", [{"input_steps": 0}, {"solver_steps": N + 1}, {"solver_steps": N, "update_last": False}]
)
def test_without_an_update_these_are_the_plain_dynamics_bit_for_bit(
    solver: Solver[Any], changes: dict[str, Any]
) -> None:
    x = images(3, size=SIZE)
    trajectory = replace(REDUCTION, solver=solver, **changes)(MODEL, x)
    plain = PlainDynamics(solver, Termination(N))(MODEL, x)
    assert torch.equal(trajectory.solution.states, plain.solution.states)
    assert torch.equal(trajectory.solution.residuals, plain.solution.residuals)
    assert torch.equal(trajectory.solution.status, plain.solution.status)
    assert torch.equal(trajectory.solution.steps, plain.solution.steps)
    assert torch.equal(
        trajectory.final_state(Unrolled(steps=3, damping=0.5)), plain.final_state(Unrolled(steps=3, damping=0.5))
    )
    assert torch.equal(trajectory.x, x)


def test_without_an_update_images_stop_as_in_the_plain_dynamics() -> None:
    x = images(4, size=SIZE)
    rtol = float(PLAIN(MODEL, x).solution.residuals[:3].amin(0).median())
    plain = PlainDynamics(Broyden(), Termination(N, rtol))(MODEL, x).solution
    assert set(plain.status.tolist()) == {Status.CONVERGED, Status.MAX_STEPS}
    assert plain.steps.min() < N
    defended = replace(REDUCTION, termination=Termination(N, rtol), input_steps=0)(MODEL, x).solution
    assert torch.equal(defended.states, plain.states)
    assert torch.equal(defended.status, plain.status)
    assert torch.equal(defended.steps, plain.steps)


def test_states_before_the_first_update_are_plain_and_those_from_it_on_are_not() -> None:
    x = images(2, size=SIZE)
    defended, plain = replace(REDUCTION, solver_steps=3)(MODEL, x), PLAIN(MODEL, x)
    for n in (1, 2):
        assert torch.equal(defended.state(n), plain.state(n))
    for n in (3, 4, 5, 6):
        assert not torch.allclose(defended.state(n), plain.state(n), rtol=1e-4)


@pytest.mark.parametrize("sign", [True, False])
def test_entropy_falls(sign: bool) -> None:
    x = images(3, size=SIZE)
    small = replace(REDUCTION, solver_steps=N, input_steps=2, sign=sign, step_size=1e-3 if sign else 1e-2)
    updated, z = small(MODEL, x).x, PLAIN(MODEL, x).state(N)

    def entropies(image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return prediction_entropy(MODEL.logits(MODEL.bind(image)(z)))

    assert (entropies(updated) < entropies(x)).all()


@pytest.mark.parametrize("step_size", [0.02, 0.3])
def test_input_stays_in_the_ball_around_the_received_image_and_in_the_pixel_range(step_size: float) -> None:
    x = images(4, size=SIZE)
    updated = replace(REDUCTION, step_size=step_size)(MODEL, x).x
    assert (updated - x).abs().max() <= BALL.epsilon + 1e-12
    assert updated.min() >= 0
    assert updated.max() <= 1
    assert (updated - x).abs().max() > 0.9 * BALL.epsilon


def test_final_state_is_unrolled_with_the_updated_or_the_received_input() -> None:
    x = images(2, size=SIZE)
    updated, original = REDUCTION(MODEL, x), replace(REDUCTION, final_updated=False)(MODEL, x)
    assert torch.equal(updated.solution.states, original.solution.states)
    for trajectory, image in ((updated, updated.x), (original, x)):
        with torch.no_grad():
            fn, z = MODEL.bind(image), trajectory.state(N)
            for _ in range(2):
                z = 0.5 * z + 0.5 * fn(z)
        torch.testing.assert_close(trajectory.final_state(Unrolled(steps=2, damping=0.5)), z, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(
        updated.final_state(Unrolled(steps=2, damping=0.5)), original.final_state(Unrolled(steps=2, damping=0.5))
    )


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(4)), number=st.integers(1, 4))
def test_sample_does_not_depend_on_its_batch_mates(order: list[int], number: int) -> None:
    x, picked = images(4, size=SIZE), order[:number]
    whole, part = REDUCTION(MODEL, x), REDUCTION(MODEL, x[picked])
    torch.testing.assert_close(part.x, whole.x[picked], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(part.solution.states, whole.solution.states[:, picked], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("solver_steps", "updates"), [(1, 6), (2, 3), (4, 1), (6, 1), (7, 0)])
def test_every_update_costs_its_gradients_and_one_evaluation_more(solver_steps: int, updates: int) -> None:
    model, x = tiny_model(1, size=SIZE), images(2, size=SIZE)
    replace(REDUCTION, solver_steps=solver_steps)(model, x)
    assert model.f_evaluations == 2 * (N + 1 + updates * (REDUCTION.input_steps + 1))


def test_reduction_leaves_parameters_alone() -> None:
    model = tiny_model(2, size=SIZE)
    assert isinstance(REDUCTION, Dynamics)
    trajectory = REDUCTION(model, images(2, size=SIZE))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not trajectory.solution.states.requires_grad
    assert not trajectory.x.requires_grad


def test_image_that_is_not_finite_is_reported_and_leaves_its_mates_alone() -> None:
    x = images(3, size=SIZE)
    healthy = REDUCTION(MODEL, x)
    broken = x.clone()
    broken[1, 0, 0, 0] = torch.nan
    trajectory = REDUCTION(MODEL, broken)
    assert trajectory.solution.status.tolist() == [Status.MAX_STEPS, Status.NONFINITE, Status.MAX_STEPS]
    torch.testing.assert_close(trajectory.x[[0, 2]], healthy.x[[0, 2]], rtol=1e-10, atol=1e-10)


def test_image_that_has_stopped_reduces_the_entropy_at_the_state_it_stopped_at() -> None:
    """With a tolerance that every image meets at once, all states are the start."""
    x = images(2, size=SIZE)
    loose = replace(REDUCTION, termination=Termination(N, rtol=1e9), solver_steps=N)
    trajectory, first = loose(MODEL, x), MODEL.initial_state(x)
    assert trajectory.solution.status.tolist() == [Status.CONVERGED] * 2
    assert torch.equal(trajectory.state(N), first)
    expected = x
    for _ in range(loose.input_steps):
        image = expected.clone().requires_grad_()
        entropy = prediction_entropy(MODEL.logits(MODEL.bind(image)(first))).sum()
        (gradient,) = torch.autograd.grad(entropy, image)
        expected = BALL.project(expected - loose.step_size * gradient.sign(), x)
    torch.testing.assert_close(trajectory.x, expected)


@pytest.mark.parametrize("classes", [2, 10])
def test_entropy_is_in_nats_and_largest_for_equal_logits(classes: int) -> None:
    flat = torch.full((1, classes), 3.0, dtype=torch.float64)
    assert float(prediction_entropy(flat)) == pytest.approx(math.log(classes))
    sure = flat.clone()
    sure[0, 0] = 1e4
    assert float(prediction_entropy(sure)) == 0
    logits = torch.randn(4, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([textbook.entropy(row) for row in logits])
    torch.testing.assert_close(prediction_entropy(logits), expected)


def test_config_describes_the_reduction() -> None:
    settings = {
        "solver_steps": 3, "input_steps": 4, "step_size_255": 51.0, "step": "raw", "resolve": "alg1",
        "last_update": "dead", "state": "last", "final_input": "original",
    }  # fmt: skip
    built = build_entropy_reduction(
        Entropy.model_validate(settings), solver=Anderson(3), termination=Termination(4), ball=BALL
    )
    assert built == InputEntropyReduction(
        solver=Anderson(3),
        termination=Termination(4),
        ball=BALL,
        solver_steps=3,
        input_steps=4,
        step_size=0.2,
        sign=False,
        update_last=False,
        final_updated=False,
    )
    changed = settings | {"step": "sign", "last_update": "resolve", "final_input": "updated"}
    built = build_entropy_reduction(
        Entropy.model_validate(changed), solver=Anderson(3), termination=Termination(4), ball=BALL
    )
    assert (built.sign, built.update_last, built.final_updated) == (True, True, True)
