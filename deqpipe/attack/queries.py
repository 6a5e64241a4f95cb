"""Attacks that are told answers alone: Square (logits), RayS (the class), and random noise.

The numbers of an image come from streams of its own: what an attack does to it depends on no other image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deqpipe.attack.judged import Hunt, Rows
from deqpipe.machine import stopping
from deqpipe.machine.device import upload
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, PerImage

Keys = Sequence[int]
"""Index of every image of a batch, the key of its stream."""


@dataclass(frozen=True)
class Noise:
    """A random corner of the ball per try: no attack, but what attacks are to be better than.

    Attributes:
        tries: how many.
    """

    tries: int

    def __call__(self, hunt: Hunt, stream: Stream, keys: Keys) -> None:
        """Try."""
        corners = _uniform(stream, keys, (self.tries, *hunt.x.shape[1:]), hunt.x)
        for number in hunt.starts(self.tries):
            rows = hunt.standing
            moved = hunt.x[rows] + hunt.ball.epsilon * _signs(corners[rows, number])
            hunt.step(rows)
            hunt.judge(hunt.inside(moved, rows), rows)


SQUARE_SHARE = 0.8  # p of Square at its beginning
_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries


@dataclass(frozen=True)
class Square:
    """Random search with squares (Andriushchenko et al., 2020), l-infinity: a change is kept if it lowers the margin.

    Attributes:
        queries: to the decision's logits, per image.
    """

    queries: int

    def __call__(self, hunt: Hunt, stream: Stream, keys: Keys) -> None:
        """Search from vertical stripes on."""
        (channels, height, width), size = hunt.x.shape[1:], hunt.ball.epsilon
        stripes = _signs(_uniform(stream, keys, (channels, 1, width), hunt.x)).expand(-1, -1, height, -1)
        draws = _uniform(Stream(stream.seed, f"{stream.purpose}/squares"), keys, (self.queries, 2 + channels), hunt.x)
        for _ in hunt.starts(1):
            rows = hunt.standing
            now = hunt.inside(hunt.x[rows] + size * stripes[rows], rows)
            lowest = _asked(hunt, now, rows)
            for number in range(self.queries - 1):
                stays = torch.isin(rows, hunt.standing)
                rows, now, lowest = rows[stays], now[stays], lowest[stays]
                if not len(rows):
                    return
                side = _side(number, self.queries, height, width)
                proposed = self._with_square(hunt, now, rows, draws[rows, number], side)
                margins = _asked(hunt, proposed, rows)
                lower = margins < lowest
                now = torch.where(lower[:, None, None, None], proposed, now)
                lowest = torch.where(lower, margins, lowest)

    def _with_square(self, hunt: Hunt, now: Images, rows: Rows, draw: Tensor, side: int) -> Images:
        """The images with a square, somewhere, at the border of the ball in a sign per channel."""
        height, width = hunt.x.shape[2:]
        top, left = ((draw[:, axis] * (length - side + 1)).long() for axis, length in enumerate((height, width)))
        down, right = (torch.arange(length, device=now.device)[None] for length in (height, width))
        inside = ((down >= top[:, None]) & (down < top[:, None] + side))[:, :, None]
        inside = inside & ((right >= left[:, None]) & (right < left[:, None] + side))[:, None, :]
        coloured = hunt.x[rows] + hunt.ball.epsilon * _signs(draw[:, 2:])[:, :, None, None]
        return hunt.inside(torch.where(inside[:, None], coloured, now), rows)


def _side(number: int, queries: int, height: int, width: int) -> int:
    """Of the square of a query: its share of the image halves along the search."""
    at = number / queries * 10_000
    share = SQUARE_SHARE / 2 ** sum(at > threshold for threshold in _HALVED_AT)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _asked(hunt: Hunt, images: Images, rows: Rows) -> PerImage:
    """The decision's margin on images, which is a query."""
    stopping.check()
    with torch.no_grad():
        logits = hunt.decide(images)
    hunt.step(rows)
    hunt.judge(images, rows, logits)
    return hunt.margins(logits, rows)


@dataclass(frozen=True)
class RayS:
    """A search for the nearest wrong image along directions of signs (Chen and Gu, 2020), told the class alone.

    Directions are refined block by block, the blocks halving from the whole image on; a flipped block is kept where the
    image at the smallest radius so far is still wrong, and then the radius is searched by halves.

    Attributes:
        queries: to the decision's class, per image. A search by halves that has begun is ended: up to 11 more.
        precision: of the radius, in units of the pixel range.
    """

    queries: int
    precision: float = 1e-3

    def __call__(self, hunt: Hunt, stream: Stream, keys: Keys) -> None:
        """Search from the direction of ones on; the stream is not asked."""
        for _ in hunt.starts(1):
            rows = hunt.standing
            signs = torch.ones_like(hunt.x[rows]).flatten(1)
            state = _Rays(rows, signs, signs.new_ones(len(rows)))
            state = self._nearer(hunt, state, self._wrong(hunt, state.rows, state.signs, state.radius))
            state = state.of(self._goes_on(hunt, state.rows))
            level, first, pixels = 0, 0, state.signs.shape[1]
            while len(state.rows):
                behind = min(first + -(-pixels // 2**level), pixels)
                flipped = state.signs.clone()
                flipped[:, first:behind] *= -1
                wrong = self._wrong(hunt, state.rows, flipped, state.radius)
                signs = torch.where(wrong[:, None], flipped, state.signs)
                state = self._nearer(hunt, _Rays(state.rows, signs, state.radius), wrong)
                level, first = (level + 1, 0) if behind == pixels else (level, behind)
                state = state.of(self._goes_on(hunt, state.rows))

    def _goes_on(self, hunt: Hunt, rows: Rows) -> Tensor:
        return torch.isin(rows, hunt.standing) & (hunt.taken[rows] < self.queries)

    def _nearer(self, hunt: Hunt, state: "_Rays", wrong: Tensor) -> "_Rays":
        """With the smallest radius at which the images of a mask are still wrong along their signs.

        Each halves by itself, as long as it stands: how long others take is nothing to it.
        """
        low, high = torch.zeros_like(state.radius), state.radius.clone()
        while len(where := self._searched(hunt, state.rows, wrong & (high - low > self.precision))):
            middle = (low[where] + high[where]) / 2
            still = self._wrong(hunt, state.rows[where], state.signs[where], middle)
            low[where], high[where] = torch.where(still, low[where], middle), torch.where(still, middle, high[where])
        near = self._searched(hunt, state.rows, wrong & (high <= hunt.ball.epsilon + self.precision))
        if len(near):  # the ball's border itself: what is wrong there counts
            border = torch.full_like(high[near], hunt.ball.epsilon)
            self._wrong(hunt, state.rows[near], state.signs[near], border)
        return _Rays(state.rows, state.signs, high)

    def _searched(self, hunt: Hunt, rows: Rows, those: Tensor) -> Tensor:
        """Where a mask holds of images that stand."""
        return (those & torch.isin(rows, hunt.standing)).nonzero().flatten()

    def _wrong(self, hunt: Hunt, rows: Rows, signs: Tensor, radius: PerImage) -> Tensor:
        """Whether the decision errs at a radius along signs, which is a query; inside the ball it counts."""
        stopping.check()
        x = hunt.x[rows]
        images = (x + radius[:, None, None, None] * signs.view_as(x)).clamp(0, 1)
        allowed = radius <= hunt.ball.epsilon
        images = torch.where(allowed[:, None, None, None], hunt.inside(images, rows), images)
        logits = hunt.answers(images, rows)
        hunt.step(rows)
        if bool(allowed.any()):
            hunt.judge(images[allowed], rows[allowed], logits[allowed])
        return ~hunt.right(logits, rows)


@dataclass(frozen=True)
class _Rays:
    """RayS under way.

    Attributes:
        rows: which images of the batch.
        signs: direction of each, (some, pixels).
        radius: the smallest at which it was wrong along them; 1 where it never was.
    """

    rows: Rows
    signs: Tensor
    radius: PerImage

    def of(self, stays: Tensor) -> "_Rays":
        """Some of them."""
        return _Rays(self.rows[stays], self.signs[stays], self.radius[stays])


def _uniform(stream: Stream, keys: Keys, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return upload(stream.uniform(keys, shape), like.device).to(like.dtype)


def _signs(uniform: Tensor) -> Tensor:
    return 2 * (uniform < 0.5).to(uniform.dtype) - 1
