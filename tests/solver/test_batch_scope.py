"""Termination by one norm over the batch, against a plain loop over steps. It couples images; scope sample never does.

The states themselves come from textbook versions, image by image: a batch that stops is cut off, nothing else.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Solution, Status, Termination, following, reach, solve
from tests.reference import textbook
from tests.solver.problems import Counting, Curved, affine, leaving, start

SLOW = [
    (Broyden(), textbook.broyden),
    (Anderson(4), partial(textbook.anderson, memory=4)),
    (FixedPointIteration(), textbook.fixed_point),
]
SOLVERS = [solver for solver, _ in SLOW]
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
STATUS = {"converged": Status.CONVERGED, "diverged": Status.DIVERGED, "max_steps": Status.MAX_STEPS}
RATES = (0.02, 0.1, 0.5, 0.8)
TOLERANCES = (0.0, 1e-3, 0.02, 0.06, 0.3, 0.95)
Slow = Callable[[textbook.Map, Tensor, int], list[Tensor]]


def contractions(*, picked: tuple[int, ...] = (0, 1, 2, 3)) -> Callable[[Tensor], Tensor]:
    """One linear contraction per image, of very different rates."""
    maps = [affine(1, rate=rate, seed=seed)[0] for seed, rate in enumerate(RATES)]
    return lambda z: torch.cat([maps[image](z[n : n + 1]) for n, image in enumerate(picked)])


def run(
    solver: Solver[Any], fn: Callable[[Tensor], Tensor], z0: Tensor, *, steps: int = 8, rtol: float = 0.0
) -> Solution:
    return solve(solver, fn, solver.init(fn, z0), termination=Termination(steps, rtol, "batch"))[0]


def slow_states(slow: Slow, fn: Callable[[Tensor], Tensor], z0: Tensor, *, steps: int) -> list[list[Tensor]]:
    """Of every step the states of all images; an image is run with the others held at zero."""

    def single(image: int) -> list[Tensor]:
        def alone(z: Tensor) -> Tensor:
            padded = torch.zeros_like(z0)
            padded[image] = z
            return fn(padded)[image]

        return slow(alone, z0[image], steps)

    return [list(states) for states in zip(*(single(image) for image in range(len(z0))), strict=True)]


@pytest.mark.parametrize(("solver", "slow"), SLOW, ids=[type(solver).__name__ for solver in SOLVERS])
@pytest.mark.parametrize("rtol", TOLERANCES)
def test_batch_stops_where_a_plain_loop_over_steps_stops(solver: Solver[Any], slow: Slow, rtol: float) -> None:
    fn = contractions()
    solution = run(solver, fn, start(4), rtol=rtol)
    states = slow_states(slow, fn, start(4), steps=8)
    norms = [textbook.relative_norm(list(fn(torch.stack(z))), z) for z in states]
    steps, outcome = textbook.batch_outcome(norms, rtol=rtol)
    assert solution.steps.tolist() == [steps] * 4
    assert solution.status.tolist() == [STATUS[outcome]] * 4
    assert solution.moved.tolist() == [[n < steps] * 4 for n in range(8)]
    for n in range(8):
        expected = min(n, steps - 1)
        torch.testing.assert_close(solution.states[n], torch.stack(states[expected]), rtol=1e-6, atol=1e-7)
        assert float(solution.batch_residuals[n]) == pytest.approx(norms[expected], rel=1e-4, abs=1e-7)
    lowest = states[textbook.first_lowest(norms[:steps])]
    torch.testing.assert_close(solution.lowest("batch"), torch.stack(lowest), rtol=1e-6, atol=1e-7)


def test_plain_loop_stops_at_different_steps() -> None:
    """So that the comparison is none of nothing."""
    fn, found = contractions(), set()
    for rtol in TOLERANCES:
        found.add(int(run(FixedPointIteration(), fn, start(4), rtol=rtol).steps[0]))
    assert found >= {1, 8}
    assert len(found) >= 4


@pytest.mark.parametrize("rate", [1.1, 1.7, 3.0])
@pytest.mark.parametrize("near", [1e-6, 1e-5])
def test_batch_is_given_up_when_its_residual_has_grown_a_thousandfold_since_the_first_step(
    rate: float, near: float
) -> None:
    fn, z0 = leaving(2, rate=rate, near=near)
    solution = run(FixedPointIteration(), fn, z0, steps=100)
    states = slow_states(textbook.fixed_point, fn, z0, steps=100)
    norms = [textbook.relative_norm(list(fn(torch.stack(z))), z) for z in states]
    steps, outcome = textbook.batch_outcome(norms, rtol=0.0)
    assert outcome == "diverged"
    assert 3 < steps < 100
    assert solution.steps.tolist() == [steps] * 2
    assert solution.status.tolist() == [Status.DIVERGED] * 2
    assert (solution.states[steps:] == solution.states[steps - 1]).all()
    torch.testing.assert_close(solution.states[:steps], torch.stack([torch.stack(z) for z in states[:steps]]))


def test_image_alone_is_never_given_up() -> None:
    fn, z0 = leaving(2, rate=3.0)
    solver = FixedPointIteration()
    solution, _ = solve(solver, fn, solver.init(fn, z0), termination=Termination(100, 1e-9))
    assert solution.status.tolist() == [Status.MAX_STEPS] * 2
    assert solution.steps.tolist() == [100, 100]


@every_solver
@pytest.mark.parametrize("rtol", [0.0, 0.3])
def test_stopped_batch_costs_no_further_evaluation(solver: Solver[Any], rtol: float) -> None:
    fn = Counting(contractions())
    solution = run(solver, fn, start(4), rtol=rtol)
    steps = int(solution.steps[0])
    assert (steps < 8) == (rtol > 0)
    assert fn.calls == 1 + steps


def test_batch_is_never_asked_before_its_first_step_but_an_image_is() -> None:
    fn, solver = contractions(), FixedPointIteration()
    state = solver.init(fn, run(solver, fn, start(4), steps=60).z)
    coupled, _ = solve(solver, fn, state, termination=Termination(5, 1e-3, "batch"))
    single, _ = solve(solver, fn, state, termination=Termination(5, 1e-3))
    assert coupled.steps.tolist() == [1] * 4
    assert single.steps.tolist() == [0] * 4
    assert coupled.status.tolist() == single.status.tolist() == [Status.CONVERGED] * 4
    assert torch.equal(coupled.z, solver.step(fn, state).z)
    assert torch.equal(single.z, state.z)


def test_batch_that_goes_on_may_have_stopped_before_the_first_step_told_or_not() -> None:
    fn, solver = Counting(contractions()), FixedPointIteration()
    state = solver.init(fn, run(solver, fn, start(4), steps=60).z)
    termination = Termination(5, 1e-3, "batch")
    fn.calls = 0
    for first in (None, start(4)):
        solution, after = solve(solver, fn, state, termination=termination, first=first, resumed=True)
        assert solution.steps.tolist() == [0] * 4
        assert torch.equal(solution.z, state.z)
        assert after is state
    assert fn.calls == 0
    assert torch.equal(following(solver, state, termination=termination), state.z)
    assert torch.equal(following(solver, state, termination=termination, resumed=False), solver.propose(state))


def test_batch_exactly_at_the_tolerance_goes_on() -> None:
    fn, solver = contractions(), FixedPointIteration()
    residual = float(run(solver, fn, start(4)).batch_residuals[2])
    assert run(solver, fn, start(4), rtol=residual).steps.tolist() == [4] * 4
    assert run(solver, fn, start(4), rtol=math.nextafter(residual, 1)).steps.tolist() == [3] * 4


@every_solver
def test_image_changes_with_its_batch_mates(solver: Solver[Any]) -> None:
    """The state where it stops and the one of lowest residual, though the problem of each image is its own."""
    easy, hard = (run(solver, contractions(picked=(1, mate)), start(2), rtol=0.02) for mate in (0, 3))
    assert int(easy.steps[0]) < int(hard.steps[0])
    assert torch.equal(easy.states[0, 0], hard.states[0, 0])
    assert not torch.allclose(easy.z[0], hard.z[0], rtol=1e-4)


def test_state_of_lowest_residual_changes_with_the_batch_mates() -> None:
    problem = Curved(3, seed=4)
    chosen = [run(Broyden(), problem.of([0, *mates]), start(1 + len(mates)), steps=7) for mates in ([], [1], [1, 2])]
    states = [solution.returned("lowest_batch")[0] for solution in chosen]
    assert torch.allclose(chosen[0].states[:, 0], chosen[2].states[:, 0], rtol=1e-9)
    assert not torch.allclose(states[0], states[2], rtol=1e-3)
    alone, among = (solution.returned("lowest_sample")[0] for solution in (chosen[0], chosen[2]))
    torch.testing.assert_close(alone, among, rtol=1e-9, atol=1e-9)


@every_solver
@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(4)), number=st.integers(1, 4), rtol=st.sampled_from([0.0, 1e-3, 0.02, 0.3]))
def test_scope_sample_never_couples_images(solver: Solver[Any], order: list[int], number: int, rtol: float) -> None:
    termination, picked = Termination(8, rtol), tuple(order[:number])
    whole_fn, part_fn = contractions(), contractions(picked=picked)
    whole, _ = solve(solver, whole_fn, solver.init(whole_fn, start(4)), termination=termination)
    part, _ = solve(solver, part_fn, solver.init(part_fn, start(number)), termination=termination)
    kept = list(picked)
    for which in ("last", "lowest_sample"):
        torch.testing.assert_close(part.returned(which), whole.returned(which)[kept], rtol=1e-10, atol=1e-10)
        reached = reach(solver, part_fn, start(number), termination=termination, returned=which)
        torch.testing.assert_close(reached, whole.returned(which)[kept], rtol=1e-10, atol=1e-10)
    assert torch.equal(part.moved, whole.moved[:, kept])
    assert torch.equal(part.status, whole.status[kept])


@every_solver
@pytest.mark.parametrize("since", [1, 4])
def test_residual_that_is_no_number_stops_nothing_and_is_never_the_lowest(solver: Solver[Any], since: int) -> None:
    """Image 0 breaks at the call of a step; until then the batch is what it would have been."""
    calm, fn = contractions(), Counting(contractions())

    def breaking(z: Tensor) -> Tensor:
        value = fn(z)
        return torch.cat([value[:1] * math.nan, value[1:]]) if fn.calls > since else value

    healthy, broken = run(solver, calm, start(4)), run(solver, breaking, start(4), rtol=1e-3)
    assert broken.batch_residuals[since - 1 :].isnan().all()
    assert broken.steps.tolist() == [8] * 4
    assert broken.status.tolist() == [Status.NONFINITE, *[Status.MAX_STEPS] * 3]
    kept = torch.tensor([1, 2, 3])
    torch.testing.assert_close(broken.states[:, kept], healthy.states[:, kept], rtol=1e-12, atol=1e-12)
    seen = healthy.batch_residuals[: since - 1].tolist()
    expected = healthy.states[textbook.first_lowest(seen) if seen else 0]
    torch.testing.assert_close(broken.lowest("batch")[kept], expected[kept], rtol=1e-12, atol=1e-12)
    own = broken.lowest("sample")
    torch.testing.assert_close(own[kept], healthy.lowest("sample")[kept], rtol=1e-12, atol=1e-12)


def test_batch_that_diverged_is_not_followed_by_a_solve_that_begins() -> None:
    """A new solve has a first step of its own, from which growth counts."""
    fn, z0 = leaving(2, rate=1.7)
    solver = FixedPointIteration()
    termination = Termination(100, scope="batch")
    first, state = solve(solver, fn, solver.init(fn, z0), termination=termination)
    again, _ = solve(solver, fn, state, termination=termination)
    assert first.status[0] == Status.DIVERGED
    assert again.status[0] == Status.MAX_STEPS
    assert torch.equal(again.states[0], fn(first.z))


@pytest.mark.parametrize("first", [1, 20, 60, 90])
def test_two_segments_of_a_batch_that_diverges_are_one_solve(first: int) -> None:
    """Growth counts from the first step of the whole; the batch is given up in the second segment, or was before."""
    fn, z0 = leaving(2, rate=1.1)
    solver = FixedPointIteration()
    whole, _ = solve(solver, fn, solver.init(fn, z0), termination=Termination(100, scope="batch"))
    head, state = solve(solver, fn, solver.init(fn, z0), termination=Termination(first, scope="batch"))
    tail, _ = solve(
        solver,
        fn,
        state,
        termination=Termination(100 - first, scope="batch"),
        resumed=True,
        grown_from=head.batch_residuals[0],
    )
    assert 60 < int(whole.steps[0]) < 90
    assert torch.equal(torch.cat([head.states, tail.states]), whole.states)
    assert torch.equal(torch.cat([head.moved, tail.moved]), whole.moved)
    assert torch.equal(tail.status, whole.status)
