"""States of a model along its dynamics: which there are, what they cost, and that images never meet."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Status, Termination
from tests.reference import textbook
from tests.reference.tiny import images, tiny_model

N = 5
PLAIN = PlainDynamics(Broyden(), Termination(N))
MODEL = tiny_model(2)
SOLVERS = [Broyden(), Anderson(3), FixedPointIteration()]


def slow_states(model: DEQClassifier, x: torch.Tensor) -> list[torch.Tensor]:
    fn = model.bind(x)
    return textbook.broyden(lambda z: fn(z[None])[0], torch.zeros(model.state_size, dtype=torch.float64), N)


@torch.no_grad()
def test_states_are_those_of_textbook_broyden_from_zero_image_by_image() -> None:
    model, x = tiny_model(2, size=4), images(2, size=4)
    trajectory = PLAIN(model, x)
    for image in range(2):
        expected = slow_states(model, x[image : image + 1])
        for n in range(1, N + 1):
            torch.testing.assert_close(trajectory.state(n)[image], expected[n - 1], rtol=1e-7, atol=1e-8)


@torch.no_grad()
def test_states_count_from_one() -> None:
    x = images(2)
    trajectory = PLAIN(MODEL, x)
    torch.testing.assert_close(trajectory.state(1), MODEL.bind(x)(MODEL.initial_state(x)))
    assert torch.equal(trajectory.state(N), trajectory.solution.z)
    assert isinstance(PLAIN, Dynamics)
    assert trajectory.x is x


@pytest.mark.parametrize("n", [0, -1, N + 1])
def test_state_that_was_not_recorded_is_refused(n: int) -> None:
    trajectory = PLAIN(MODEL, images(1))
    with pytest.raises(IndexError, match=f"state {n} was asked for, but the solver recorded states 1 to {N}"):
        trajectory.state(n)


@pytest.mark.parametrize("n", [0, -1, N + 1])
def test_state_beyond_the_dynamics_is_refused(n: int) -> None:
    x = images(1)
    with pytest.raises(IndexError, match=f"state {n} was asked for, but the dynamics have states 1 to {N}"):
        PLAIN.state(MODEL, MODEL.bind(x), x, index=n)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("rtol", [0.0, 0.3])
def test_single_state_is_bit_for_bit_that_of_the_whole_trajectory(solver: Solver[Any], rtol: float) -> None:
    dynamics, x = PlainDynamics(solver, Termination(N, rtol)), images(3)
    trajectory = dynamics(MODEL, x)
    with torch.no_grad():
        fn = MODEL.bind(x)
        for n in range(1, N + 1):
            assert torch.equal(dynamics.state(MODEL, fn, x, index=n), trajectory.state(n))


def test_evaluations_are_one_more_than_states_and_as_many_as_the_index_of_a_single_one() -> None:
    model, x = tiny_model(1), images(3)
    PLAIN(model, x)
    assert model.f_evaluations == 3 * (N + 1)
    for index in range(1, N + 1):
        before = model.f_evaluations
        PLAIN.state(model, model.bind(x), x, index=index)
        assert model.f_evaluations - before == 3 * index


@pytest.mark.parametrize("steps", [1, 4])
def test_final_state_is_the_last_one_after_steps_that_go_half_the_way(steps: int) -> None:
    x = images(2)
    trajectory = PLAIN(MODEL, x)
    with torch.no_grad():
        fn, z = MODEL.bind(x), trajectory.state(N)
        for _ in range(steps):
            z = 0.5 * z + 0.5 * fn(z)
    torch.testing.assert_close(trajectory.final_state(Unrolled(steps=steps, damping=0.5)), z, rtol=1e-12, atol=1e-12)


def test_trajectory_carries_no_graph() -> None:
    x = images(1).requires_grad_()
    trajectory = PLAIN(MODEL, x)
    assert not trajectory.solution.states.requires_grad
    assert not trajectory.final_state(Unrolled(steps=1, damping=0.5)).requires_grad


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(5)), number=st.integers(1, 5))
def test_sample_does_not_depend_on_its_batch_mates(order: list[int], number: int) -> None:
    x, picked = images(5), order[:number]
    whole, part = PLAIN(MODEL, x), PLAIN(MODEL, x[picked])
    torch.testing.assert_close(part.solution.states, whole.solution.states[:, picked], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        part.final_state(Unrolled(steps=3, damping=0.5)),
        whole.final_state(Unrolled(steps=3, damping=0.5))[picked],
        rtol=1e-10,
        atol=1e-10,
    )
    with torch.no_grad():
        logits = MODEL.trajectory_logits(whole.solution.states)[:, picked]
        torch.testing.assert_close(MODEL.trajectory_logits(part.solution.states), logits, rtol=1e-9, atol=1e-9)


def test_image_that_is_not_finite_leaves_its_batch_mates_alone() -> None:
    x = images(3)
    healthy = PLAIN(MODEL, x)
    broken = x.clone()
    broken[1, 0, 2, 2] = torch.nan
    trajectory = PLAIN(MODEL, broken)
    assert trajectory.solution.status.tolist() == [Status.MAX_STEPS, Status.NONFINITE, Status.MAX_STEPS]
    kept = [0, 2]
    torch.testing.assert_close(
        trajectory.solution.states[:, kept], healthy.solution.states[:, kept], rtol=1e-12, atol=1e-12
    )
