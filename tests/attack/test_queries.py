"""Square, RayS and noise against one image at a time in plain loops."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from deqpipe.attack import losses
from deqpipe.attack.judged import Crafted, Hunt
from deqpipe.attack.queries import Noise, RayS, Square
from deqpipe.seeding import Stream
from deqpipe.threat_model import LinfBall
from tests.reference import attacks

SHAPE, CLASSES, BATCH = (2, 3, 3), 4, 6
Queries = Noise | Square | RayS
STREAM = Stream(3, "queries")
KEYS: Sequence[int] = (5, 2, 40, 7, 0, 11)
GENERATOR = torch.Generator().manual_seed(2)


def network() -> nn.Module:
    """A bent one, in double precision."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(18, 12), nn.Tanh(), nn.Linear(12, CLASSES)).double()
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=GENERATOR, dtype=torch.float64)
    return layers.requires_grad_(False)


NETWORK = network()
X = 0.1 + 0.8 * torch.rand(BATCH, *SHAPE, generator=GENERATOR, dtype=torch.float64)
Y = NETWORK(X).argmax(1)


@dataclass(frozen=True)
class Asked:
    """A decision that keeps count of the images that it is asked about."""

    count: list[int]

    def __call__(self, x: Tensor) -> Tensor:
        self.count.append(len(x))
        logits: Tensor = NETWORK(x)
        return logits


def attacked(
    search: Queries, rows: slice = slice(None), *, epsilon: float, decide: Callable[[Tensor], Tensor] = NETWORK
) -> Crafted:
    hunt = Hunt(X[rows], Y[rows], decide, LinfBall(epsilon))
    search(hunt, STREAM, KEYS[rows])
    return hunt.outcome()


def by_hand(search: Queries, number: int, epsilon: float) -> attacks.Met:
    x, y, key = X[number], Y[number : number + 1], KEYS[number : number + 1]
    met = attacks.Met(x, lambda image: float(-losses.margin(NETWORK(image[None]), y)), epsilon)
    if isinstance(search, Square):
        channels, _, width = SHAPE
        stripes = STREAM.uniform(key, (channels, 1, width))[0, :, 0]
        squares = Stream(STREAM.seed, f"{STREAM.purpose}/squares").uniform(key, (search.queries, 2 + channels))
        attacks.square(met, search.queries, stripes, squares[0].tolist())
    elif isinstance(search, RayS):
        attacks.rays(met, search.queries, search.precision)
    else:
        for corner in STREAM.uniform(key, (search.tries, *SHAPE))[0]:
            if met.broken_at < 0:
                attacks.ask(met, met.project(x + torch.where(corner < 0.5, epsilon, -epsilon)))
    return met


SEARCHES = [Noise(8), Square(1), Square(60), RayS(1), RayS(70)]


@pytest.mark.parametrize("search", SEARCHES, ids=str)
@pytest.mark.parametrize("epsilon", [0.05, 0.15])
def test_a_search_is_that_of_one_image_in_a_plain_loop(search: Queries, epsilon: float) -> None:
    crafted = attacked(search, epsilon=epsilon)
    for number in range(BATCH):
        met = by_hand(search, number, epsilon)
        assert crafted.broken_at[number] == met.broken_at
        assert crafted.taken[number] == met.taken
        if met.lowest < float("inf"):
            torch.testing.assert_close(crafted.images[number], met.image, rtol=0, atol=1e-9)
            assert float(crafted.margin[number]) == pytest.approx(met.lowest, abs=1e-9)


def test_some_of_these_images_fall_and_some_do_not() -> None:
    """So that the comparisons above mean something."""
    for search in (Square(60), RayS(70)):
        broken_at = [*attacked(search, epsilon=0.05).broken_at.tolist(), *attacked(search, epsilon=0.15).broken_at]
        assert -1 in broken_at
        assert any(one > 2 for one in broken_at)


@pytest.mark.parametrize("search", [Noise(6), Square(40), RayS(60)], ids=str)
def test_an_image_has_what_it_has_alone(search: Queries) -> None:
    every = attacked(search, epsilon=0.12)
    for number in range(BATCH):
        alone = attacked(search, slice(number, number + 1), epsilon=0.12)
        torch.testing.assert_close(every.images[number], alone.images[0], rtol=0, atol=1e-12)
        assert every.broken_at[number] == alone.broken_at[0]
        assert every.taken[number] == alone.taken[0]


@pytest.mark.parametrize("search", [Square(40), RayS(60)], ids=str)
def test_where_images_influence_each_other_the_decision_is_asked_about_whole_batches(search: Queries) -> None:
    asked: list[int] = []

    def counting(x: Tensor) -> Tensor:
        asked.append(len(x))
        return NETWORK(x)

    search(Hunt(X, Y, counting, LinfBall(0.1), together=True), STREAM, KEYS)
    assert set(asked) == {BATCH}


@pytest.mark.parametrize(("search", "most"), [(Noise(6), 6), (Square(30), 30), (RayS(30), 30 + 11)], ids=str)
@pytest.mark.parametrize("epsilon", [0.0, 0.12])
def test_queries_are_counted_and_stay_within_the_budget(search: Queries, most: int, epsilon: float) -> None:
    asked = Asked([])
    crafted = attacked(search, epsilon=epsilon, decide=asked)
    assert int(crafted.taken.sum()) == sum(asked.count)
    assert int(crafted.taken.max()) <= most
    least = most - 11 * isinstance(search, RayS)
    assert all(taken >= least for taken in crafted.taken[crafted.broken_at < 0].tolist())
    assert crafted.lost_gradient.isnan().all()


@pytest.mark.parametrize("search", [Noise(5), Square(40), RayS(60)], ids=str)
def test_what_counts_lies_in_the_ball(search: Queries) -> None:
    """RayS asks about images outside of it on its way, of which none counts."""
    crafted = attacked(search, epsilon=0.05)
    assert (crafted.images - X).abs().amax() <= 0.05 + 1e-12
    assert torch.equal(crafted.images, X + crafted.delta)
    assert torch.equal(NETWORK(crafted.images).argmax(1) != Y, crafted.broken_at >= 0)


def test_rays_finds_the_radius_of_a_linear_classifier_to_its_precision() -> None:
    """Every pixel moves against its weight, so the radius is the margin over the sum of the weights' sizes."""
    weights = torch.randn(18, generator=GENERATOR, dtype=torch.float64)
    weights = weights.sign() * (weights.abs() + 0.3)
    x, y = torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0])
    radius = 0.2
    shift = radius * weights.abs().sum() - x.flatten() @ weights

    def linear(images: Tensor) -> Tensor:
        own = images.flatten(1) @ weights + shift
        return torch.stack([own, torch.zeros_like(own)], dim=1)

    search = RayS(600)
    for change, falls in ((-1e-6, False), (2 * search.precision, True)):
        hunt = Hunt(x, y, linear, LinfBall(radius + change))
        search(hunt, STREAM, (0,))
        assert bool(hunt.outcome().broken_at >= 0) == falls


def test_noise_is_a_corner_of_the_ball_per_try_and_image() -> None:
    crafted = attacked(Noise(3), epsilon=0.02)
    assert torch.allclose(crafted.delta.abs(), torch.tensor(0.02, dtype=torch.float64))
    assert len({tuple(one.sign().flatten().tolist()) for one in crafted.delta}) == BATCH
    assert (crafted.spread[crafted.broken_at < 0] > 0).all()


def test_a_label_that_ties_with_another_class_is_no_error_where_it_is_answered() -> None:
    """RayS is told the class, which is the first of equal ones; no margin."""
    equal = Hunt(X, torch.zeros(BATCH, dtype=torch.int64), lambda x: torch.zeros(len(x), 3), LinfBall(0.1))
    RayS(20)(equal, STREAM, KEYS)
    assert equal.outcome().broken_at.tolist() == [-1] * BATCH
    assert equal.outcome().taken.tolist() == [20] * BATCH
