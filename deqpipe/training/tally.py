"""What a training counts on its device, where a step adds to it without anybody waiting for the device."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from deqpipe.shapes import Scalar

EXPLODED = 1000.0
"""How many times the loss of guessing, log(classes), a step's mean loss may be; above it the training has diverged.

A cross-entropy is about the mean gap between the logits of the largest class and of the label. Sound trainings keep
gaps of tens at most, spikes included, and so losses of up to ten times that of guessing (16 was the largest of a ResNet
at five times the learning rate that it can stand). TRADES adds 1/lambda = 6 times a divergence of the same kind, a
random state (Sec. 3.3) is one state in place of another, and a Jacobian term is about 1 where the solver still
converges: with all of it the bound, 2,303 for ten classes, is ten times away. Beyond it probabilities are 0 and 1 in
every precision, and nothing that is descended on tells one image from another.
"""


@dataclass(frozen=True)
class Reading:
    """What a tally said when it was read.

    Attributes:
        loss_sum: over the images so far.
        correct: how many of them were classified right.
        bad_step: the first step whose loss exploded, or whose loss or gradient was not finite; None: there was none.
        bad_loss: its loss.
        bad_penalty: the part of it that the regularisation of the Jacobian is.
    """

    loss_sum: float
    correct: int
    bad_step: int | None
    bad_loss: float
    bad_penalty: float


@dataclass(frozen=True)
class Tally:
    """Sums over an epoch so far, and whether all steps were sound; every one on the device.

    Attributes:
        loss_sum: over the images, in float64.
        correct: how many of them were classified right.
        bad_step: the first step whose loss exploded, or whose loss or gradient was not finite; -1: there was none.
        bad_loss: its loss.
        bad_penalty: the part of it that the regularisation of the Jacobian is.
    """

    loss_sum: Scalar
    correct: Int[Tensor, ""]
    bad_step: Int[Tensor, ""]
    bad_loss: Scalar
    bad_penalty: Scalar

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
            bad_penalty=zero(torch.float64),
        )

    def judged(self, loss: Scalar, gradient: Scalar, *, penalty: Scalar | None, bound: float, step: int) -> "Tally":
        """With a step looked at. Once one was bad, later ones change nothing.

        Args:
            loss: of the step.
            gradient: its `magnitude`.
            penalty: the part of the loss that the regularisation of the Jacobian is, if there is one.
            bound: what the loss must stay below, as `largest_loss` says.
            step: its number.
        """
        sound = gradient.isfinite() & (loss.abs() <= bound)  # neither NaN nor an infinite loss is
        bad_now = ~sound & (self.bad_step < 0)
        kept = self.bad_penalty if penalty is None else torch.where(bad_now, penalty.double(), self.bad_penalty)
        return replace(
            self,
            bad_step=torch.where(bad_now, step, self.bad_step),
            bad_loss=torch.where(bad_now, loss.double(), self.bad_loss),
            bad_penalty=kept,
        )

    def added(self, loss: Scalar, correct: Int[Tensor, ""], *, images: int) -> "Tally":
        """With the images of a step counted."""
        # a product and a sum of their own, never fused: the bits of Python's floats
        return replace(self, loss_sum=self.loss_sum + loss.double() * images, correct=self.correct + correct)

    @property
    def withheld(self) -> Scalar:
        """Whether no update may be made any more, 1 or 0, as fused optimisers want to know it."""
        return (self.bad_step >= 0).float()

    def read(self) -> Reading:
        """All of it, in one copy to the host, which waits for the device."""
        counted = (self.loss_sum, self.correct, self.bad_step, self.bad_loss, self.bad_penalty)
        loss_sum, correct, step, loss, penalty = torch.stack([number.double() for number in counted]).cpu().tolist()
        return Reading(loss_sum, int(correct), None if step < 0 else int(step), loss, penalty)


def largest_loss(classes: int) -> float:
    """The bound of a step's mean loss; see `EXPLODED`."""
    return EXPLODED * math.log(classes)


def magnitude(gradients: Iterable[Tensor]) -> Scalar:
    """The sum of all absolute values: finite if and only if they are, unless they are some 1e30 on average.

    One reduction of all tensors at once, instead of some per tensor.
    """
    return torch.nn.utils.get_total_norm(list(gradients), norm_type=1)
