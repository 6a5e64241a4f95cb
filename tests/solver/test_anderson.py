"""Anderson mixing against the textbook's least squares."""

import pytest
import torch

from deqpipe.solver.anderson import Anderson
from deqpipe.solver.solve import Termination, solve
from tests.reference import textbook
from tests.solver.problems import Curved, affine, start


@pytest.mark.parametrize("memory", [2, 3, 5])
def test_states_are_those_of_dense_least_squares_over_the_last_states(memory: int) -> None:
    problem, solver = Curved(3), Anderson(memory)
    fn = problem.of([0, 1, 2])
    solution, _ = solve(solver, fn, solver.init(fn, start(3)), termination=Termination(7))
    for image in range(3):
        expected = torch.stack(textbook.anderson(problem.single(image), start(1)[0], 7, memory=memory))
        torch.testing.assert_close(solution.states[:, image], expected, rtol=1e-6, atol=1e-7)


def test_affine_map_is_solved_within_its_dimension_and_one_more_step() -> None:
    fn, fixed_point = affine(3, size=4)
    solver = Anderson(memory=6)
    solution, _ = solve(solver, fn, solver.init(fn, start(3, 4)), termination=Termination(7))
    assert (solution.z - fixed_point).norm(dim=1).max() < 1e-5
    assert (solution.states[0] - fixed_point).norm(dim=1).min() > 1e-2


def test_memory_holds_one_difference_less_than_states() -> None:
    fn, _ = affine(2)
    solver = Anderson(memory=4)
    _, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(6))
    assert state.delta_z.shape[1] == state.delta_residual.shape[1] == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_that_depend_on_each_other_do_no_harm(dtype: torch.dtype) -> None:
    """A one-dimensional problem: all differences are parallel, and after two steps nothing but rounding is left."""
    solver = Anderson(memory=5)
    fn = lambda z: 0.9 * z + 1  # noqa: E731
    solution, _ = solve(solver, fn, solver.init(fn, torch.zeros(2, 3, dtype=dtype)), termination=Termination(30))
    assert (solution.states[2:] - 10).abs().max() < 100 * torch.finfo(dtype).eps * 10


def test_image_that_stagnates_stays_finite() -> None:
    target = torch.ones(2, 3, dtype=torch.float64)
    solver = Anderson(memory=3)
    solution, _ = solve(solver, lambda z: target, solver.init(lambda z: target, 0 * target), termination=Termination(5))
    assert torch.equal(solution.z, target)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_moving_anywhere_adds_the_differences_of_that_move_and_the_oldest_make_room(steps: int) -> None:
    fn, z = Curved(2).of([0, 1]), torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 6)
    solver = Anderson(memory=3)
    before = solver.init(fn, start(2))
    for _ in range(steps):
        before = solver.step(fn, before)
    state = solver.advance(fn, before, z)
    assert state.z is z
    torch.testing.assert_close(state.residual, fn(z) - z)
    torch.testing.assert_close(state.delta_z[:, -1], z - before.z)
    torch.testing.assert_close(state.delta_residual[:, -1], state.residual - before.residual)
    assert torch.equal(state.delta_z[:, :-1], before.delta_z[:, -1:])
    assert torch.equal(state.delta_residual[:, :-1], before.delta_residual[:, -1:])


@pytest.mark.parametrize("memory", [2, 3, 5])
def test_steps_after_a_move_are_those_of_dense_least_squares_over_the_differences(memory: int) -> None:
    fn, z = Curved(2).of([0, 1]), torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 6)
    solver = Anderson(memory)
    _, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(3))
    state = solver.advance(fn, state, z)
    for image in range(2):
        pairs = list(zip(state.delta_z[image], state.delta_residual[image], strict=True))
        expected = textbook.anderson_step(z[image], state.residual[image], pairs, memory=memory)
        torch.testing.assert_close(solver.propose(state)[image], expected, rtol=1e-7, atol=1e-8)


def test_rebase_corrects_the_newest_residual_difference_alone() -> None:
    old, new = Curved(2).of([0, 1]), Curved(2, seed=5).of([0, 1])
    solver = Anderson(memory=5)
    _, state = solve(solver, old, solver.init(old, start(2)), termination=Termination(3))
    rebased = solver.rebase(new, state)
    change = new(state.z) - old(state.z)
    torch.testing.assert_close(rebased.residual, new(state.z) - state.z)
    torch.testing.assert_close(rebased.delta_residual[:, -1], state.delta_residual[:, -1] + change)
    assert torch.equal(rebased.delta_residual[:, :-1], state.delta_residual[:, :-1])
    assert torch.equal(rebased.delta_z, state.delta_z)


@pytest.mark.parametrize("memory", [1, 0, -3])
def test_memory_that_mixes_nothing_is_refused(memory: int) -> None:
    with pytest.raises(ValueError, match=f"memory is {memory}.*at least 2"):
        Anderson(memory)
