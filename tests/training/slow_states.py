"""What is read of a solve, the slow way: from all of its states, every residual computed anew."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deqpipe.solver.base import FixedPointMap
from deqpipe.solver.solve import Returned


@torch.no_grad()
def slow_residuals(fn: FixedPointMap, states: Sequence[Tensor]) -> Tensor:
    """norm(f(z) - z) / norm(f(z)), (step, batch)."""
    return torch.stack([(fn(z) - z).norm(dim=1) / fn(z).norm(dim=1) for z in states])


@torch.no_grad()
def slow_batch_residuals(fn: FixedPointMap, states: Sequence[Tensor]) -> Tensor:
    """The same with the norms taken over all images at once, (step,)."""
    return torch.stack([(fn(z) - z).norm() / fn(z).norm() for z in states])


def slow_returned(fn: FixedPointMap, states: Sequence[Tensor], returned: Returned) -> Tensor:
    """The last of the states, or that of lowest residual."""
    if returned == "last":
        return states[-1]
    if returned == "lowest_batch":
        return states[int(slow_batch_residuals(fn, states).argmin())]
    picked = slow_residuals(fn, states).argmin(dim=0).tolist()
    return torch.stack([states[n][image] for image, n in enumerate(picked)])
