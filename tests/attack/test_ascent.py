"""APGD and PGD against one image at a time in plain loops, and on what has a closed form."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from deqpipe.attack import losses
from deqpipe.attack.ascent import APGD, FixedPGD, Starts
from deqpipe.attack.judged import Crafted, Hunt, Measured, Rows
from deqpipe.threat_model import LinfBall
from tests.reference import attacks

SHAPE, CLASSES, BATCH = (2, 3, 3), 4, 6
Search = APGD | FixedPGD


def network(seed: int = 0) -> nn.Module:
    """A bent one, in double precision."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(18, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=1.0)
    return layers.double().requires_grad_(False)


GENERATOR = torch.Generator().manual_seed(1)
NETWORK = network()
X = torch.rand(BATCH, *SHAPE, generator=GENERATOR, dtype=torch.float64)
Y = NETWORK(X).argmax(1)
OFFSETS = 2 * torch.rand(3, BATCH, *SHAPE, generator=GENERATOR, dtype=torch.float64) - 1
BALL = LinfBall(0.1)


@dataclass(frozen=True)
class Objective:
    """A loss of a network; the images stand for rows of a batch."""

    model: nn.Module
    y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor] = losses.cross_entropy
    shares: bool = True  # its logits with the judge

    def __call__(self, x: Tensor, rows: Rows) -> Measured:
        logits = self.model(x)
        return Measured(self.loss(logits, self.y[rows]), logits if self.shares else None)


def _same(objective: Objective, number: int) -> Objective:
    return objective


def starts_of(x: Tensor, offsets: Tensor, ball: LinfBall) -> Starts:
    return lambda number, rows: (x + ball.epsilon * offsets[number])[rows]


def attacked(
    search: Search, rows: slice = slice(None), *, ball: LinfBall = BALL, count: int = 1, together: bool = False,
    model: nn.Module = NETWORK,
) -> Crafted:  # fmt: skip
    x, y = X[rows], Y[rows]
    hunt = Hunt(x, y, model, ball, together=together)
    search(hunt, lambda number: Objective(model, y), starts_of(x, OFFSETS[:, rows], ball), count=count)
    return hunt.outcome()


def by_hand(search: Search, number: int, *, ball: LinfBall = BALL, count: int = 1) -> attacks.Met:
    x, y = X[number], Y[number : number + 1]

    def value(image: Tensor) -> Tensor:
        return nn.functional.cross_entropy(NETWORK(image[None]), y)

    met = attacks.Met(x, lambda image: float(-losses.margin(NETWORK(image[None]), y)), ball.epsilon)
    for start in range(count):
        if met.broken_at < 0:
            first = x + ball.epsilon * OFFSETS[start, number]
            if isinstance(search, APGD):
                attacks.apgd(met, value, first, search.iterations)
            else:
                attacks.pgd(met, value, first, search.steps)
    return met


SEARCHES = [
    (APGD(1), 3), (APGD(7), 3), (APGD(30), 1), (FixedPGD(1), 1), (FixedPGD(12), 2),
    pytest.param(APGD(100), 3, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("search", "count"), SEARCHES, ids=str)
@pytest.mark.parametrize("epsilon", [0.03, 0.12])
def test_an_attack_is_that_of_one_image_in_a_plain_loop(search: Search, count: int, epsilon: float) -> None:
    ball = LinfBall(epsilon)
    crafted = attacked(search, ball=ball, count=count)
    for number in range(BATCH):
        met = by_hand(search, number, ball=ball, count=count)
        assert crafted.broken_at[number] == met.broken_at
        assert crafted.taken[number] == met.taken
        torch.testing.assert_close(crafted.images[number], met.image, rtol=0, atol=1e-9)
        assert float(crafted.margin[number]) == pytest.approx(met.lowest, abs=1e-9)


def test_the_images_of_these_tests_fall_early_late_and_never() -> None:
    """So that the comparisons above mean something."""
    broken_at = [int(one) for ball in (0.03, 0.12) for one in attacked(APGD(30), ball=LinfBall(ball)).broken_at]
    assert -1 in broken_at
    assert any(0 < one <= 3 for one in broken_at)
    assert any(one > 3 for one in broken_at)


@pytest.mark.parametrize("search", [APGD(12), FixedPGD(12)], ids=str)
def test_an_image_has_what_it_has_alone(search: Search) -> None:
    every = attacked(search, count=2)
    for number in range(BATCH):
        alone = attacked(search, slice(number, number + 1), count=2)
        torch.testing.assert_close(every.images[number], alone.images[0], rtol=0, atol=1e-12)
        for name in ("broken_at", "taken", "lost_gradient"):
            assert getattr(every, name)[number] == getattr(alone, name)[0]
        torch.testing.assert_close(every.spread[number], alone.spread[0], equal_nan=True)


def linear(weights: Tensor) -> nn.Sequential:
    layer = nn.Linear(18, 2, bias=False).double()
    layer.weight = nn.Parameter(torch.stack([weights, torch.zeros_like(weights)]), requires_grad=False)
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize("search", [APGD(30), FixedPGD(10)], ids=str)
def test_the_optimum_of_a_linear_classifier_is_reached(search: Search) -> None:
    """Every pixel at the end of the ball, or of [0, 1], that lowers the only logit."""
    weights = torch.randn(18, generator=GENERATOR, dtype=torch.float64)
    model, epsilon = linear(weights), 0.3
    y = torch.zeros(BATCH, dtype=torch.int64)
    optimum = (X - epsilon * weights.sign().view(SHAPE)).clamp(0, 1)
    lifted = optimum.flatten(1) @ weights
    model[1].bias = nn.Parameter(torch.tensor([1 - float(lifted.min()), 0.0], dtype=torch.float64))  # none falls
    hunt = Hunt(X, y, model, LinfBall(epsilon))
    search(hunt, lambda number: Objective(model, y, losses.margin), starts_of(X, OFFSETS, hunt.ball), count=1)
    crafted = hunt.outcome()
    assert (crafted.broken_at == -1).all()
    torch.testing.assert_close(crafted.images, optimum, rtol=0, atol=1e-12)


@dataclass(frozen=True)
class Watched(nn.Module):
    """A network that keeps what it is asked about."""

    asked: list[Tensor]

    def __hash__(self) -> int:
        return id(self)

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return NETWORK(x)


@pytest.mark.parametrize("shares", [True, False], ids=["logits shared", "asked apart"])
@pytest.mark.parametrize("search", [APGD(10), FixedPGD(12)], ids=str)
def test_a_fallen_image_takes_no_further_step_and_falls_at_the_first_error(search: Search, shares: bool) -> None:
    for number in range(BATCH):
        x, y, asked = X[number : number + 1], Y[number : number + 1], list[Tensor]()
        hunt = Hunt(x, y, Watched(asked) if not shares else NETWORK, BALL)
        objective = Objective(NETWORK if not shares else Watched(asked), y, shares=shares)
        search(hunt, partial(_same, objective), starts_of(x, OFFSETS[:, number : number + 1], BALL), count=1)
        crafted, met = hunt.outcome(), torch.cat(asked)
        errs = (NETWORK(met).argmax(1) != y).tolist()
        broken_at = int(crafted.broken_at)
        if broken_at < 0:
            assert not any(errs)
        else:
            assert errs.index(True) == broken_at == len(errs) - 1
            assert int(crafted.taken) == broken_at + 1
            assert torch.equal(met[broken_at], crafted.images[0])


def test_images_that_influence_each_other_stay_together_as_long_as_one_stands() -> None:
    asked: list[int] = []

    def counting(x: Tensor) -> Tensor:
        asked.append(len(x))
        return NETWORK(x)

    hunt = Hunt(X, Y, counting, BALL, together=True)
    objective = Objective(NETWORK, Y, shares=False)
    APGD(10)(hunt, lambda number: objective, starts_of(X, OFFSETS, BALL), count=2)
    assert set(asked) == {BATCH}
    alone, together = attacked(APGD(10), count=2), hunt.outcome()
    assert (alone.broken_at >= 0).any()
    assert torch.equal(alone.broken_at, together.broken_at)
    torch.testing.assert_close(alone.images, together.images, rtol=0, atol=1e-12)
    assert len(set(together.taken.tolist())) == 1 < len(set(alone.taken.tolist()))


@pytest.mark.parametrize("search", [APGD(10), FixedPGD(10)], ids=str)
def test_images_are_their_changes_bit_for_bit_and_inside_the_ball(search: Search) -> None:
    """In single precision, with pixels at both ends of their range, and a radius that is no sum of powers of two."""
    single = network().float()
    x = (1.4 * torch.rand(20, *SHAPE, generator=GENERATOR) - 0.2).clamp(0, 1)
    y, ball = single(x).argmax(1), LinfBall(8 / 255)
    hunt = Hunt(x, y, single, ball)
    offsets = 2 * torch.rand(1, *x.shape, generator=GENERATOR) - 1
    search(hunt, lambda number: Objective(single, y), starts_of(x, offsets, ball), count=1)
    crafted = hunt.outcome()
    assert torch.equal(x + crafted.delta, crafted.images)
    assert torch.equal(crafted.images - x, crafted.delta)
    assert crafted.images.amin() >= 0
    assert crafted.images.amax() <= 1
    assert (crafted.images.double() - x.double()).abs().amax() <= ball.epsilon + 1e-7
    assert crafted.delta.abs().amax() > 0.9 * ball.epsilon


def test_any_image_that_is_allowed_is_its_change_bit_for_bit() -> None:
    x = torch.rand(100_000, 1, 1, 1, generator=GENERATOR)
    moved = x + 2 * torch.rand(x.shape, generator=GENERATOR) - 1
    for epsilon in (1 / 255, 8 / 255, 1.0):
        hunt = Hunt(x, torch.zeros(len(x), dtype=torch.int64), nn.Flatten(), LinfBall(epsilon))
        inside = hunt.inside(moved, hunt.standing)
        assert torch.equal(x + (inside - x), inside)
        assert inside.amin() >= 0
        assert inside.amax() <= 1


def test_the_spread_is_between_the_lowest_margins_of_the_starts() -> None:
    ball = LinfBall(0.03)
    starts = [by_hand_from(number, ball) for number in range(3)]
    crafted = attacked(APGD(7), ball=ball, count=3)
    standing = crafted.broken_at < 0
    assert standing.any()
    for number in standing.nonzero().flatten().tolist():
        lowest = [start[number] for start in starts]
        assert float(crafted.spread[number]) == pytest.approx(max(lowest) - min(lowest), abs=1e-9)
    assert attacked(APGD(7), ball=ball).spread.isnan().all()


def by_hand_from(start: int, ball: LinfBall) -> list[float]:
    """The lowest margin of every image from one start alone."""
    hunt = Hunt(X, Y, NETWORK, ball)
    APGD(7)(hunt, lambda number: Objective(NETWORK, Y), starts_of(X, OFFSETS[start:], ball), count=1)
    return [float(one) for one in hunt.outcome().margin]


def test_steps_without_a_gradient_are_counted_and_lead_nowhere() -> None:
    for factor in (0.0, torch.nan):

        def loss(logits: Tensor, y: Tensor, factor: float = factor) -> Tensor:
            return factor * losses.margin(logits, y)

        hunt = Hunt(X, Y, NETWORK, LinfBall(0.01))
        APGD(6)(hunt, partial(_same, Objective(NETWORK, Y, loss)), starts_of(X, OFFSETS, hunt.ball), count=1)
        crafted = hunt.outcome()
        assert crafted.lost_gradient.tolist() == [1.0] * BATCH
        start = hunt.inside(X + 0.01 * OFFSETS[0], torch.arange(BATCH))
        assert torch.equal(crafted.images, start)


def test_logits_that_are_no_numbers_are_an_error_of_the_decision() -> None:
    def broken(x: Tensor) -> Tensor:
        return NETWORK(x) * torch.nan

    hunt = Hunt(X, Y, broken, BALL)
    APGD(3)(hunt, lambda number: Objective(NETWORK, Y, shares=False), starts_of(X, OFFSETS, BALL), count=1)
    assert hunt.outcome().broken_at.tolist() == [0] * BATCH
    assert hunt.outcome().margin.tolist() == [-torch.inf] * BATCH
