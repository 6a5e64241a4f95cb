"""The simultaneous adjoint against dense matrices, image by image, and against the gradient of an equilibrium."""

from typing import Any

import pytest
import torch
from torch import Tensor

from deqpipe.gradient import Implicit
from deqpipe.gradient.adjoint import SimultaneousAdjoint
from deqpipe.solver.base import FixedPointMap
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from tests.reference import textbook

SIZE, BATCH = 4, 3
GENERATOR = torch.Generator().manual_seed(0)
MATRIX = torch.randn(SIZE, SIZE, generator=GENERATOR, dtype=torch.float64)
MATRIX = 0.6 * MATRIX / torch.linalg.matrix_norm(MATRIX, 2)
X = torch.randn(BATCH, SIZE, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = torch.randn(BATCH, SIZE, generator=GENERATOR, dtype=torch.float64)


def bent(x: Tensor) -> FixedPointMap:
    return lambda z: torch.tanh(z @ MATRIX.T + x)


def straight(x: Tensor) -> FixedPointMap:
    return lambda z: z @ MATRIX.T + x


def value(z: Tensor) -> Tensor:
    return (WEIGHTS * z.square()).sum()


def state_and_gradient(adjoint: SimultaneousAdjoint, bound: object) -> tuple[Tensor, Tensor]:
    """The state, and the gradient of a value of it to the input."""
    x = X.clone().requires_grad_()
    z = adjoint(bound(x), torch.zeros_like(X))  # type: ignore[operator]
    value(z).backward()
    assert x.grad is not None
    return z.detach(), x.grad


def jacobian(f: FixedPointMap, z: Tensor) -> Tensor:
    """d f_i / d z_j, row by row."""
    leaf = z.clone().requires_grad_()
    image = f(leaf)
    rows = [torch.autograd.grad(image[i], leaf, retain_graph=True)[0] for i in range(len(z))]
    return torch.stack(rows)


def dense(number: int, steps: int) -> tuple[Tensor, Tensor]:
    """State and gradient of one image: u <- u - B_t^-T (J_t^T u + v - u), with B_t^-1 as a full matrix."""
    x = X[number]
    f = bent(x)
    states = textbook.broyden(f, torch.zeros_like(x), steps)
    inverse, before, inverses = -torch.eye(SIZE, dtype=x.dtype), torch.zeros_like(x), []
    for z in states:
        dg = (f(z) - z) - (f(before) - before)
        inverse = textbook.sherman_morrison(inverse, z - before, dg)
        inverses.append(inverse)
        before = z
    v = 2 * WEIGHTS[number] * states[-1]
    u = torch.zeros_like(v)
    for z, inverse in zip(states, inverses, strict=True):
        u = u - inverse.T @ (jacobian(f, z).T @ u + v - u)
    slope = 1 - f(states[-1]).square()  # of tanh at z^[n]
    return states[-1], slope * u


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_adjoint_is_that_of_full_matrices_image_by_image(steps: int) -> None:
    z, gradient = state_and_gradient(SimultaneousAdjoint(Broyden(), steps), bent)
    for number in range(BATCH):
        state, expected = dense(number, steps)
        torch.testing.assert_close(z[number], state, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(gradient[number], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_with_plain_iteration_it_is_the_first_terms_of_the_neumann_series(steps: int) -> None:
    """Of a linear map: the sum over k below n of (J^T)^k v."""
    z, gradient = state_and_gradient(SimultaneousAdjoint(FixedPointIteration(), steps), straight)
    v = 2 * WEIGHTS * z
    expected = sum(v @ torch.linalg.matrix_power(MATRIX, k) for k in range(steps))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("solver", "steps"), [(Broyden(), 14), (FixedPointIteration(), 80)], ids=["broyden", "plain"])
def test_at_an_equilibrium_it_is_the_implicit_gradient_and_that_of_finite_differences(
    solver: Broyden | FixedPointIteration, steps: int
) -> None:
    z, gradient = state_and_gradient(SimultaneousAdjoint(solver, steps), bent)
    x = X.clone().requires_grad_()
    value(Implicit(FixedPointIteration(), 100)(bent(x), z)).backward()
    torch.testing.assert_close(gradient, x.grad, rtol=1e-5, atol=1e-7)

    def at_equilibrium(x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(100):
            z = bent(x)(z)
        return value(z)

    direction = torch.randn(X.shape, generator=GENERATOR, dtype=X.dtype)
    slope = (at_equilibrium(X + 1e-6 * direction) - at_equilibrium(X - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-7)


def test_the_state_is_that_of_the_solver_bit_for_bit() -> None:
    for steps in (1, 5):
        z, _ = state_and_gradient(SimultaneousAdjoint(Broyden(), steps), bent)
        state = Broyden().init(bent(X), torch.zeros_like(X))
        for _ in range(steps):
            state = Broyden().step(bent(X), state)
        assert torch.equal(z, state.z)


@pytest.mark.parametrize("solver", [Broyden(), FixedPointIteration()])
def test_f_is_evaluated_once_at_each_state(solver: Any) -> None:
    """A fixed-point iteration does not look at its last state, where the adjoint does."""
    calls: list[Tensor] = []

    def counted(x: Tensor) -> FixedPointMap:
        def f(z: Tensor) -> Tensor:
            calls.append(z)
            return bent(x)(z)

        return f

    state_and_gradient(SimultaneousAdjoint(solver, 4), counted)
    assert len(calls) == 4 + 1
    assert len({call.detach().numpy().tobytes() for call in calls}) == 4 + 1


def test_without_anything_to_take_a_gradient_to_it_is_the_state_alone() -> None:
    with torch.no_grad():
        z = SimultaneousAdjoint(Broyden(), 3)(bent(X), torch.zeros_like(X))
    assert not z.requires_grad
