"""Gradient ascent with judged iterates: APGD (Croce and Hein, 2020), and PGD with a fixed step size."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import torch
from torch import Tensor

from deqpipe.attack.judged import Hunt, JudgedObjective, Rows
from deqpipe.machine import stopping
from deqpipe.shapes import Images, PerImage

Starts: TypeAlias = Callable[[int, Rows], Images]
"""(number of the start, rows) -> where these images start."""
Objectives: TypeAlias = Callable[[int], JudgedObjective]
"""Number of the start -> what is made large from it."""

MOMENTUM = 0.75  # alpha of APGD
PROGRESS = 0.75  # rho: a step size is kept while so large a share of the steps raises the loss
_FIRST, _LEAST, _SHORTER = 0.22, 0.06, 0.03  # shares of the iterations between looks at the step size


@dataclass(frozen=True)
class APGD:
    """PGD whose step size of every image halves, from the image of highest loss, where it leads no further.

    Attributes:
        iterations: gradient steps from each start.
    """

    iterations: int

    def __call__(self, hunt: Hunt, objectives: Objectives, starts: Starts, *, count: int) -> None:
        """Go from `count` starts, one after the other, as long as an image stands."""
        for number in hunt.starts(count):
            rows = hunt.standing
            self._from(hunt, objectives(number), rows, starts(number, rows))

    def _from(self, hunt: Hunt, objective: JudgedObjective, rows: Rows, start: Images) -> None:
        now = hunt.inside(start, rows)
        loss, gradient = _measured(hunt, objective, now, rows)
        size = torch.full_like(loss, 2 * hunt.ball.epsilon)
        none = torch.zeros_like(loss)
        climb = _Climb(rows, now, now, gradient, loss, now, gradient, loss, size, none, loss, none)
        interval, since = max(int(_FIRST * self.iterations), 1), 0
        for number in range(self.iterations):
            climb = climb.of_standing(hunt)
            if not len(climb.rows):
                return
            climb = climb.moved(hunt, objective, momentum=MOMENTUM if number else 1.0)
            since += 1
            if since == interval:
                climb, since = climb.reconsidered(interval), 0
                interval = max(interval - max(int(_SHORTER * self.iterations), 1), int(_LEAST * self.iterations), 1)


@dataclass(frozen=True)
class _Climb:
    """APGD under way: one value per image that it moves.

    Attributes:
        rows: which images of the batch.
        now: where they are.
        before: where they were a step ago.
        gradient: at `now`.
        loss: at `now`.
        best: of highest loss so far.
        best_gradient: there.
        best_loss: there.
        size: step size.
        raised: steps since the last look that raised the loss.
        best_loss_then: highest loss at the last look.
        halved_then: whether the last look halved the step size.
    """

    rows: Rows
    now: Images
    before: Images
    gradient: Images
    loss: PerImage
    best: Images
    best_gradient: Images
    best_loss: PerImage
    size: PerImage
    raised: PerImage
    best_loss_then: PerImage
    halved_then: PerImage

    def of_standing(self, hunt: Hunt) -> "_Climb":
        """Those alone that still stand."""
        stays = torch.isin(self.rows, hunt.standing)
        if bool(stays.all()):
            return self
        return _Climb(*(getattr(self, one.name)[stays] for one in fields(self)))

    def moved(self, hunt: Hunt, objective: JudgedObjective, *, momentum: float) -> "_Climb":
        """One step along the gradient's sign, with momentum."""
        sign = self.gradient.nan_to_num(0, 0, 0).sign()
        ahead = hunt.inside(self.now + self.size[:, None, None, None] * sign, self.rows)
        mixed = self.now + momentum * (ahead - self.now) + (1 - momentum) * (self.now - self.before)
        now = hunt.inside(mixed, self.rows)
        loss, gradient = _measured(hunt, objective, now, self.rows)
        higher = loss > self.best_loss
        return replace(
            self,
            now=now,
            before=self.now,
            gradient=gradient,
            raised=self.raised + (loss > self.loss),
            loss=loss,
            best=_where(higher, now, self.best),
            best_gradient=_where(higher, gradient, self.best_gradient),
            best_loss=torch.where(higher, loss, self.best_loss),
        )

    def reconsidered(self, interval: int) -> "_Climb":
        """Half the step size, from the best image on, where too few steps raised the loss, or nothing was gained."""
        few = self.raised < PROGRESS * interval
        idle = (self.halved_then == 0) & (self.best_loss_then >= self.best_loss)
        halve = few | idle
        return replace(
            self,
            now=_where(halve, self.best, self.now),
            gradient=_where(halve, self.best_gradient, self.gradient),
            size=torch.where(halve, self.size / 2, self.size),
            raised=torch.zeros_like(self.raised),
            best_loss_then=self.best_loss,
            halved_then=halve.to(self.halved_then.dtype),
        )


@dataclass(frozen=True)
class FixedPGD:
    """Signed gradient ascent with one step size.

    Attributes:
        steps: gradient steps.
        reach: how far all steps lead together, in radii: the more steps, the smaller they are (Madry et al., 2018).
    """

    steps: int
    reach: float = 2.5

    def __call__(self, hunt: Hunt, objectives: Objectives, starts: Starts, *, count: int) -> None:
        """Go from `count` starts, as long as an image stands."""
        size = self.reach * hunt.ball.epsilon / self.steps
        for number in hunt.starts(count):
            rows, objective = hunt.standing, objectives(number)
            now = hunt.inside(starts(number, rows), rows)
            for _ in range(self.steps):
                _, gradient = _measured(hunt, objective, now, rows)
                stays = torch.isin(rows, hunt.standing)
                rows, now, gradient = rows[stays], now[stays], gradient[stays]
                if not len(rows):
                    break
                now = hunt.inside(now + size * gradient.nan_to_num(0, 0, 0).sign(), rows)
            if len(rows):
                hunt.judge(now, rows)


def _measured(hunt: Hunt, objective: JudgedObjective, x: Images, rows: Rows) -> tuple[PerImage, Tensor]:
    """The loss and its gradient at images, which are judged; a step is counted."""
    stopping.check()
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        measured = objective(leaf, rows)
        (gradient,) = torch.autograd.grad(measured.loss.sum(), leaf)
    hunt.judge(x, rows, measured.logits)
    hunt.step(rows, gradient)
    return measured.loss.detach().nan_to_num(-torch.inf, torch.inf, -torch.inf), gradient


def _where(images: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(images[:, None, None, None], new, old)
