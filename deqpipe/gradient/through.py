"""Gradients through the way to a state: the solver's own steps, and the updates of the input between them.

Dynamics that are differentiated this way (`Dynamics.with_gradient`) run the same loop as without a gradient, so their
states are those that decide, bit for bit on a CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deqpipe.model.interface import FixedPointModel
from deqpipe.shapes import Images
from deqpipe.solver.base import FixedPointMap

UpdateRule: TypeAlias = Literal["constant", "straight_through", "smoothed"]
"""What the gradient makes of an update of the input; see `Through`."""


@dataclass(frozen=True)
class Through:
    """How dynamics are differentiated.

    The updates of the input (Sec. 3.2) take the sign of a gradient, whose own gradient is zero. They are differentiated

    - constant: as if the input were moved by what it was moved by, whatever the image (an identity, as in BPDA);
    - straight_through: the sign counts as g / mean(|g|), with the mean of each image held constant, and through the
      gradient g itself goes a second backward pass; the projection counts as it is;
    - smoothed: the sign is tanh(sharpness * g / mean(|g|)), forward as well: other states, which come the closer the
      larger the sharpness.

    Attributes:
        updates: what becomes of updates of the input.
        sharpness: of `smoothed`.
        recompute: keep of every application of f its input alone, and compute it again in the backward pass: a third
            more work, and a small part of the memory.
    """

    updates: UpdateRule = "constant"
    sharpness: float = 1.0
    recompute: bool = False

    def __post_init__(self) -> None:
        """Refuse a sharpness that smooths nothing.

        Raises:
            ValueError: it is not above 0.
        """
        if not self.sharpness > 0:
            raise ValueError(f"sharpness is {self.sharpness}, but must be above 0")

    def bind(self, model: FixedPointModel, x: Images) -> FixedPointMap:
        """f(.; x), with gradient to both."""
        return partial(self.apply, model.bind(x).eager)

    def apply(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """A function of tensors, of which little is kept if that is asked for."""
        if not (self.recompute and torch.is_grad_enabled()):
            return function(*inputs)
        value: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return value


EXACT = Through()
"""Through the solver's steps, updates of the input constant."""


def moved_with(value: Images, received: Images) -> Images:
    """`value`, bit for bit, as if it were `received` and a constant: its gradient is that of `received`."""
    return value.detach() + (received - received.detach())
