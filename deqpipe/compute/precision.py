"""In which numbers the convolutions of f are computed; everything else stays in the model's own."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from deqpipe.compute.convolution import conv2d

PrecisionName: TypeAlias = Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True)
class Precision:
    """How a convolution of f takes its input and its weight.

    Norms, sums over scales, the solver, losses and entropies are never rounded: only what enters a convolution is, and
    what comes out of one. tf32 is a mode of the device (`device.set_up`) and changes nothing here.

    Attributes:
        name: fp32, tf32 or bf16.
    """

    name: PrecisionName = "fp32"

    @property
    def rounds(self) -> bool:
        """Whether convolutions are in bfloat16."""
        return self.name == "bf16"

    def weight(self, weight: Tensor) -> Tensor:
        """A weight as convolutions take it, cast once for all applications of f."""
        return weight.to(torch.bfloat16) if self.rounds else weight

    def conv2d(self, x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
        """The convolution of `x` with what `weight` gave, in the type of `x`.

        Without a device for bfloat16 the same rounding is done by hand: inputs and result are bfloat16 numbers, sums in
        between are not, as on a GPU.
        """
        if not self.rounds:
            return conv2d(x, weight, stride=stride, padding=padding)
        if x.device.type == "cpu":
            exact = conv2d(rounded(x), weight.to(x.dtype), stride=stride, padding=padding)
            return rounded(exact)
        return conv2d(x.to(torch.bfloat16), weight, stride=stride, padding=padding).to(x.dtype)


FP32 = Precision()


def rounded(x: Tensor) -> Tensor:
    """The nearest bfloat16 numbers, in the type of `x`; gradients are rounded, too."""
    return x.to(torch.bfloat16).to(x.dtype)
