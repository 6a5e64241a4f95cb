"""Jacobian regularisation (Bai et al., 2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deqpipe.shapes import Scalar, State
from deqpipe.solver.base import FixedPointMap


def jacobian_loss(fn: FixedPointMap, z: State, *, probes: int, generator: torch.Generator) -> Scalar:
    """Hutchinson's estimate of norm(J)_F^2, divided by the number of entries of z; J is the Jacobian of f at z.

    Args:
        fn: z -> f(z).
        z: where J is taken, (batch, state); no gradient flows into it.
        probes: how many Gaussian vectors are averaged.
        generator: CPU generator of the probes.
    """
    at = z.detach().requires_grad_()
    value = fn(at)
    terms = [_squared_product(value, at, generator) for _ in range(probes)]
    return torch.stack(terms).mean() / z.numel()


def _squared_product(value: Tensor, at: Tensor, generator: torch.Generator) -> Tensor:
    probe = torch.randn(value.shape, generator=generator).to(value.device, value.dtype)
    (product,) = torch.autograd.grad(value, at, probe, create_graph=True)
    return product.square().sum()


@dataclass(frozen=True)
class JacobianRegularisation:
    """When and how strongly the Jacobian is regularised.

    Attributes:
        weight: factor of the term in the loss.
        frequency: share of the steps that carry it.
        last_step: no term from this step on.
        probes: Gaussian vectors per estimate.
        length_jitter: the solver takes N plus a uniform draw from this range, ends included, on such a step.
    """

    weight: float
    frequency: float
    last_step: int
    probes: int
    length_jitter: tuple[int, int]

    def due(self, step: int, generator: torch.Generator) -> bool:
        """Whether a step carries the term (one draw, so that later draws do not depend on the answer)."""
        drawn = bool(torch.rand((), generator=generator) < self.frequency)
        return drawn and step < self.last_step and self.weight > 0

    def extra_steps(self, generator: torch.Generator) -> int:
        """By how many steps the solve is longer on a regularised step."""
        low, high = self.length_jitter
        return int(torch.randint(low, high + 1, (), generator=generator))
