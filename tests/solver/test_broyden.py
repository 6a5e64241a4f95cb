"""Broyden's method: its defining equations, the textbook's dense version, and pairs that cannot be built."""

import pytest
import torch

from deqpipe.solver.base import FixedPointMap
from deqpipe.solver.broyden import Broyden, BroydenState, inverse_jacobian
from deqpipe.solver.solve import Termination, solve
from tests.reference import textbook
from tests.solver.problems import SIZE, Curved, affine, start, tensors

SOLVER = Broyden()


def run(fn: FixedPointMap, steps: int, images: int = 2) -> BroydenState:
    state = SOLVER.init(fn, start(images))
    for _ in range(steps):
        state = SOLVER.step(fn, state)
    return state


def arbitrary(images: int = 2, *, seed: int = 3) -> torch.Tensor:
    """States that no step of the method leads to."""
    return torch.randn(images, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(state: BroydenState, image: int) -> torch.Tensor:
    """B^-1 of an image as a matrix, read off column by column."""
    columns = torch.eye(SIZE, dtype=torch.float64)
    return torch.stack([inverse_jacobian(state, column.expand_as(state.z))[image] for column in columns], dim=1)


@pytest.mark.parametrize("steps", range(1, 9))
def test_secant_equation_holds_after_every_step(steps: int) -> None:
    fn = Curved(2).of([0, 1])
    before, state = run(fn, steps - 1), run(fn, steps)
    torch.testing.assert_close(state.delta_z, state.z - before.z)
    torch.testing.assert_close(state.delta_residual, (fn(state.z) - state.z) - (fn(before.z) - before.z))
    torch.testing.assert_close(inverse_jacobian(state, state.delta_residual), state.delta_z, rtol=1e-9, atol=1e-11)


def test_states_are_those_of_the_dense_textbook_version() -> None:
    problem = Curved(3)
    fn = problem.of([0, 1, 2])
    solution, _ = solve(SOLVER, fn, SOLVER.init(fn, start(3)), termination=Termination(8))
    for image in range(3):
        expected = torch.stack(textbook.broyden(problem.single(image), start(1)[0], 8))
        torch.testing.assert_close(solution.states[:, image], expected, rtol=1e-8, atol=1e-9)


def test_solve_may_start_anywhere() -> None:
    problem = Curved(2)
    fn, z0 = problem.of([0, 1]), torch.full((2, SIZE), 0.3, dtype=torch.float64)
    solution, _ = solve(SOLVER, fn, SOLVER.init(fn, z0), termination=Termination(5))
    torch.testing.assert_close(solution.states[0], fn(z0))
    expected = torch.stack(textbook.broyden(problem.single(1), z0[1], 5))
    torch.testing.assert_close(solution.states[:, 1], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_affine_map_is_solved_within_twice_its_dimension_and_one_more_step(size: int) -> None:
    fn, fixed_point = affine(4, size=size, rate=0.9)
    state = SOLVER.init(fn, start(4, size))
    solution, _ = solve(SOLVER, fn, state, termination=Termination(2 * size + 1))
    closest = (solution.states - fixed_point).norm(dim=2).amin(0)
    assert (closest < 1e-7).all()
    assert ((solution.states[0] - fixed_point).norm(dim=1) > 1e-3).all()


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_moving_anywhere_appends_the_pair_of_that_move(steps: int) -> None:
    fn, z = Curved(2).of([0, 1]), arbitrary()
    before = run(fn, steps)
    state = SOLVER.advance(fn, before, z)
    assert state.z is z
    torch.testing.assert_close(state.residual, fn(z) - z)
    torch.testing.assert_close(state.delta_z, z - before.z)
    torch.testing.assert_close(state.delta_residual, state.residual - before.residual)
    torch.testing.assert_close(inverse_jacobian(state, state.delta_residual), z - before.z, rtol=1e-9, atol=1e-11)
    assert state.left.shape[1] == state.right.shape[1] == steps + 1
    assert torch.equal(state.left[:, :-1], before.left)
    assert torch.equal(state.right[:, :-1], before.right)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_moving_anywhere_changes_the_inverse_as_the_textbook_does(steps: int) -> None:
    fn = Curved(2).of([0, 1])
    before = run(fn, steps)
    state = SOLVER.advance(fn, before, arbitrary())
    for image in range(2):
        expected = textbook.sherman_morrison(dense(before, image), state.delta_z[image], state.delta_residual[image])
        torch.testing.assert_close(dense(state, image), expected, rtol=1e-8, atol=1e-9)


def test_forgetting_leaves_the_inverse_of_a_beginning() -> None:
    fn = Curved(2).of([0, 1])
    state = run(fn, 4)
    forgotten = SOLVER.forget(state)
    assert forgotten.z is state.z
    assert forgotten.residual is state.residual
    assert torch.equal(dense(forgotten, 0), -torch.eye(SIZE, dtype=torch.float64))
    fresh = SOLVER.init(fn, state.z)
    for name in ("left", "right", "delta_z", "delta_residual"):
        assert torch.equal(getattr(forgotten, name), getattr(fresh, name))


def test_steps_after_a_move_use_its_pair() -> None:
    fn = Curved(2).of([0, 1])
    state = SOLVER.advance(fn, SOLVER.forget(run(fn, 3)), arbitrary())
    for image in range(2):
        pairs = [(state.delta_z[image], state.delta_residual[image])]
        expected = textbook.broyden_step(state.z[image], state.residual[image], pairs)
        torch.testing.assert_close(SOLVER.propose(state)[image], expected, rtol=1e-9, atol=1e-10)


def test_rebase_to_the_same_function_is_nothing() -> None:
    fn = Curved(2).of([0, 1])
    state = run(fn, 4)
    rebased = SOLVER.rebase(fn, state)
    direct, _ = solve(SOLVER, fn, state, termination=Termination(4))
    after, _ = solve(SOLVER, fn, rebased, termination=Termination(4))
    assert torch.equal(rebased.z, state.z)
    torch.testing.assert_close(after.states, direct.states, rtol=1e-9, atol=1e-11)


def test_rebase_to_another_function_satisfies_its_secant_equation() -> None:
    old, new = Curved(2).of([0, 1]), Curved(2, seed=5).of([0, 1])
    state = run(old, 4)
    rebased = SOLVER.rebase(new, state)
    torch.testing.assert_close(rebased.residual, new(state.z) - state.z)
    corrected = state.delta_residual + (new(state.z) - old(state.z))
    torch.testing.assert_close(rebased.delta_residual, corrected)
    torch.testing.assert_close(inverse_jacobian(rebased, corrected), state.delta_z, rtol=1e-9, atol=1e-11)
    assert rebased.left.shape == state.left.shape
    assert torch.equal(rebased.left[:, :-1], state.left[:, :-1])
    assert not torch.allclose(rebased.left[:, -1], state.left[:, -1])


def test_rebase_before_the_first_step_has_no_pair_to_correct() -> None:
    old, new = Curved(2).of([0, 1]), Curved(2, seed=5).of([0, 1])
    rebased = SOLVER.rebase(new, SOLVER.init(old, start(2)))
    torch.testing.assert_close(rebased.residual, new(start(2)))
    assert rebased.left.shape[1] == 0


def test_reevaluation_keeps_iterate_and_memory_and_takes_the_residual_of_the_new_function() -> None:
    old, new = Curved(2).of([0, 1]), Curved(2, seed=5).of([0, 1])
    state = run(old, 3)
    moved = SOLVER.reevaluate(new, state)
    assert torch.equal(moved.left, state.left)
    assert torch.equal(moved.right, state.right)
    assert moved.z is state.z
    torch.testing.assert_close(moved.residual, new(state.z) - state.z)


def test_steps_do_not_change_the_state_they_are_given() -> None:
    fn = Curved(2).of([0, 1])
    state = run(fn, 2)
    copies = {name: value.clone() for name, value in tensors(state).items()}
    SOLVER.step(fn, state)
    SOLVER.rebase(fn, state)
    SOLVER.advance(fn, state, arbitrary())
    SOLVER.forget(state)
    assert all(torch.equal(copies[name], value) for name, value in tensors(state).items())


def test_solve_that_has_arrived_leaves_out_pairs_and_says_so() -> None:
    """f(z) = c is solved by the first step: from then on dz = dg = 0 and 0/0 stands in the pair."""
    target = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    solution, state = solve(
        SOLVER, lambda z: target, SOLVER.init(lambda z: target, 0 * target), termination=Termination(4)
    )
    assert torch.equal(solution.states, target.expand(4, 2, 2))
    assert state.skipped.tolist() == [3, 3]


def test_zero_denominator_of_one_image_is_its_own_affair() -> None:
    """f(z) = z + c has no fixed point and a residual that never changes."""
    problem = Curved(2)
    curved = problem.of([1])
    fn = lambda z: torch.cat([z[:1] + 1, curved(z[1:])])  # noqa: E731
    solution, state = solve(SOLVER, fn, SOLVER.init(fn, start(2)), termination=Termination(5))
    assert state.skipped.tolist() == [5, 0]
    assert torch.equal(solution.states[:, 0, 0], torch.arange(1.0, 6.0, dtype=torch.float64))
    expected = torch.stack(textbook.broyden(problem.single(1), start(1)[0], 5))
    torch.testing.assert_close(solution.states[:, 1], expected, rtol=1e-8, atol=1e-9)
