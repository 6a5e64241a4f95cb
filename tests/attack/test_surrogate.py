"""Surrogates are Eq. (11) written out, over i, K_a, lambda and the leading step."""

import itertools

import pytest
import torch

from deqpipe.attack.surrogate import IntermediateState, surrogate_of
from deqpipe.dynamics import PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.specs import GridPoint
from tests.reference import slow_mdeq, textbook
from tests.reference.tiny import images, tiny_model

N = 4
MODEL = tiny_model(2, size=4)
DYNAMICS = PlainDynamics(Broyden(), Termination(N))
GRID = list(itertools.product((1, 2, 4), (1, 3), (0.5, 1.0), (False, True)))


def by_hand(x: torch.Tensor, *, state: int, steps: int, damping: float, lead_step: bool) -> torch.Tensor:
    """Logits of one image."""
    weights, shapes = MODEL.state_dict(), MODEL.scale_shapes

    def f(z: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return slow_mdeq.f(weights, z, image, shapes=shapes, groups=4)

    start = torch.zeros(MODEL.state_size, dtype=torch.float64)
    z = textbook.broyden(lambda z: f(z, x.detach()), start, N)[state - 1]
    z = f(z, x) if lead_step else z
    for _ in range(steps):
        z = (1 - damping) * z + damping * f(z, x)
    return slow_mdeq.head(weights, z, shapes=shapes)


@pytest.mark.parametrize(("state", "steps", "damping", "lead_step"), GRID)
def test_logits_and_their_gradient_are_equation_11(state: int, steps: int, damping: float, lead_step: bool) -> None:
    point = GridPoint(damping=damping, state=state, steps=steps)
    surrogate = surrogate_of(point, dynamics=DYNAMICS, lead_step=lead_step)
    x, x_hand = images(2, size=4).requires_grad_(), images(2, size=4).requires_grad_()
    logits = surrogate(MODEL, x)
    rows = [by_hand(image, state=state, steps=steps, damping=damping, lead_step=lead_step) for image in x_hand]
    expected = torch.stack(rows)
    torch.testing.assert_close(logits, expected, rtol=1e-7, atol=1e-8)
    mixture = torch.arange(1.0, logits.numel() + 1, dtype=torch.float64).view_as(logits)
    (gradient,) = torch.autograd.grad((logits * mixture).sum(), x)
    (expected_gradient,) = torch.autograd.grad((expected * mixture).sum(), x_hand)
    assert (gradient - expected_gradient).norm() <= 1e-6 * expected_gradient.norm()


def test_every_point_of_the_grid_has_logits_of_its_own() -> None:
    x = images(1, size=4)
    with torch.no_grad():
        logits = [
            surrogate_of(GridPoint(damping=d, state=i, steps=k), dynamics=DYNAMICS, lead_step=False)(MODEL, x)
            for i, k, d, lead in GRID
            if not lead
        ]
    assert not any(torch.allclose(a, b, rtol=1e-6) for a, b in itertools.combinations(logits, 2))


def test_point_is_taken_by_name() -> None:
    surrogate = surrogate_of(GridPoint(damping=0.3, state=2, steps=7), dynamics=DYNAMICS, lead_step=True)
    assert surrogate == IntermediateState(2, Unrolled(steps=7, damping=0.3, lead_step=True), DYNAMICS)


@pytest.mark.parametrize(("state", "steps"), [(1, 1), (3, 2), (4, 5)])
def test_logits_cost_as_many_evaluations_as_states_and_steps(state: int, steps: int) -> None:
    model, x = tiny_model(1, size=4), images(2, size=4)
    surrogate_of(GridPoint(damping=0.5, state=state, steps=steps), dynamics=DYNAMICS, lead_step=False)(model, x)
    assert model.f_evaluations == 2 * (state + steps)


@pytest.mark.parametrize("state", [0, N + 1])
def test_state_that_the_dynamics_do_not_have_is_refused(state: int) -> None:
    surrogate = surrogate_of(GridPoint(damping=0.5, state=state, steps=1), dynamics=DYNAMICS, lead_step=False)
    with pytest.raises(IndexError, match=f"state {state} was asked for, but the dynamics have states 1 to {N}"):
        surrogate(MODEL, images(1, size=4))
