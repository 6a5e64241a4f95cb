"""What a training counts on its device, where a step adds to it without anybody waiting for the device."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from deqpipe.shapes import Scalar


@dataclass(frozen=True)
class Reading:
    """What a tally said when it was read.

    Attributes:
        loss_sum: over the images so far.
        correct: how many of them were classified right.
        bad_step: the first step whose loss or gradient was not finite; None: there was none.
        bad_loss: its loss.
    """

    loss_sum: float
    correct: int
    bad_step: int | None
    bad_loss: float


@dataclass(frozen=True)
class Tally:
    """Sums over an epoch so far, and whether all numbers were finite; every one on the device.

    Attributes:
        loss_sum: over the images, in float64.
        correct: how many of them were classified right.
        bad_step: the first step whose loss or gradient was not finite; -1: there was none.
        bad_loss: its loss.
    """

    loss_sum: Scalar
    correct: Int[Tensor, ""]
    bad_step: Int[Tensor, ""]
    bad_loss: Scalar

    @classmethod
    def start(cls, device: torch.device, *, loss_sum: float = 0.0, correct: int = 0) -> "Tally":
        """Sums to go on from, and nothing bad so far."""

        def zero(dtype: torch.dtype) -> Tensor:
            return torch.zeros((), dtype=dtype, device=device)

        return cls(
            loss_sum=zero(torch.float64) + loss_sum,
            correct=zero(torch.int64) + correct,
            bad_step=zero(torch.int64) - 1,
            bad_loss=zero(torch.float64),
        )

    def judged(self, loss: Scalar, gradient: Scalar, *, step: int) -> "Tally":
        """With a step's loss, and the `magnitude` of its gradient, looked at.

        Once a step was bad, later ones change nothing.
        """
        finite = gradient.isfinite() & loss.isfinite()
        bad_now = ~finite & (self.bad_step < 0)
        return Tally(
            self.loss_sum,
            self.correct,
            bad_step=torch.where(bad_now, step, self.bad_step),
            bad_loss=torch.where(bad_now, loss.double(), self.bad_loss),
        )

    def added(self, loss: Scalar, correct: Int[Tensor, ""], *, images: int) -> "Tally":
        """With the images of a step counted."""
        # a product and a sum of their own, never fused: the bits of Python's floats
        return Tally(self.loss_sum + loss.double() * images, self.correct + correct, self.bad_step, self.bad_loss)

    @property
    def withheld(self) -> Scalar:
        """Whether no update may be made any more, 1 or 0, as fused optimisers want to know it."""
        return (self.bad_step >= 0).float()

    def read(self) -> Reading:
        """All of it, in one copy to the host, which waits for the device."""
        together = torch.stack([self.loss_sum, self.correct.double(), self.bad_step.double(), self.bad_loss])
        loss_sum, correct, bad_step, bad_loss = together.cpu().tolist()
        return Reading(loss_sum, int(correct), None if bad_step < 0 else int(bad_step), bad_loss)


def magnitude(gradients: Iterable[Tensor]) -> Scalar:
    """The sum of all absolute values: finite if and only if they are, unless they are some 1e30 on average.

    One reduction of all tensors at once, instead of some per tensor.
    """
    return torch.nn.utils.get_total_norm(list(gradients), norm_type=1)
