"""Dynamics of one's own: the states, the same ones with gradient, and that gradient."""

import torch

from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.model.adapter import AdaptedModel
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.solve import Termination
from tests.extending.dynamics import DAMPING, STEPS, Settled
from tests.extending.model import Dense

N = 4


def settled(dtype: torch.dtype = torch.float64) -> tuple[AdaptedModel, Settled, torch.Tensor]:
    torch.manual_seed(3)
    x = torch.rand(2, 1, 4, 4, dtype=dtype)
    model = AdaptedModel(Dense((1, 4, 4), 3).to(dtype), x)
    return model, Settled(PlainDynamics(Anderson(memory=3), Termination(max_steps=N))), x


def test_every_state_has_gone_on_by_damped_steps() -> None:
    model, dynamics, x = settled()
    assert isinstance(dynamics, Dynamics)
    plain, states = dynamics.plain(model, x), dynamics(model, x).solution.states
    for n in range(N):
        z = plain.solution.states[n]
        for _ in range(STEPS):
            z = (1 - DAMPING) * z + DAMPING * plain.fn(z)
        assert torch.allclose(states[n], z, rtol=1e-12, atol=1e-14)
        assert not torch.allclose(states[n], plain.solution.states[n], atol=1e-4)


def test_states_with_gradient_are_the_same_ones_and_a_shorter_solve_has_the_first_of_them() -> None:
    model, dynamics, x = settled(torch.float32)
    states = dynamics(model, x).solution.states
    assert torch.equal(dynamics.with_gradient(model, x).solution.states, states)
    assert torch.equal(dynamics.up_to(2)(model, x).solution.states, states[:2])


def test_the_gradient_is_that_of_finite_differences() -> None:
    model, dynamics, x = settled()

    def decision(images: torch.Tensor) -> torch.Tensor:
        return model.logits(dynamics.with_gradient(model, images).state(3))

    assert torch.autograd.gradcheck(decision, (x.requires_grad_(),), eps=1e-6, atol=1e-6)
