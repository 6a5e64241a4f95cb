"""Solvers and Algorithm 1 for one image, as they stand in textbooks and in the paper: dense matrices, no batch."""

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def sherman_morrison(inverse: Tensor, dz: Tensor, dg: Tensor) -> Tensor:
    """B^-1 after Broyden's rank-one update of B that makes `B dz = dg`."""
    return inverse + torch.outer(dz - inverse @ dg, dz @ inverse) / (dz @ inverse @ dg)


def broyden(f: Map, z0: Tensor, steps: int) -> list[Tensor]:
    """z^[1] .. z^[steps] of Broyden's good method for g(z) = f(z) - z, from B = -I."""
    z, inverse, states = z0, -torch.eye(len(z0), dtype=z0.dtype), []
    for _ in range(steps):
        z_new = z - inverse @ (f(z) - z)
        dg = (f(z_new) - z_new) - (f(z) - z)
        inverse = sherman_morrison(inverse, z_new - z, dg)
        z = z_new
        states.append(z)
    return states


def anderson(f: Map, z0: Tensor, steps: int, *, memory: int) -> list[Tensor]:
    """z^[1] .. z^[steps] of Anderson mixing: the combination of the last `memory` states with the least residual."""
    history, states = [z0], []
    for _ in range(steps):
        window = history[-memory:]
        residuals = torch.stack([f(z) - z for z in window], dim=1)
        basis = residuals[:, :-1] - residuals[:, -1:]
        weights = torch.linalg.lstsq(basis, -residuals[:, -1:]).solution[:, 0] if len(window) > 1 else torch.zeros(0)
        weights = torch.cat([weights.to(z0.dtype), 1 - weights.sum(0, keepdim=True).to(z0.dtype)])
        history.append(sum(weight * f(z) for weight, z in zip(weights, window, strict=True)))
        states.append(history[-1])
    return states


def entropy(logits: Tensor) -> Tensor:
    """H of the softmax of one image's logits, in nats."""
    p = torch.exp(logits) / torch.exp(logits).sum()
    return -(p * torch.log(p)).sum()


def algorithm_1(
    f: Callable[[Tensor, Tensor], Tensor],
    head: Callable[[Tensor], Tensor],
    x: Tensor,
    z0: Tensor,
    *,
    steps: int,
    solver_steps: int,
    input_steps: int,
    step_size: float,
    epsilon: float,
    sign: bool = True,
    update_last: bool = True,
) -> tuple[list[Tensor], Tensor]:
    """Algorithm 1 with Broyden's method: z^[1] .. z^[N], and the input at the end."""
    z, inverse, states = z0, -torch.eye(len(z0), dtype=z0.dtype), []
    x_t = x
    for t in range(steps):
        z_new = z - inverse @ (f(z, x_t) - z)  # line 4
        if (t + 1) % solver_steps == 0 and (t + 1 < steps or update_last):
            for _ in range(input_steps):  # lines 8 to 10
                image = x_t.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(entropy(head(f(z_new, image))), image)
                moved = x_t - step_size * (torch.sign(gradient) if sign else gradient)
                x_t = torch.clamp(torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon), 0, 1)
            z_new = z - inverse @ (f(z, x_t) - z)  # line 13
        dg = (f(z_new, x_t) - z_new) - (f(z, x_t) - z)
        inverse = sherman_morrison(inverse, z_new - z, dg)
        z = z_new
        states.append(z)
    return states, x_t
