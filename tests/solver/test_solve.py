"""What holds for every solver: the loop, when images stop, how the outcome is told, and that images never meet."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqpipe.config import Solver as SolverConfig
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import FixedPointMap, Solver, SolverState, relative_residual
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Solution, Status, Termination, build_solver, build_termination, following, reach, solve
from tests.reference import textbook
from tests.solver.problems import SIZE, Counting, Curved, affine, start

SOLVERS = [Broyden(), Anderson(4), FixedPointIteration()]
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)


def run(solver: Solver[Any], fn: FixedPointMap, images: int, steps: int, rtol: float = 0.0) -> Solution:
    return solve(solver, fn, solver.init(fn, start(images)), termination=Termination(steps, rtol))[0]


@every_solver
def test_solvers_and_their_states_are_what_they_claim_to_be(solver: Solver[Any]) -> None:
    assert isinstance(solver, Solver)
    assert isinstance(solver.init(affine(1)[0], start(1)), SolverState)


@every_solver
def test_first_state_is_f_of_zero(solver: Solver[Any]) -> None:
    fn = Curved(2).of([0, 1])
    torch.testing.assert_close(run(solver, fn, 2, 3).states[0], fn(start(2)))


@every_solver
def test_contraction_is_solved(solver: Solver[Any]) -> None:
    fn, fixed_point = affine(3, rate=0.3)
    solution = run(solver, fn, 3, 30)
    torch.testing.assert_close(solution.z, fixed_point, rtol=1e-8, atol=1e-8)
    assert solution.status.tolist() == [Status.MAX_STEPS] * 3


def test_fixed_point_iteration_applies_f_again_and_again() -> None:
    fn = Curved(2).of([0, 1])
    solution = run(FixedPointIteration(), fn, 2, 4)
    torch.testing.assert_close(solution.states[3], fn(fn(fn(fn(start(2))))))


@every_solver
def test_residuals_are_relative_to_f_per_image_and_state(solver: Solver[Any]) -> None:
    fn = Curved(3).of([0, 1, 2])
    solution = run(solver, fn, 3, 5)
    for n, z in enumerate(solution.states):
        for image in range(3):
            value = fn(z)[image]
            expected = float((value - z[image]).square().sum().sqrt() / value.square().sum().sqrt())
            assert float(solution.residuals[n, image]) == pytest.approx(expected, rel=1e-6)


def test_relative_residual_of_f_equal_to_zero_is_no_division_by_zero() -> None:
    state = FixedPointIteration().init(lambda z: 0 * z, start(1))
    assert relative_residual(state).tolist() == [0.0]


@every_solver
@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(4)), number=st.integers(1, 4))
def test_image_does_not_depend_on_its_batch_mates(solver: Solver[Any], order: list[int], number: int) -> None:
    problem, picked = Curved(4), order[:number]
    whole = run(solver, problem.of([0, 1, 2, 3]), 4, 6, rtol=1e-2)
    part = run(solver, problem.of(picked), number, 6, rtol=1e-2)
    torch.testing.assert_close(part.states, whole.states[:, picked], rtol=1e-10, atol=1e-10)
    assert torch.equal(part.steps, whole.steps[picked])
    assert torch.equal(part.status, whole.status[picked])


@every_solver
@pytest.mark.parametrize("rtol", [0.0, 0.05])
@pytest.mark.parametrize("first", [1, 3, 7])
def test_two_segments_are_one_solve(solver: Solver[Any], first: int, rtol: float) -> None:
    fn, _ = affine(3, rate=0.4)
    whole = run(solver, fn, 3, 8, rtol)
    head, state = solve(solver, fn, solver.init(fn, start(3)), termination=Termination(first, rtol))
    tail, _ = solve(solver, fn, state, termination=Termination(8 - first, rtol))
    assert torch.equal(torch.cat([head.states, tail.states]), whole.states)
    assert torch.equal(torch.cat([head.residuals, tail.residuals]), whole.residuals)
    assert torch.equal(head.steps + tail.steps, whole.steps)
    assert torch.equal(tail.status, whole.status)


@every_solver
@pytest.mark.parametrize("rtol", [0.0, 0.05])
@pytest.mark.parametrize("index", range(1, 9))
def test_state_reached_alone_is_bit_for_bit_the_one_of_the_whole_solve(
    solver: Solver[Any], index: int, rtol: float
) -> None:
    fn, _ = affine(3, rate=0.5)
    whole = run(solver, fn, 3, 8, rtol)
    assert torch.equal(reach(solver, fn, start(3), termination=Termination(index, rtol)), whole.states[index - 1])


@every_solver
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_solve_costs_one_evaluation_more_than_steps_and_reaching_a_state_none_more(
    solver: Solver[Any], steps: int
) -> None:
    fn = Counting(affine(2)[0])
    run(solver, fn, 2, steps)
    assert fn.calls == steps + 1
    fn.calls = 0
    reach(solver, fn, start(2), termination=Termination(steps))
    assert fn.calls == steps


@every_solver
def test_reevaluating_and_rebasing_cost_one_evaluation(solver: Solver[Any]) -> None:
    fn = Counting(affine(2)[0])
    _, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(3))
    for change in (solver.reevaluate, solver.rebase):
        fn.calls = 0
        changed = change(fn, state)
        assert fn.calls == 1
        assert torch.equal(changed.z, state.z)


@every_solver
def test_rebase_to_the_same_function_continues_alike(solver: Solver[Any]) -> None:
    fn = Curved(2).of([0, 1])
    _, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(4))
    straight, _ = solve(solver, fn, state, termination=Termination(3))
    around, _ = solve(solver, fn, solver.rebase(fn, state), termination=Termination(3))
    torch.testing.assert_close(around.states, straight.states, rtol=1e-8, atol=1e-10)


def rates(*values: float) -> FixedPointMap:
    """z -> rate z + 1 per image: fixed point iteration has relative residual of order rate^n."""
    factors = torch.tensor(values, dtype=torch.float64)[:, None]
    return lambda z: factors * z + 1


def test_image_stops_at_its_own_tolerance_and_keeps_its_state() -> None:
    fn = rates(0.01, 0.5, 0.9)
    solver = FixedPointIteration()
    solution, free = run(solver, fn, 3, 8, rtol=1e-2), run(solver, fn, 3, 8)
    taken = solution.steps.tolist()
    assert taken == [1, 6, 8]
    assert solution.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.MAX_STEPS]
    for image, steps in enumerate(taken):
        assert torch.equal(solution.states[:steps, image], free.states[:steps, image])
        assert (solution.states[steps:, image] == solution.states[steps - 1, image]).all()
        assert (solution.residuals[steps:, image] == solution.residuals[steps - 1, image]).all()
        assert bool(solution.residuals[-1, image] <= 1e-2) == (steps < 8)
        assert (free.residuals[: steps - 1, image] > 1e-2).all()


@every_solver
def test_stopped_image_does_not_influence_those_that_run(solver: Solver[Any]) -> None:
    fn = rates(0.01, 0.9, 0.95)
    stopping, free = run(solver, fn, 3, 6, rtol=1e-3), run(solver, fn, 3, 6)
    for image in range(3):
        steps = int(stopping.steps[image])
        assert torch.equal(stopping.states[:steps, image], free.states[:steps, image])


def test_image_exactly_at_the_tolerance_has_stopped() -> None:
    solver, fn = FixedPointIteration(), rates(0.5)
    residual = float(run(solver, fn, 1, 3).residuals[2, 0])
    assert run(solver, fn, 1, 8, rtol=residual).steps.tolist() == [3]


def test_memory_of_a_stopped_image_holds_its_own_steps_only() -> None:
    """Image 0 stops after two steps; under another function it goes on as a solve that never stood still."""
    easy, hard = affine(1, rate=0.02, seed=1)[0], affine(1, rate=0.9, seed=2)[0]
    fn = lambda z: torch.cat([easy(z[:1]), hard(z[1:])])  # noqa: E731
    other = Curved(2).of([0, 1])
    solver = Broyden()
    solution, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(5, rtol=1e-3))
    assert solution.steps.tolist() == [2, 5]
    _, short = solve(solver, easy, solver.init(easy, start(1)), termination=Termination(2))
    expected, _ = solve(
        solver, Curved(2).of([0]), solver.reevaluate(Curved(2).of([0]), short), termination=Termination(4)
    )
    went_on, _ = solve(solver, other, solver.reevaluate(other, state), termination=Termination(4))
    torch.testing.assert_close(went_on.states[:, :1], expected.states, rtol=1e-10, atol=1e-12)


@every_solver
def test_following_state_is_the_next_one_or_for_stopped_images_the_last(solver: Solver[Any]) -> None:
    fn, termination = rates(0.01, 0.9), Termination(3, rtol=1e-2)
    solution, state = solve(solver, fn, solver.init(fn, start(2)), termination=termination)
    longer = run(solver, fn, 2, 4, rtol=1e-2)
    assert solution.status[0] == Status.CONVERGED
    assert torch.equal(following(solver, state, termination=termination), longer.z)


@every_solver
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("rtol", [0.0, 1e-3])
def test_numbers_that_are_not_finite_are_reported_and_stay_with_their_image(
    solver: Solver[Any], poison: float, rtol: float
) -> None:
    fn = Curved(3).of([0, 1, 2])

    def poisoned(z: torch.Tensor) -> torch.Tensor:
        value = fn(z)
        value[1, 2] = poison if z[0].abs().sum() > 0 else value[1, 2]
        return value

    healthy, solution = run(solver, fn, 3, 6, rtol), run(solver, poisoned, 3, 6, rtol)
    assert solution.status.tolist() == [healthy.status[0], Status.NONFINITE, healthy.status[2]]
    torch.testing.assert_close(solution.states[:, [0, 2]], healthy.states[:, [0, 2]], rtol=1e-12, atol=1e-12)
    assert not solution.states[-1, 1].isfinite().all()


def test_residual_that_is_no_number_is_reported_though_the_state_is_finite() -> None:
    fn = lambda z: torch.where(z.sum(1, keepdim=True) > 0, math.nan, z + 1)  # noqa: E731
    assert run(FixedPointIteration(), fn, 1, 1).status.tolist() == [Status.NONFINITE]


@every_solver
def test_solve_keeps_no_graph(solver: Solver[Any]) -> None:
    weight = torch.full((1, SIZE), 0.5, dtype=torch.float64, requires_grad=True)
    fn = lambda z: weight * z + 1  # noqa: E731
    assert not run(solver, fn, 1, 3).states.requires_grad
    assert not reach(solver, fn, start(1), termination=Termination(3)).requires_grad


@every_solver
def test_precision_follows_the_start(solver: Solver[Any]) -> None:
    fn = lambda z: 0.5 * z + 1  # noqa: E731
    state = solver.init(fn, torch.zeros(1, 2))
    solution, _ = solve(solver, fn, state, termination=Termination(3))
    assert solution.states.dtype == torch.float32


def test_last_state_is_z() -> None:
    solution = run(Broyden(), affine(2)[0], 2, 4)
    assert torch.equal(solution.z, solution.states[3])


@pytest.mark.parametrize("steps", [0, -1])
def test_solve_without_steps_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} solver steps.*at least 1"):
        Termination(steps)


@pytest.mark.parametrize("rtol", [-0.1, math.nan])
def test_tolerance_below_zero_is_refused(rtol: float) -> None:
    with pytest.raises(ValueError, match=f"tolerance is {rtol}"):
        Termination(1, rtol)


@pytest.mark.parametrize(
    ("name", "solver"),
    [("broyden", Broyden()), ("anderson", Anderson(3)), ("fixed_point", FixedPointIteration())],
)
def test_config_names_the_solver_and_when_it_stops(name: str, solver: Solver[Any]) -> None:
    settings = {"name": name, "steps": 5, "anderson_memory": 3, "tolerance": 0.25, "returned": "last"}
    config = SolverConfig.model_validate(settings)
    assert build_solver(config) == solver
    assert build_termination(config) == Termination(max_steps=5, rtol=0.25)


def test_textbook_versions_solve_the_same_contraction() -> None:
    """The references themselves: both arrive at the fixed point."""
    fn, fixed_point = affine(1, size=3)
    single = lambda z: fn(z[None])[0]  # noqa: E731
    for states in (textbook.broyden(single, start(1, 3)[0], 6), textbook.anderson(single, start(1, 3)[0], 4, memory=5)):
        torch.testing.assert_close(states[-1], fixed_point[0], rtol=1e-6, atol=1e-6)
