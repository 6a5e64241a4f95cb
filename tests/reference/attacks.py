"""Attacks of one image at a time, as their papers have them: APGD, PGD, Square and RayS, in plain loops.

Where an attack counts steps, it takes one with every gradient and one with every query.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

Image: TypeAlias = Tensor
"""(channels, height, width)."""
Value: TypeAlias = Callable[[Image], Tensor]
"""The loss of an image, with gradient."""
Margin: TypeAlias = Callable[[Image], float]
"""The decision's margin: not above 0 where it errs."""


@dataclass
class Met:
    """What an attack came by: the image of lowest margin, and when the decision first erred.

    Attributes:
        x: the clean image.
        margin: of the decision.
        epsilon: radius.
    """

    x: Image
    margin: Margin
    epsilon: float
    taken: int = 0
    broken_at: int = -1
    lowest: float = math.inf
    image: Image = field(init=False)

    def judge(self, image: Image) -> bool:
        """Whether the decision errs on an image, which is taken note of."""
        value = self.margin(image)
        if value < self.lowest:
            self.lowest, self.image = value, image
        if value < 0 and self.broken_at < 0:
            self.broken_at = self.taken
        return value < 0

    def project(self, image: Image) -> Image:
        """The nearest image in the ball and in [0, 1]."""
        low, high = (self.x - self.epsilon).clamp(min=0), (self.x + self.epsilon).clamp(max=1)
        return torch.minimum(torch.maximum(image, low), high)


def gradient(value: Value, image: Image) -> tuple[float, Tensor]:
    """The loss of an image and its gradient."""
    leaf = image.clone().requires_grad_()
    loss = value(leaf)
    loss.backward()
    assert leaf.grad is not None
    return float(loss.detach()), leaf.grad


def looks(iterations: int) -> list[int]:
    """After which steps APGD looks at its step size: w_j = p_j N with p_(j+1) - p_j = max(p_j - p_(j-1) - 0.03, 0.06).

    Shares of steps are rounded down, to one step at least.
    """
    interval, at, found = max(22 * iterations // 100, 1), 0, []
    while at + interval <= iterations:
        at += interval
        found.append(at)
        interval = max(interval - max(3 * iterations // 100, 1), 6 * iterations // 100, 1)
    return found


def apgd(met: Met, value: Value, start: Image, iterations: int) -> None:
    """Algorithm 1 of Croce and Hein (2020); x_max is returned to at a look, before the next step."""
    x, epsilon = [met.project(start)], met.epsilon
    size, f, slopes = 2 * epsilon, [], []
    at_best, halved, best_then, since = 0, False, -math.inf, 0

    def measure() -> bool:
        loss, slope = gradient(value, x[-1])
        f.append(loss)
        slopes.append(slope)
        fallen = met.judge(x[-1])
        met.taken += 1
        return fallen

    if measure():
        return
    best_then, here, before = f[0], 0, x[0]
    for k in range(1, iterations + 1):
        now = x[here]
        z = met.project(now + size * slopes[here].sign())
        alpha = 0.75 if k > 1 else 1.0
        x.append(met.project(now + alpha * (z - now) + (1 - alpha) * (now - before)))
        before, here = now, k
        if measure():
            return
        at_best = k if f[k] > f[at_best] else at_best
        if k in looks(iterations):
            raised = sum(f[i + 1] > f[i] for i in range(since, k))
            first = raised < 0.75 * (k - since)
            second = not halved and f[at_best] == best_then
            halved = first or second
            if halved:
                size, here = size / 2, at_best
            since, best_then = k, f[at_best]


def pgd(met: Met, value: Value, start: Image, steps: int, *, reach: float = 2.5) -> None:
    """Signed steps of one size (Madry et al., 2018)."""
    x = met.project(start)
    for _ in range(steps):
        _, slope = gradient(value, x)
        fallen = met.judge(x)
        met.taken += 1
        if fallen:
            return
        x = met.project(x + reach * met.epsilon / steps * slope.sign())
    met.judge(x)


def square(met: Met, queries: int, stripes: Tensor, draws: Sequence[Sequence[float]]) -> None:
    """Square (Andriushchenko et al., 2020), l-infinity.

    Args:
        met: the image under attack.
        queries: to the decision.
        stripes: a uniform number per channel and column: below a half is the upper border of the ball.
        draws: of each further query: where the square is, downwards and rightwards, and a number per channel.
    """
    channels, height, width = met.x.shape
    image = met.x.clone()
    for channel in range(channels):
        for column in range(width):
            image[channel, :, column] += met.epsilon * (1 if stripes[channel, column] < 0.5 else -1)
    now = met.project(image)
    lowest = ask(met, now)
    for number in range(queries - 1):
        if lowest < 0:
            return
        side = side_of_square(number, queries, height, width)
        top, left = int(draws[number][0] * (height - side + 1)), int(draws[number][1] * (width - side + 1))
        image = now.clone()
        for channel in range(channels):
            sign = 1 if draws[number][2 + channel] < 0.5 else -1
            for row in range(top, top + side):
                for column in range(left, left + side):
                    image[channel, row, column] = met.x[channel, row, column] + sign * met.epsilon
        proposed = met.project(image)
        found = ask(met, proposed)
        if found < lowest:
            now, lowest = proposed, found


def ask(met: Met, image: Image) -> float:
    """A query: the margin."""
    met.taken += 1
    met.judge(image)
    return met.margin(image)


def side_of_square(number: int, queries: int, height: int, width: int) -> int:
    """The paper's schedule for 10,000 queries, stretched: the share of the image begins with 0.8 and halves."""
    share = 0.8
    for threshold in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        if number * 10_000 > threshold * queries:
            share /= 2
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def rays(met: Met, queries: int, precision: float) -> float:
    """RayS (Chen and Gu, 2020), told the class alone: gives the smallest wrong radius that it found."""
    pixels = met.x.numel()
    signs, radius = [1.0] * pixels, 1.0

    def wrong(direction: Sequence[float], at: float) -> bool:
        met.taken += 1
        image = (met.x + at * torch.tensor(direction, dtype=met.x.dtype).view_as(met.x)).clamp(0, 1)
        return met.judge(met.project(image)) if at <= met.epsilon else met.margin(image) < 0

    def nearer(direction: Sequence[float]) -> float:
        low, high = 0.0, radius
        while high - low > precision and met.broken_at < 0:
            middle = (low + high) / 2
            low, high = (low, middle) if wrong(direction, middle) else (middle, high)
        if met.broken_at < 0 and high <= met.epsilon + precision:
            wrong(direction, met.epsilon)
        return high

    if wrong(signs, radius):
        radius = nearer(signs)
    level = 0
    while True:
        size = math.ceil(pixels / 2**level)
        for first in range(0, pixels, size):
            if met.broken_at >= 0 or met.taken >= queries:
                return radius
            flipped = [-sign if first <= number < first + size else sign for number, sign in enumerate(signs)]
            if wrong(flipped, radius):
                signs = flipped
                radius = nearer(signs)
        level += 1
