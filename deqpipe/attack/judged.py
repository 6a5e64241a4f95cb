"""Attacks that ask the true decision about every image they come by, and what they have come to so far.

Whatever an attack's gradient is of, an image counts as soon as the decision errs on it. It takes no further step then.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from deqpipe.attack.losses import margin
from deqpipe.shapes import Images, Labels, Logits, PerImage
from deqpipe.threat_model import LinfBall

Rows = Int[Tensor, " some"]
"""Which images of a batch."""


@dataclass(frozen=True)
class Measured:
    """An objective at some images.

    Attributes:
        loss: per image, to be made large; carries the gradient.
        logits: those of the decision, bit for bit, where the way to the loss passes through them; None: it does not.
    """

    loss: PerImage
    logits: Logits | None = None


@runtime_checkable
class JudgedObjective(Protocol):
    """What an attack makes large on a batch."""

    def __call__(self, x: Images, rows: Rows) -> Measured:
        """At images that stand for some of the batch."""
        ...


@dataclass(frozen=True)
class Crafted:
    """What an attack has come to, one value per image.

    Attributes:
        delta: the change of the image on which the decision's margin was the lowest that the attack met.
        images: x + delta, bit for bit.
        margin: of the decision there: logit of the label minus the largest other; minus infinity where its logits are
            not finite.
        broken_at: steps taken, over all starts, when the decision first erred; 0: at the first start; -1: never.
        taken: steps taken.
        lost_gradient: share of them whose gradient was zero, or no number, in every pixel; NaN without gradients.
        spread: the largest minus the smallest of the lowest margins of the starts; NaN with fewer than two.
    """

    delta: Images
    images: Images
    margin: PerImage
    broken_at: Int[Tensor, " batch"]
    taken: Int[Tensor, " batch"]
    lost_gradient: PerImage
    spread: PerImage


class Hunt:
    """An attack under way on a batch: the worst images met, and who still stands."""

    def __init__(
        self, x: Images, y: Labels, decide: Callable[[Images], Logits], ball: LinfBall, *, together: bool = False
    ) -> None:
        """Begin.

        Args:
            x: clean images.
            y: their classes.
            decide: the true decision's logits.
            ball: the threat model.
            together: images influence each other, so that all stay as long as one stands.
        """
        self.x, self.y, self.ball = x, y, ball
        self.decide, self._together = decide, together
        count, device = len(x), x.device
        self.delta = torch.zeros_like(x)
        self.margin = torch.full((count,), torch.inf, device=device, dtype=x.dtype)
        self.broken_at = torch.full((count,), -1, dtype=torch.int64, device=device)
        self.taken = torch.zeros(count, dtype=torch.int64, device=device)
        self._lost = torch.zeros(count, device=device)
        self._gradients = torch.zeros(count, device=device)
        self._lowest: list[Tensor] = []  # of each start

    @property
    def standing(self) -> Rows:
        """The images that are still classified right, or all of them while one of a coupled batch is."""
        rows = (self.broken_at < 0).nonzero().flatten()
        return torch.arange(len(self.x), device=rows.device) if self._together and len(rows) else rows

    def starts(self, count: int) -> Iterator[int]:
        """The numbers of the starts, as long as an image stands; what each comes to is kept apart."""
        for number in range(count):
            if not len(self.standing):
                return
            self._lowest.append(torch.full_like(self.margin, torch.nan))
            yield number

    def inside(self, images: Images, rows: Rows) -> Images:
        """The nearest images that the threat model allows and that are x + delta, bit for bit, with delta = images - x.

        Rounding twice is enough: what lies halfway between two numbers has then gone to the even one, where it stays.
        """
        x = self.x[rows]
        near = x + (self.ball.project(images, x) - x)
        return x + (near - x)

    def judge(self, images: Images, rows: Rows, logits: Logits | None = None) -> Bool[Tensor, " some"]:
        """Whether the decision is right on images that stand for some of the batch; they are taken note of.

        Args:
            images: as `inside` gives them.
            rows: whom they stand for.
            logits: the decision's, where they are known.
        """
        if logits is None:
            with torch.no_grad():
                logits = self.decide(images)
        right = self.right(logits, rows)
        self._note(images, rows, self.margins(logits.detach(), rows), right)
        return right

    @torch.no_grad()
    def answers(self, images: Images, rows: Rows) -> Logits:
        """The decision's logits on images that stand for some of the batch.

        Where images influence each other it is asked about the whole batch, the others as they came.
        """
        if not self._together or len(rows) == len(self.x):
            return self.decide(images)
        batch = self.x.clone()
        batch[rows] = images
        return self.decide(batch)[rows]

    def right(self, logits: Logits, rows: Rows) -> Bool[Tensor, " some"]:
        """Whether logits, of some of the batch, say the label; they do not where one is not finite."""
        return logits.isfinite().all(1) & (logits.argmax(1) == self.y[rows])

    def margins(self, logits: Logits, rows: Rows) -> PerImage:
        """Logit of the label minus the largest other, of some of the batch; minus infinity where one is not finite."""
        return torch.where(logits.isfinite().all(1), -margin(logits, self.y[rows]), -torch.inf)

    def _note(self, images: Images, rows: Rows, margins: PerImage, right: Tensor) -> None:
        open_ = self.broken_at[rows] < 0
        lower = open_ & ((margins < self.margin[rows]) | ~right)
        better = rows[lower]
        self.delta[better] = images[lower] - self.x[better]
        self.margin[better] = margins[lower]
        fallen = rows[open_ & ~right]
        self.broken_at[fallen] = self.taken[fallen]
        if self._lowest:
            before = self._lowest[-1][rows]
            self._lowest[-1][rows] = torch.where(
                margins < before, margins, torch.where(before.isnan(), margins, before)
            )

    def step(self, rows: Rows, gradient: Tensor | None = None) -> None:
        """Count a step, and whether its gradient led anywhere."""
        self.taken[rows] += 1
        if gradient is not None:
            self._gradients[rows] += 1
            self._lost[rows] += ~(gradient.isfinite() & (gradient != 0)).flatten(1).any(1)

    def outcome(self) -> Crafted:
        """What it has come to."""
        lost = torch.where(self._gradients > 0, self._lost / self._gradients.clamp_min(1), torch.nan)
        return Crafted(self.delta, self.x + self.delta, self.margin, self.broken_at, self.taken, lost, self._spread())

    def _spread(self) -> PerImage:
        if not self._lowest:
            return torch.full_like(self.margin, torch.nan)
        lowest = torch.stack(self._lowest)
        known = ~lowest.isnan()
        low = torch.where(known, lowest, torch.inf).amin(0)
        high = torch.where(known, lowest, -torch.inf).amax(0)
        return torch.where(known.sum(0) >= 2, high - low, torch.nan)
