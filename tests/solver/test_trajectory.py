"""A solve that goes on when a later state is asked for gives the bits of a solve of its own for each state."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Returned, Scope, Termination, reach
from deqpipe.solver.trajectory import GrowingSolve
from tests.sampling import one_in
from tests.solver.problems import Counting, Curved, affine, leaving, start

IMAGES, LENGTH = 4, 8
SOLVERS: tuple[Solver[Any], ...] = (
    Broyden(),
    Broyden(in_place=False),
    Broyden(room=1),
    Anderson(3),
    FixedPointIteration(),
)
RETURNED: tuple[Returned, ...] = ("last", "lowest_sample", "lowest_batch")
CHOICES = list(itertools.product(range(1, LENGTH + 1), RETURNED))
ORDERS: dict[str, Sequence[tuple[int, Returned]]] = {
    "ascending": CHOICES,
    "descending": CHOICES[::-1],
    "mixed": [CHOICES[(7 * k) % len(CHOICES)] for k in range(len(CHOICES))],
}
PROBLEMS = {
    "curved": (Curved(IMAGES).of(list(range(IMAGES))), start(IMAGES)),
    "affine": (affine(IMAGES)[0], start(IMAGES)),
    "leaving": leaving(IMAGES, rate=4.0),
}
CASES: tuple[tuple[str, Scope, float], ...] = (
    ("curved", "sample", 0.0), ("affine", "sample", 0.3), ("affine", "batch", 0.3), ("leaving", "batch", 0.0),
)  # fmt: skip
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=str)


@every_solver
@pytest.mark.parametrize(("problem", "scope", "rtol"), one_in(2, CASES, first=1))
def test_every_state_is_that_of_a_solve_of_its_own(
    solver: Solver[Any], problem: str, scope: Scope, rtol: float
) -> None:
    (fn, z0), termination = PROBLEMS[problem], Termination(LENGTH, rtol, scope)
    anew = {
        (steps, returned): reach(solver, fn, z0, termination=replace(termination, max_steps=steps), returned=returned)
        for steps, returned in CHOICES
    }
    for order in ORDERS.values():
        growing = GrowingSolve(solver, fn, z0, termination=termination)
        for choice in order:
            assert torch.equal(growing.reach(*choice), anew[choice]), choice


@pytest.mark.parametrize(("problem", "scope", "rtol"), CASES[1:])
def test_solves_of_these_tests_end_before_their_last_step(problem: str, scope: Scope, rtol: float) -> None:
    """By the tolerance, image by image or all together, and by growth; otherwise the test above says less."""
    (fn, z0), termination = PROBLEMS[problem], Termination(LENGTH, rtol, scope)
    growing = GrowingSolve(FixedPointIteration(), fn, z0, termination=termination)
    stopped = (growing.reach(LENGTH) == growing.reach(LENGTH - 1)).all(1)
    assert stopped.any()
    assert scope == "sample" or stopped.all()


@pytest.mark.parametrize("solver", [Broyden(), FixedPointIteration()], ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("which", [("last",), ("lowest_sample",), RETURNED])
def test_f_is_evaluated_for_the_latest_state_and_not_for_each(
    solver: Solver[Any], order: str, which: tuple[Returned, ...]
) -> None:
    """z^[n] takes n evaluations, the lowest of n states one more; states before it take none."""
    fn = Counting(PROBLEMS["curved"][0])
    growing, needed = GrowingSolve(solver, fn, start(IMAGES), termination=Termination(LENGTH)), 1
    for steps, returned in ORDERS[order]:
        if returned in which:
            growing.reach(steps, returned)
            needed = max(needed, steps + (returned != "last"))
        assert fn.calls == needed


def test_what_was_read_stays_as_it_was() -> None:
    fn, z0 = PROBLEMS["curved"]
    growing = GrowingSolve(Broyden(), fn, z0, termination=Termination(LENGTH))
    early = growing.reach(2)
    copied = early.clone()
    growing.reach(LENGTH, "lowest_sample")
    assert torch.equal(early, copied)
    assert torch.equal(growing.reach(2), copied)


def test_no_gradient_flows_into_what_is_read() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    growing = GrowingSolve(Broyden(), lambda z: torch.tanh(weight * z + 1), start(IMAGES), termination=Termination(1))
    assert not growing.reach(3).requires_grad
    assert not growing.reach(3, "lowest_batch").requires_grad
