"""Projected gradient descent (Madry et al., 2018) in the l-infinity ball."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from deqpipe.device import upload
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Labels, Logits, PerImage
from deqpipe.threat_model import LinfBall

Objective: TypeAlias = Callable[[Tensor], Tensor]
"""Images -> a number to maximise, summed over the images so that each one's gradient is its own."""


@dataclass(frozen=True)
class Attacked:
    """What an attack made.

    Attributes:
        images: inside the ball and inside [0, 1].
        lost_gradient: share of the steps, per image, whose gradient was zero (or no number) in every pixel.
    """

    images: Images
    lost_gradient: PerImage


@dataclass(frozen=True)
class PGD:
    """Signed gradient ascent from a given start.

    Attributes:
        ball: the threat model.
        steps: gradient steps.
        step_size: alpha, in units of the pixel range.
    """

    ball: LinfBall
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        """Refuse an attack that takes no step.

        Raises:
            ValueError: fewer than one step.
        """
        if self.steps < 1:
            raise ValueError(f"{self.steps} attack steps were asked for, but there must be at least 1")

    def __call__(self, objective: Objective, x: Images, *, start: Images) -> Attacked:
        """Images near `x` that make `objective` large.

        Gradients of parameters are neither computed nor changed.
        """
        adversarial = start.detach()
        lost = torch.zeros(len(x), device=x.device)
        for _ in range(self.steps):
            direction = _input_gradient(objective, adversarial).sign()  # 0 where the gradient is no number
            lost += (direction.flatten(1) == 0).all(1)
            adversarial = self.ball.project(adversarial + self.step_size * direction, x)
        return Attacked(adversarial, lost / self.steps)


def _input_gradient(objective: Objective, x: Images) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(x), x)
    return gradient


def uniform_start(x: Images, *, ball: LinfBall, stream: Stream, images: Sequence[int], clamp: bool) -> Images:
    """A uniform draw from the ball around `x`, one stream per image.

    Args:
        x: clean images.
        ball: the threat model.
        stream: where the numbers come from.
        images: index of each image, the key of its stream: the start does not depend on batch or shard.
        clamp: whether it is clamped into [0, 1].
    """
    noise = upload(stream.uniform(images, tuple(x.shape[1:])), x.device).to(x.dtype)
    start = x + (2 * noise - 1) * ball.epsilon
    return start.clamp(0, 1) if clamp else start


def unfooled_objective(logits_of: Callable[[Tensor], Logits], y: Labels) -> Objective:
    """The cross-entropy summed over the images that are still classified right: the others have no gradient.

    So PGD leaves an image alone while it is misclassified.
    """

    def objective(x: Tensor) -> Tensor:
        logits = logits_of(x)
        return torch.where(logits.argmax(1) == y, F.cross_entropy(logits, y, reduction="none"), 0).sum()

    return objective


def cross_entropy_objective(logits_of: Callable[[Tensor], Logits], y: Labels) -> Objective:
    """The summed cross-entropy of some logits with respect to the labels."""
    return lambda x: F.cross_entropy(logits_of(x), y, reduction="sum")
