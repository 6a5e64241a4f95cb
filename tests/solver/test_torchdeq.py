"""Solvers on the cell against those of torchdeq (Geng & Kolter, 2023), which share no line with them.

On the cell itself solvers need not converge, and scaling its weights changes little, as it ends in GroupNorm. It
becomes a contraction when its input is scaled around an anchor a: z -> f(a + s (z - a); x) has `s` times the slope that
f has near a, for whatever z, and what it returns is still the output of the whole cell.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vjp, vmap

from deqpipe.model.classifier import DEQClassifier
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Solution, Status, Termination, solve
from tests.reference.tiny import images, states, tiny_model

pytestmark = pytest.mark.slow

with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", ".*invalid escape sequence"
    )  # in its docstrings, where they were not yet compiled
    import torchdeq
    from torchdeq.solver import get_solver

Map = Callable[[Tensor], Tensor]
RATE = 0.6  # slope of the scaled map at its anchor
CONTRACTION = 0.95  # all slopes that matter are below
TOLERANCE = 1e-10  # relative residual at which both stop
CONVERGED = 1e-9
AGREEMENT = 1e-8
MEMORY = 6
RIDGE = (
    1e-24  # of torchdeq's Anderson, in absolute units; its own choice, 1e-4, can end convergence far above `TOLERANCE`
)
PROBLEMS = [(0, 1, 2), (1, 4, 2), (2, 7, 3), (3, 4, 4), (4, 3, 1), (6, 5, 1)]  # seed, images, scales
SOLVERS = [
    pytest.param(solver, name, id=name)
    for solver, name in (
        (Broyden(), "broyden"),
        (Anderson(MEMORY), "anderson"),
        (FixedPointIteration(), "fixed_point_iter"),
    )
]


class Scaled:
    """z -> f(a + s (z - a); x), with `rates` the slope of each image at its anchor."""

    def __init__(self, model: DEQClassifier, x: Tensor, anchor: Tensor, rates: Tensor) -> None:
        self.model, self.x, self.anchor, self.rates = model, x, anchor, rates
        self.cell = model.bind(x)
        self.shares = (rates / spectral_norm(self.cell, anchor))[:, None]

    def __call__(self, z: Tensor) -> Tensor:
        return self.cell(self.anchor + self.shares * (z - self.anchor))

    def alone(self, image: int) -> "Scaled":
        """The map of one image, as a batch of one."""
        one = slice(image, image + 1)
        return Scaled(self.model, self.x[one], self.anchor[one], self.rates[one])

    def starts(self, *, seed: int) -> Tensor:
        """Three times as long as what the cell returns, in random directions."""
        z = torch.randn(self.anchor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return 3 * z.shape[1] ** 0.5 * z / z.norm(dim=1, keepdim=True)


def scaled(rates: Sequence[float], *, seed: int, scales: int = 2) -> Scaled:
    """A model, images and anchors of their own for every seed."""
    model, number = tiny_model(scales, seed=seed), len(rates)
    x, anchor = images(number, seed=100 + seed), states(model, number, seed=200 + seed)
    return Scaled(model, x, anchor, torch.tensor(rates, dtype=torch.float64))


def spectral_norm(fn: Map, z: Tensor) -> Tensor:
    """Of every image's Jacobian at z, from the whole matrix."""
    pull_back = vjp(fn, z)[1]
    unit = torch.eye(z.shape[1], dtype=z.dtype)
    (rows,) = vmap(pull_back)(unit[:, None].expand(-1, len(z), -1))  # one row of every Jacobian after the other
    return torch.linalg.matrix_norm(rows.detach().transpose(0, 1), 2)


@torch.no_grad()
def relative_residual(fn: Map, z: Tensor) -> Tensor:
    value = fn(z)
    return (value - z).norm(dim=1) / value.norm(dim=1)


def relative_distance(z: Tensor, other: Tensor) -> Tensor:
    return (z - other).norm(dim=1) / other.norm(dim=1)


def solved(solver: Solver[Any], fn: Map, z0: Tensor) -> Solution:
    solution, _ = solve(solver, fn, solver.init(fn, z0), termination=Termination(max_steps=80, rtol=TOLERANCE))
    return solution


def solved_by_torchdeq(name: str, fn: Map, z0: Tensor) -> Tensor:
    deq = torchdeq.get_deq(f_solver=name, f_max_iter=400, f_tol=TOLERANCE, f_stop_mode="rel").eval()
    (z,), _ = deq(fn, z0, solver_kwargs={"m": MEMORY, "lam": RIDGE})
    return z


@pytest.mark.parametrize(("seed", "number", "scales"), PROBLEMS)
def test_scaled_cell_is_a_contraction_and_the_cell_is_none(seed: int, number: int, scales: int) -> None:
    fn = scaled([RATE] * number, seed=seed, scales=scales)
    fixed_point = solved(FixedPointIteration(), fn, fn.starts(seed=0)).z
    returned = [fn(fn.starts(seed=k)).detach() for k in (1, 2, 3)]  # of this kind are all states but the first
    for z in (fixed_point, *returned):
        assert (spectral_norm(fn, z) < CONTRACTION).all()
    for z, other in ((returned[0], returned[1]), (returned[1], returned[2]), (returned[2], fixed_point)):
        assert ((fn(z) - fn(other)).norm(dim=1) < CONTRACTION * (z - other).norm(dim=1)).all()
    assert (spectral_norm(fn.cell, fn.anchor) > 2).all()


@pytest.mark.parametrize(("solver", "name"), SOLVERS)
@pytest.mark.parametrize(("seed", "number", "scales"), PROBLEMS)
def test_fixed_points_of_the_scaled_cell_are_torchdeqs(
    solver: Solver[Any], name: str, seed: int, number: int, scales: int
) -> None:
    fn = scaled([RATE] * number, seed=seed, scales=scales)
    z0 = fn.starts(seed=seed)
    ours, theirs = solved(solver, fn, z0), solved_by_torchdeq(name, fn, z0)
    assert (ours.status == Status.CONVERGED).all()
    assert relative_residual(fn, ours.z).max() < CONVERGED
    assert relative_residual(fn, theirs).max() < CONVERGED
    assert relative_distance(z0, theirs).min() > 1
    assert relative_distance(ours.z, theirs).max() < AGREEMENT


@pytest.mark.parametrize("solver", [Broyden(), Anderson(MEMORY), FixedPointIteration()])
def test_fixed_point_does_not_depend_on_where_the_solve_started_but_on_the_image(solver: Solver[Any]) -> None:
    fn = scaled([RATE] * 3, seed=5)
    far, zero = solved(solver, fn, fn.starts(seed=1)).z, solved(solver, fn, torch.zeros_like(fn.anchor)).z
    assert relative_distance(far, zero).max() < AGREEMENT
    assert relative_distance(far, far.roll(1, dims=0)).min() > 0.1


@pytest.mark.parametrize(("solver", "name"), SOLVERS)
def test_every_image_stops_after_its_own_steps_at_the_fixed_point_that_torchdeq_finds_for_it(
    solver: Solver[Any], name: str
) -> None:
    """torchdeq goes on until the last image has converged."""
    fn = scaled([0.02, 0.1, 0.3, RATE], seed=1)
    z0 = fn.starts(seed=3)
    ours, theirs = solved(solver, fn, z0), solved_by_torchdeq(name, fn, z0)
    assert ours.steps.unique().tolist() == ours.steps.tolist()  # more, the steeper the map
    assert relative_distance(ours.z, theirs).max() < AGREEMENT
    for image, steps in enumerate(ours.steps.tolist()):
        single = fn.alone(image)
        own = solved(solver, single, z0[image : image + 1])
        assert own.steps.item() == steps
        assert relative_distance(ours.z[image : image + 1], own.z).item() < AGREEMENT
        assert (ours.states[steps:, image] == ours.states[steps - 1, image]).all()
        before, after = (relative_residual(single, ours.states[n - 1, image : image + 1]) for n in (steps - 1, steps))
        assert after.item() <= TOLERANCE < before.item()


@torch.no_grad()
@pytest.mark.parametrize("name", ["broyden", "fixed_point_iter"])
@pytest.mark.parametrize(("seed", "number", "scales"), [(0, 1, 2), (1, 4, 2), (2, 3, 3)])
def test_states_of_the_cell_itself_are_torchdeqs_step_by_step(name: str, seed: int, number: int, scales: int) -> None:
    model = tiny_model(scales, seed=seed)
    x = images(number, seed=seed)
    fn, z0 = model.bind(x), model.initial_state(x)
    solver: Solver[Any] = Broyden() if name == "broyden" else FixedPointIteration()
    ours, _ = solve(solver, fn, solver.init(fn, z0), termination=Termination(8))
    for n in range(1, 9):
        theirs, _, _ = get_solver(name)(fn, z0, max_iter=n, return_final=True)
        assert relative_distance(ours.states[n - 1], theirs).max() < AGREEMENT


@torch.no_grad()
@pytest.mark.parametrize("memory", [2, 3, 6])
@pytest.mark.parametrize(("seed", "number"), [(0, 1), (1, 4)])
def test_states_of_anderson_on_the_cell_itself_are_torchdeqs_step_by_step(memory: int, seed: int, number: int) -> None:
    """torchdeq counts both of its starting points, and returns f of its last state."""
    model = tiny_model(seed=seed)
    x = images(number, seed=seed)
    fn, z0, solver = model.bind(x), model.initial_state(x), Anderson(memory)
    ours, _ = solve(solver, fn, solver.init(fn, z0), termination=Termination(8))
    for n in range(2, 9):
        theirs, _, _ = get_solver("anderson")(fn, z0, max_iter=n + 1, m=memory, lam=RIDGE, return_final=True)
        assert relative_distance(fn(ours.states[n - 1]), theirs).max() < AGREEMENT
