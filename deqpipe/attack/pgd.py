"""Projected gradient descent (Madry et al., 2018) in the l-infinity ball."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from deqpipe.compute.replay import DIRECT, Runner, Step
from deqpipe.machine import stopping
from deqpipe.machine.device import upload
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Labels, Logits, PerImage, Scalar
from deqpipe.threat_model import LinfBall

Objective: TypeAlias = Callable[[Tensor], Tensor]
"""Images -> a number to maximise, summed over the images so that each one's gradient is its own."""


@dataclass(frozen=True)
class Repeatable:
    """An objective that says what it depends on, so that its steps can be captured once and replayed.

    Attributes:
        value: (images, *given) -> the number to maximise; looks at nothing else that changes.
        given: such as labels.
        key: equal for objectives whose `value` does the same work.
    """

    value: Callable[..., Tensor]
    given: tuple[Tensor, ...]
    key: Hashable

    def __call__(self, x: Images) -> Scalar:
        """The number to maximise."""
        return self.value(x, *self.given)


@dataclass(frozen=True)
class Drawn:
    """An objective that is drawn anew for every step.

    Attributes:
        draw: gives the next step's.
    """

    draw: Callable[[], Objective]

    def __call__(self, x: Images) -> Scalar:
        """The number to maximise, by a draw of its own."""
        value: Tensor = self.draw()(x)
        return value


@dataclass(frozen=True)
class Attacked:
    """What an attack made.

    Attributes:
        images: inside the ball and inside [0, 1].
        lost_gradient: share of the steps, per image, whose gradient was zero (or no number) in every pixel.
    """

    images: Images
    lost_gradient: PerImage

    def parts(self, count: int) -> list["Attacked"]:
        """What several attacks on the same images made, which were stacked along the batch."""
        pairs = zip(self.images.chunk(count), self.lost_gradient.chunk(count), strict=True)
        return [Attacked(images, lost) for images, lost in pairs]


@dataclass(frozen=True)
class PGD:
    """Signed gradient ascent from a given start.

    Attributes:
        ball: the threat model.
        steps: gradient steps.
        step_size: alpha, in units of the pixel range.
        run: what runs the steps of objectives that can be repeated.
    """

    ball: LinfBall
    steps: int
    step_size: float
    run: Runner = field(default=DIRECT, compare=False)

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

        Raises:
            Interrupted: the work under way is to be left.
        """
        adversarial = start.detach()
        lost = torch.zeros(len(x), device=x.device)
        for _ in range(self.steps):
            stopping.check()  # a step that is replayed, or of a network without f, asks nowhere else
            drawn = objective.draw() if isinstance(objective, Drawn) else objective  # outside of what is captured
            step, key, given = self._step(drawn)
            inputs = (adversarial, lost, x, *given)
            adversarial, lost = step(*inputs) if key is None else self.run(step, key, inputs)
        return Attacked(adversarial, lost / self.steps)

    def _step(self, objective: Objective) -> tuple[Step, Hashable | None, tuple[Tensor, ...]]:
        """A step as a function of tensors, what it is known by, and the tensors that it is given beside images."""
        repeatable = objective if isinstance(objective, Repeatable) else None

        def step(adversarial: Tensor, lost: Tensor, x: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
            value = partial(_given, repeatable.value, given) if repeatable else objective
            direction = _input_gradient(value, adversarial).sign()  # 0 where the gradient is no number
            moved = self.ball.project(adversarial + self.step_size * direction, x)
            return moved, lost + (direction.flatten(1) == 0).all(1)

        return (step, (self, repeatable.key), repeatable.given) if repeatable else (step, None, ())


def _given(value: Callable[..., Tensor], given: tuple[Tensor, ...], x: Tensor) -> Tensor:
    return value(x, *given)


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
    return Repeatable(partial(_unfooled, logits_of), (y,), ("unfooled", logits_of))


def _unfooled(logits_of: Callable[[Tensor], Logits], x: Images, y: Labels) -> Scalar:
    logits = logits_of(x)
    losses = F.cross_entropy(logits, y, reduction="none")
    return torch.where(logits.argmax(1) == y, losses, 0).sum()


def cross_entropy_objective(logits_of: Callable[[Tensor], Logits], y: Labels) -> Objective:
    """The summed cross-entropy of some logits with respect to the labels."""
    return Repeatable(partial(_cross_entropy, logits_of), (y,), ("cross-entropy", logits_of))


def _cross_entropy(logits_of: Callable[[Tensor], Logits], x: Images, y: Labels) -> Scalar:
    return F.cross_entropy(logits_of(x), y, reduction="sum")
