"""What holds for every solver: the loop, when images stop, how the outcome is told, and that images never meet.

Termination by the whole batch, where they do meet, has a file of its own.
"""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqpipe.build import build_solver, build_termination
from deqpipe.config import parse_solver
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import FixedPointMap, Solver, SolverState, relative_residual
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import (
    Lowest,
    Returned,
    Scope,
    Solution,
    Status,
    Termination,
    following,
    lowest_of,
    reach,
    solve,
)
from tests.reference import textbook
from tests.sampling import one_in
from tests.solver.problems import SIZE, Counting, Curved, affine, start, tensors

SOLVERS = [Broyden(), Anderson(4), FixedPointIteration()]
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
every_scope = pytest.mark.parametrize("scope", ["sample", "batch"])


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
def test_proposing_calls_nothing_and_a_step_goes_there(solver: Solver[Any]) -> None:
    fn = Counting(Curved(2).of([0, 1]))
    state = solver.init(fn, start(2))
    for _ in range(4):
        fn.calls = 0
        proposed = solver.propose(state)
        assert fn.calls == 0
        state = solver.step(fn, state)
        assert fn.calls == 1
        assert torch.equal(state.z, proposed)


@every_solver
def test_moving_to_the_proposal_is_a_step(solver: Solver[Any]) -> None:
    fn = Curved(2).of([0, 1])
    state = moved = solver.init(fn, start(2))
    for _ in range(5):
        state, moved = solver.step(fn, state), solver.advance(fn, moved, solver.propose(moved))
        assert torch.equal(moved.z, state.z)
        assert torch.equal(moved.residual, state.residual)


@every_solver
def test_moving_costs_one_evaluation_and_forgetting_none(solver: Solver[Any]) -> None:
    fn, z = Counting(Curved(2).of([0, 1])), torch.ones(2, SIZE, dtype=torch.float64)
    _, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(3))
    fn.calls = 0
    moved = solver.advance(fn, state, z)
    assert fn.calls == 1
    assert torch.equal(moved.z, z)
    torch.testing.assert_close(moved.residual, fn(z) - z)
    fn.calls = 0
    solver.forget(moved)
    assert fn.calls == 0


@every_solver
@pytest.mark.parametrize("steps", [1, 5])
def test_solve_that_has_forgotten_is_one_that_begins_there(solver: Solver[Any], steps: int) -> None:
    fn = Curved(2).of([0, 1])
    _, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(steps))
    state = solver.advance(fn, state, state.z + 0.1)
    forgotten, _ = solve(solver, fn, solver.forget(state), termination=Termination(5))
    fresh, _ = solve(solver, fn, solver.init(fn, state.z), termination=Termination(5))
    assert torch.equal(forgotten.states, fresh.states)
    assert torch.equal(forgotten.residuals, fresh.residuals)
    going_on, _ = solve(solver, fn, state, termination=Termination(5))
    has_memory = not isinstance(solver, FixedPointIteration)
    assert torch.allclose(going_on.states, fresh.states, rtol=1e-6) != has_memory


@every_solver
def test_methods_do_not_change_the_state_they_are_given(solver: Solver[Any]) -> None:
    fn, other = Curved(2).of([0, 1]), Curved(2, seed=5).of([0, 1])
    _, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(4))
    copies = {name: value.clone() for name, value in tensors(state).items()}
    solver.propose(state)
    solver.step(fn, state)
    solver.advance(fn, state, start(2))
    solver.forget(state)
    solver.reevaluate(other, state)
    solver.rebase(other, state)
    assert all(torch.equal(copies[name], value) for name, value in tensors(state).items())


@every_solver
@every_scope
def test_first_step_leads_where_it_is_told_and_the_others_follow(solver: Solver[Any], scope: Scope) -> None:
    fn, z = Counting(Curved(2).of([0, 1])), torch.full((2, SIZE), 0.3, dtype=torch.float64)
    _, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(2))
    fn.calls = 0
    solution, _ = solve(solver, fn, state, termination=Termination(5, scope=scope), first=z)
    assert fn.calls == 5
    assert torch.equal(solution.states[0], z)
    rest, _ = solve(solver, fn, solver.advance(fn, state, z), termination=Termination(4))
    assert torch.equal(solution.states[1:], rest.states)
    assert torch.equal(solution.residuals[1:], rest.residuals)
    assert solution.steps.tolist() == [5, 5]


def test_image_that_has_stopped_does_not_take_a_first_step_that_it_is_told_either() -> None:
    fn, solver = rates(0.01, 0.9), FixedPointIteration()
    state = solver.init(fn, torch.ones(2, SIZE, dtype=torch.float64))
    told = torch.zeros(2, SIZE, dtype=torch.float64)
    solution, _ = solve(solver, fn, state, termination=Termination(1, rtol=0.2), first=told)
    assert relative_residual(state).tolist() == pytest.approx([0.01 / 1.01, 0.9 / 1.9], rel=1e-6)
    assert torch.equal(solution.z[0], state.z[0])
    assert torch.equal(solution.z[1], fn(state.z)[1]) != torch.equal(solution.z[1], told[1])
    assert torch.equal(solution.z[1], told[1])
    assert solution.moved.tolist() == [[False, True]]


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


@every_solver
def test_batch_residuals_take_both_norms_over_all_images(solver: Solver[Any]) -> None:
    fn = Curved(3).of([0, 1, 2])
    solution = run(solver, fn, 3, 5)
    for n, z in enumerate(solution.states):
        expected = textbook.relative_norm(list(fn(z)), list(z))
        assert float(solution.batch_residuals[n]) == pytest.approx(expected, rel=1e-6)


NUMBERS = st.sampled_from([0.1, 0.2, 0.3, math.inf, math.nan])


@settings(max_examples=100, deadline=None)
@given(data=st.data(), steps=st.integers(1, 5), images=st.integers(1, 3))
def test_lowest_state_is_the_first_of_the_lowest_residual(data: st.DataObject, steps: int, images: int) -> None:
    of_images = [[data.draw(NUMBERS) for _ in range(images)] for _ in range(steps)]
    of_batch = [data.draw(NUMBERS) for _ in range(steps)]
    states = torch.arange(steps * images * 2, dtype=torch.float64).view(steps, images, 2)
    solution = Solution(
        states=states,
        residuals=torch.tensor(of_images, dtype=torch.float64),
        batch_residuals=torch.tensor(of_batch, dtype=torch.float64),
        moved=torch.ones(steps, images, dtype=torch.bool),
        status=torch.full((images,), Status.MAX_STEPS),
    )
    for image in range(images):
        expected = states[textbook.first_lowest([row[image] for row in of_images]), image]
        assert torch.equal(solution.lowest("sample")[image], expected)
    assert torch.equal(solution.lowest("batch"), states[textbook.first_lowest(of_batch)])
    assert torch.equal(solution.returned("last"), states[-1])
    assert torch.equal(solution.returned("lowest_sample"), solution.lowest("sample"))
    assert torch.equal(solution.returned("lowest_batch"), solution.lowest("batch"))


def test_lowest_state_so_far_is_replaced_by_a_lower_one_only() -> None:
    states = [torch.full((2, 3), float(n), dtype=torch.float64) for n in range(5)]
    lowest = Lowest.unknown(states[0])
    assert torch.equal(lowest.z, states[0])
    assert lowest.residual.tolist() == [math.inf, math.inf]
    lowest = lowest.or_lower(states[1], torch.tensor([0.5, math.nan], dtype=torch.float64))
    assert (lowest.z[:, 0].tolist(), lowest.residual.tolist()) == ([1, 0], [0.5, math.inf])
    lowest = lowest.or_lower(states[2], torch.tensor(0.5, dtype=torch.float64))  # of the whole batch
    assert (lowest.z[:, 0].tolist(), lowest.residual.tolist()) == ([1, 2], [0.5, 0.5])
    lowest = lowest.or_lower(states[3], torch.tensor([0.5, 0.25], dtype=torch.float64))
    assert (lowest.z[:, 0].tolist(), lowest.residual.tolist()) == ([1, 3], [0.5, 0.25])
    lowest = lowest.or_lower(states[4], torch.tensor(math.nan, dtype=torch.float64))
    assert (lowest.z[:, 0].tolist(), lowest.residual.tolist()) == ([1, 3], [0.5, 0.25])


def test_rule_of_the_lowest_state_follows_the_scope() -> None:
    assert (lowest_of("sample"), lowest_of("batch")) == ("lowest_sample", "lowest_batch")


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
    assert torch.equal(part.moved, whole.moved[:, picked])
    assert torch.equal(part.status, whole.status[picked])
    torch.testing.assert_close(part.lowest("sample"), whole.lowest("sample")[picked], rtol=1e-10, atol=1e-10)


@every_solver
@every_scope
@pytest.mark.parametrize("rtol", [0.0, 0.05])
@pytest.mark.parametrize("first", [1, 3, 7])
def test_two_segments_are_one_solve(solver: Solver[Any], first: int, rtol: float, scope: Scope) -> None:
    fn, _ = affine(3, rate=0.4)
    whole, after = solve(solver, fn, solver.init(fn, start(3)), termination=Termination(8, rtol, scope))
    head, state = solve(solver, fn, solver.init(fn, start(3)), termination=Termination(first, rtol, scope))
    tail, state = solve(solver, fn, state, termination=Termination(8 - first, rtol, scope), resumed=True)
    for name in ("states", "residuals", "batch_residuals", "moved"):
        assert torch.equal(torch.cat([getattr(head, name), getattr(tail, name)]), getattr(whole, name))
    assert torch.equal(head.steps + tail.steps, whole.steps)
    assert torch.equal(tail.status, whole.status)
    assert all(torch.equal(value, tensors(state)[name]) for name, value in tensors(after).items())
    assert (whole.steps < 8).any() == (rtol > 0)


@pytest.mark.parametrize("rtol", [0.0, 0.05])
def test_with_scope_sample_it_makes_no_difference_whether_a_solve_goes_on_or_begins(rtol: float) -> None:
    fn, _ = affine(3, rate=0.4)
    _, state = solve(Broyden(), fn, Broyden().init(fn, start(3)), termination=Termination(3, rtol))
    on, anew = (
        solve(Broyden(), fn, state, termination=Termination(5, rtol), resumed=resumed)[0] for resumed in (True, False)
    )
    assert torch.equal(on.states, anew.states)
    assert torch.equal(on.moved, anew.moved)


@every_solver
@every_scope
@pytest.mark.parametrize("returned", ["last", "lowest_sample", "lowest_batch"])
@pytest.mark.parametrize("rtol", [0.0, 0.05])
@pytest.mark.parametrize("steps", one_in(3, range(1, 9), first=1))
def test_state_reached_alone_is_bit_for_bit_the_one_of_the_whole_solve(
    solver: Solver[Any], scope: Scope, returned: Returned, rtol: float, steps: int
) -> None:
    fn, termination = Counting(affine(3, rate=0.5)[0]), Termination(steps, rtol, scope)
    whole, _ = solve(solver, fn, solver.init(fn, start(3)), termination=termination)
    fn.calls = 0
    assert torch.equal(
        reach(solver, fn, start(3), termination=termination, returned=returned), whole.returned(returned)
    )
    taken = int(whole.steps.max()) if scope == "batch" else steps  # one image that goes on costs as much as all
    assert fn.calls == (min(taken + 1, steps) if returned == "last" else taken + 1)


def test_last_state_and_the_two_of_lowest_residual_are_told_apart_when_reached_alone() -> None:
    fn = Curved(3, seed=4).of([0, 1, 2])
    rules: tuple[Returned, ...] = ("last", "lowest_sample", "lowest_batch")
    solution = run(Broyden(), fn, 3, 7)
    states = [reach(Broyden(), fn, start(3), termination=Termination(7), returned=which) for which in rules]
    for n, z in enumerate(states):
        assert torch.equal(z, solution.returned(rules[n]))
        assert not any(torch.allclose(z, other, rtol=1e-3) for other in states[:n])


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
    assert solution.moved.tolist() == [[n < steps for steps in taken] for n in range(8)]
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


@pytest.mark.parametrize("solver", [Broyden(), Anderson(3), Anderson(6)])
def test_rebase_corrects_the_last_step_that_an_image_took_and_nothing_else(solver: Solver[Any]) -> None:
    """Image 0 stops after two steps; it is rebased as if the others had never gone on."""
    easy, hard = affine(1, rate=0.02, seed=1)[0], affine(1, rate=0.9, seed=2)[0]
    fn = lambda z: torch.cat([easy(z[:1]), hard(z[1:])])  # noqa: E731
    other = Curved(2).of([0, 1])
    solution, state = solve(solver, fn, solver.init(fn, start(2)), termination=Termination(5, rtol=1e-3))
    assert solution.steps.tolist() == [2, 5]
    _, short = solve(solver, easy, solver.init(easy, start(1)), termination=Termination(2))
    alone = Curved(2).of([0])
    expected, _ = solve(solver, alone, solver.rebase(alone, short), termination=Termination(2))
    went_on, _ = solve(solver, other, solver.rebase(other, state), termination=Termination(2))
    torch.testing.assert_close(went_on.states[:, :1], expected.states, rtol=1e-8, atol=1e-10)


@every_solver
def test_rebase_of_an_image_that_has_taken_no_step_has_nothing_to_correct(solver: Solver[Any]) -> None:
    fn, other = rates(0.01, 0.9), Curved(2).of([0, 1])
    z0 = torch.ones(2, SIZE, dtype=torch.float64)
    solution, state = solve(solver, fn, solver.init(fn, z0), termination=Termination(2, rtol=0.1))
    assert solution.steps.tolist() == [0, 2]
    went_on, _ = solve(solver, other, solver.rebase(other, state), termination=Termination(2))
    alone = Curved(2).of([0])
    fresh, _ = solve(solver, alone, solver.init(alone, z0[:1]), termination=Termination(2))
    torch.testing.assert_close(went_on.states[:, :1], fresh.states, rtol=1e-8, atol=1e-10)


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
    ("variant", "solver"),
    [
        ({"name": "broyden"}, Broyden()),
        ({"name": "anderson", "memory": 3}, Anderson(3)),
        ({"name": "fixed_point"}, FixedPointIteration()),
    ],
)
def test_config_names_the_solver_and_when_it_stops(variant: Mapping[str, object], solver: Solver[Any]) -> None:
    settings = {**variant, "steps": 5, "tolerance": 0.25, "scope": "batch", "returned": "last"}
    config = parse_solver(settings)
    assert build_solver(config) == solver
    assert build_termination(config) == Termination(max_steps=5, rtol=0.25, scope="batch")
    per_image = parse_solver(settings | {"scope": "sample"})
    assert build_termination(per_image) == Termination(max_steps=5, rtol=0.25, scope="sample")


def test_textbook_versions_solve_the_same_contraction() -> None:
    """The references themselves: both arrive at the fixed point."""
    fn, fixed_point = affine(1, size=3)
    single = lambda z: fn(z[None])[0]  # noqa: E731
    for states in (textbook.broyden(single, start(1, 3)[0], 6), textbook.anderson(single, start(1, 3)[0], 4, memory=5)):
        torch.testing.assert_close(states[-1], fixed_point[0], rtol=1e-6, atol=1e-6)
