"""The unrolled phantom gradient written out, and the implicit one against finite differences."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from deqpipe.gradient import Implicit, StateGradient, Unrolled
from deqpipe.solver.base import FixedPointMap, Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration

SIZE = 4
GENERATOR = torch.Generator().manual_seed(0)
MATRIX = torch.randn(SIZE, SIZE, generator=GENERATOR, dtype=torch.float64)
MATRIX = 0.6 * MATRIX / torch.linalg.matrix_norm(MATRIX, 2)
X = torch.randn(3, SIZE, generator=GENERATOR, dtype=torch.float64)
Z = torch.randn(3, SIZE, generator=GENERATOR, dtype=torch.float64)


def bound(x: Tensor, matrix: Tensor = MATRIX) -> FixedPointMap:
    return lambda z: torch.tanh(z @ matrix.T + x)


def by_hand(x: Tensor, z: Tensor, *, steps: int, damping: float, lead_step: bool) -> Tensor:
    """Eq. (11), image by image."""
    rows = []
    for image, state in zip(x, z, strict=True):
        if lead_step:
            state = torch.tanh(MATRIX @ state + image)
        for _ in range(steps):
            state = damping * torch.tanh(MATRIX @ state + image) + (1 - damping) * state
        rows.append(state)
    return torch.stack(rows)


GRID = list(itertools.product((0, 1, 2, 5), (0.3, 0.5, 1.0), (False, True)))


@pytest.mark.parametrize(("steps", "damping", "lead_step"), GRID)
def test_unrolled_state_and_its_gradient_are_equation_11(steps: int, damping: float, lead_step: bool) -> None:
    unrolled = Unrolled(steps=steps, damping=damping, lead_step=lead_step)
    ours, hand = X.clone().requires_grad_(), X.clone().requires_grad_()
    value = unrolled(bound(ours), Z)
    expected = by_hand(hand, Z, steps=steps, damping=damping, lead_step=lead_step)
    torch.testing.assert_close(value, expected)
    if steps + lead_step:
        weights = torch.arange(float(3 * SIZE), dtype=torch.float64).view(3, SIZE)
        (gradient,) = torch.autograd.grad((value * weights).sum(), ours)
        (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), hand)
        torch.testing.assert_close(gradient, expected_gradient)


def test_every_argument_of_the_unroll_matters() -> None:
    values = [Unrolled(steps, damping, lead)(bound(X), Z) for steps, damping, lead in GRID if steps]
    for first, second in itertools.combinations(range(len(values)), 2):
        same = torch.allclose(values[first], values[second], rtol=1e-6, atol=1e-9)
        kinds = [(s + lead, d) for s, d, lead in GRID if s]  # undamped, a lead step is one more step
        assert same == (kinds[first] == kinds[second] and kinds[first][1] == 1)


def test_without_lead_step_is_the_default() -> None:
    assert Unrolled(steps=1, damping=0.5) == Unrolled(steps=1, damping=0.5, lead_step=False)


@pytest.mark.parametrize(("steps", "damping", "lead_step"), [(1, 1.0, False), (3, 0.5, False), (2, 0.3, True)])
def test_unrolled_gradient_is_that_of_finite_differences(steps: int, damping: float, lead_step: bool) -> None:
    unrolled = Unrolled(steps=steps, damping=damping, lead_step=lead_step)
    inputs = (X.clone().requires_grad_(), MATRIX.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, matrix: unrolled(bound(x, matrix), Z), inputs)


@pytest.mark.parametrize("gradient", [Unrolled(3, 0.5), Unrolled(3, 1.0, lead_step=True), Implicit(Broyden(), 5)])
def test_no_gradient_flows_into_the_state_itself(gradient: StateGradient) -> None:
    assert isinstance(gradient, StateGradient)
    z, x = Z.clone().requires_grad_(), X.clone().requires_grad_()
    gradient(bound(x), z).sum().backward()
    assert z.grad is None
    assert x.grad is not None


def fixed_point(x: Tensor, matrix: Tensor = MATRIX) -> Tensor:
    z = torch.zeros_like(x)
    for _ in range(200):
        z = torch.tanh(z @ matrix.T + x)
    return z


@pytest.mark.parametrize("solver", [Broyden(), FixedPointIteration()])
def test_implicit_gradient_is_that_of_a_long_unroll(solver: Solver[Any]) -> None:
    weights = torch.arange(1.0, 3 * SIZE + 1, dtype=torch.float64).view(3, SIZE)
    gradients = []
    for way in (Implicit(solver, 60), Unrolled(80, 1.0), Unrolled(200, 0.5)):
        x, matrix = X.clone().requires_grad_(), MATRIX.clone().requires_grad_()
        (way(bound(x, matrix), fixed_point(X)) * weights).sum().backward()
        gradients.append((x.grad, matrix.grad))
    for x_gradient, matrix_gradient in gradients[1:]:
        torch.testing.assert_close(gradients[0][0], x_gradient, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(gradients[0][1], matrix_gradient, rtol=1e-8, atol=1e-10)


def test_implicit_gradient_is_that_of_finite_differences_of_the_equilibrium() -> None:
    x, step = X.clone().requires_grad_(), 1e-6
    Implicit(Broyden(), 30)(bound(x), fixed_point(X))[:, 1].sum().backward()
    assert x.grad is not None
    for image, pixel in itertools.product(range(3), range(SIZE)):
        shift = torch.zeros_like(X)
        shift[image, pixel] = step
        difference = (fixed_point(X + shift) - fixed_point(X - shift))[:, 1].sum() / (2 * step)
        torch.testing.assert_close(x.grad[image, pixel], difference, rtol=1e-6, atol=1e-8)


def test_implicit_value_is_one_more_application_of_f() -> None:
    x = X.clone().requires_grad_()
    torch.testing.assert_close(Implicit(Broyden(), 3)(bound(x), Z), bound(X)(Z))
    with torch.no_grad():
        assert not Implicit(Broyden(), 3)(bound(x), Z).requires_grad


def test_implicit_gradient_reaches_parameters_when_images_need_none() -> None:
    matrix = MATRIX.clone().requires_grad_()
    Implicit(Broyden(), 30)(bound(X, matrix), fixed_point(X)).sum().backward()
    reference = MATRIX.clone().requires_grad_()
    fixed_point(X, reference).sum().backward()
    torch.testing.assert_close(matrix.grad, reference.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("steps", [-1, -5])
def test_negative_number_of_steps_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} unroll steps.*fewer than 0"):
        Unrolled(steps=steps, damping=0.5)


@pytest.mark.parametrize("damping", [0.0, -0.5, 1.01])
def test_damping_outside_its_range_is_refused(damping: float) -> None:
    with pytest.raises(ValueError, match=f"damping is {damping}.*above 0 and at most 1"):
        Unrolled(steps=1, damping=damping)
