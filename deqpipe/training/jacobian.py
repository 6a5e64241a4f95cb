"""Jacobian regularisation (Bai et al., 2021)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deqpipe.compute.evaluations import Counter
from deqpipe.machine.device import upload
from deqpipe.model.interface import eager
from deqpipe.shapes import Scalar, State
from deqpipe.solver.base import FixedPointMap


def jacobian_loss(fn: FixedPointMap, z: State, probes: Iterable[State], *, counter: Counter | None = None) -> Scalar:
    """Hutchinson's estimate of norm(J)_F^2, divided by the number of entries of z; J is the Jacobian of f at z.

    Args:
        fn: z -> f(z).
        z: where J is taken, (batch, state); no gradient flows into it.
        probes: standard Gaussian vectors, one estimate each, which are averaged.
        counter: told of the products, whose own backward pass it does not see.
    """
    at = z.detach().requires_grad_()
    value = eager(fn)(at)
    products = [_product(value, at, probe) for probe in probes]
    if counter is not None:
        counter.count_differentiated(products)
    return torch.stack([product.square().sum() for product in products]).mean() / z.numel()


def _product(value: Tensor, at: Tensor, probe: Tensor) -> Tensor:
    """probe^T J, differentiable."""
    # as a sum: a vector that is handed to autograd makes torch import its compiler's arithmetic of shapes
    (product,) = torch.autograd.grad((value * probe).sum(), at, create_graph=True)
    return product


def gaussian_probes(z: State, *, count: int, generator: torch.Generator) -> Iterator[State]:
    """Standard Gaussian vectors like z, from a CPU generator."""
    for _ in range(count):
        yield upload(torch.randn(z.shape, generator=generator), z.device).to(z.dtype)


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
