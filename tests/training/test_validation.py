"""The accuracies that the best epoch is chosen by, and the attack behind them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqpipe.attack.pgd import PGD
from deqpipe.data import Split
from deqpipe.seeding import Stream
from deqpipe.threat_model import LinfBall
from deqpipe.training.validation import Crafting, SelectingAttack, Validator
from tests import tiny

SEED = 0


class Threshold(nn.Module):
    """Class 1 where the first pixel is bright; so an attack of size epsilon turns the images that are close to 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), self.scale * (x.flatten(1)[:, 0] - 0.5)], dim=1)


def scoring(model: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = model(x)
    return out


ATTACK = SelectingAttack(PGD(LinfBall(20 / 255), steps=10, step_size=10 / 255), SEED)
# all of class 1: two right beyond reach of epsilon = 20/255, two right within reach, one wrong
PIXELS = torch.tensor([255, 160, 140, 130, 10], dtype=torch.uint8).view(-1, 1, 1, 1)


def validator(batch_size: int, attack: SelectingAttack | None = ATTACK) -> Validator:
    return Validator(Split(PIXELS, torch.ones(5, dtype=torch.int64)), scoring, batch_size, attack)


@pytest.mark.parametrize("freeze_fooled", [False, True])
def test_accuracies_are_counted_by_hand_for_every_batch_size(freeze_fooled: bool) -> None:
    for batch_size in (1, 2, 5, 9):
        found = validator(batch_size, replace(ATTACK, freeze_fooled=freeze_fooled))(Threshold())
        assert (found.clean, found.robust) == (0.8, 0.4)


def test_without_an_attack_there_is_no_robust_accuracy() -> None:
    found = validator(2, attack=None)(Threshold())
    assert (found.clean, found.robust) == (0.8, None)


def test_an_image_whose_logits_are_not_finite_has_no_class_and_is_wrong() -> None:
    """Class 1 is NaN for the image that is wrong anyway, infinite for the brightest; `argmax` would say 1 of both."""

    def overflowed(model: nn.Module, x: Tensor) -> Tensor:
        logits, bright = scoring(model, x), x.flatten(1)[:, 0]
        score = logits[:, 1].where(bright > 0.1, torch.nan).where(bright < 0.9, torch.inf)
        return torch.stack([logits[:, 0], score], dim=1)

    for batch_size in (1, 5):
        found = replace(validator(batch_size, attack=None), logits=overflowed)(Threshold())
        assert (found.clean, found.undecided) == (0.6, 0.4)


def test_the_model_stays_as_it_was() -> None:
    model = Threshold().train()
    validator(2)(model)
    assert model.training
    assert model.scale.requires_grad
    assert model.scale.grad is None


# The attack itself, on images of three classes and a network that is right on some of them.


@dataclass(frozen=True)
class Watched:
    """A network's logits, with a note of the images that gradients were asked for."""

    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, model: nn.Module, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.seen.append(x.detach())
        return scoring(model, x)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3)).double()


@dataclass(frozen=True)
class Shown:
    """Some images, and the labels that about half of them are classified as."""

    x: Tensor
    y: Tensor
    images: range


def shown(model: nn.Module) -> Shown:
    x = tiny.dataset().validation.float_images(slice(None)).double()
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::3] = (y[::3] + 1) % 3
    return Shown(x, y, range(len(x)))


def attacked(attack: SelectingAttack, model: nn.Module, what: Shown, logits: Callable[..., Tensor] = scoring) -> Tensor:
    return attack(model, logits, what.x, what.y, what.images)


SMALL = SelectingAttack(PGD(LinfBall(0.1), steps=6, step_size=0.03), SEED)


def starts(model: nn.Module, what: Shown, attack: SelectingAttack = SMALL) -> Tensor:
    watched = Watched()
    attacked(attack, model, what, watched)
    return watched.seen[0]


def slow_frozen(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """One image after the other: a step only while it is classified right."""
    made = []
    for image, label, first in zip(x, y, start, strict=True):
        current = first
        for _ in range(6):
            current = current.detach().requires_grad_()
            logits = model(current[None])
            if int(logits.argmax()) != int(label):
                break
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, label[None]), current)
            moved = current.detach() + 0.03 * gradient.sign()
            current = torch.max(torch.min(moved, image + 0.1), image - 0.1).clamp(0, 1)
        made.append(current.detach())
    return torch.stack(made)


def test_frozen_images_are_those_of_a_loop_over_images_that_stops_at_the_first_mistake() -> None:
    model = network()
    what = shown(model)
    start = starts(model, what)
    found = attacked(replace(SMALL, freeze_fooled=True), model, what)
    torch.testing.assert_close(found, slow_frozen(model, what.x, what.y, start), rtol=0, atol=1e-12)
    moved = (found != start).flatten(1).any(1)
    assert 0 < int(moved.sum()) < len(moved)


def test_images_that_are_wrong_do_not_move_in_a_step_and_the_others_move_as_ever() -> None:
    model = network()
    what = shown(model)
    attack = replace(SMALL, pgd=replace(SMALL.pgd, steps=1))
    start = starts(model, what)
    right = model(start).argmax(1) == what.y
    free, frozen = (attacked(replace(attack, freeze_fooled=freeze), model, what) for freeze in (False, True))
    assert torch.equal(frozen[~right], start[~right])
    assert torch.equal(frozen[right], free[right])
    assert (free != start).flatten(1).any(1).all()


def test_fooled_images_are_another_attacks_where_steps_follow() -> None:
    """Without the freeze, an attack goes on behind the first mistake."""
    model = network()
    what = shown(model)
    free, frozen = (attacked(replace(SMALL, freeze_fooled=freeze), model, what) for freeze in (False, True))
    with torch.no_grad():
        fooled = model(frozen).argmax(1) != what.y
    assert fooled.any()
    assert (free != frozen).flatten(1).any(1)[fooled].any()


def test_nothing_moves_and_nothing_is_lost_where_every_image_is_wrong() -> None:
    model = network()
    what = shown(model)
    with torch.no_grad():
        wrong = replace(what, y=(model(what.x).argmin(1)))
    attack = replace(SMALL, pgd=PGD(LinfBall(1e-3), steps=3, step_size=1e-3), freeze_fooled=True)
    found = attacked(attack, model, wrong)
    assert torch.equal(found, starts(model, wrong, attack))
    assert found.isfinite().all()
    pixels = torch.zeros(3, 1, 1, 1, dtype=torch.uint8)
    all_wrong = Validator(
        Split(pixels, torch.ones(3, dtype=torch.int64)), scoring, 2, replace(ATTACK, freeze_fooled=True)
    )
    assert (all_wrong(Threshold()).clean, all_wrong(Threshold()).robust) == (0.0, 0.0)


def test_starts_are_keyed_by_image() -> None:
    """Few steps from a random start: the answer would differ between batch sizes if the start did."""
    split = tiny.dataset().validation
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    watched = Watched()
    for batch_size in (2, len(split)):
        attack = SelectingAttack(PGD(LinfBall(0.1), steps=1, step_size=0.1), SEED)
        Validator(split, watched, batch_size, attack)(linear)
    assert torch.equal(torch.cat(watched.seen[:-1]), watched.seen[-1])
    clean = split.float_images(slice(None))
    assert (watched.seen[-1] - clean).abs().max() <= 0.1 + 1e-6
    assert watched.seen[-1].min() >= 0


def test_starts_depend_on_the_seed_and_on_nothing_else_of_the_attack() -> None:
    model = network()
    what = shown(model)
    first = starts(model, what)
    assert torch.equal(first, starts(model, what, replace(SMALL, freeze_fooled=True)))
    seen = Watched()
    attacked(replace(SMALL, crafting=lambda network, generator: partial(seen, network)), model, what)
    assert torch.equal(first, seen.seen[0])
    assert not torch.equal(first, starts(model, what, replace(SMALL, seed=1)))


# Random states in the attack. On the toy they are random signs: half of the steps lead away.


@dataclass(frozen=True)
class Signs:
    """Logits times a random sign, with a note of the signs."""

    seen: list[int] = field(default_factory=list)

    def __call__(self, model: nn.Module, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        sign = 2 * int(torch.randint(0, 2, (), generator=generator)) - 1
        self.seen.append(sign)
        return lambda x: sign * scoring(model, x)


def draws(model: nn.Module, *, batch_size: int = 2, seed: int = SEED) -> list[int]:
    """The signs of one validation."""
    signs = Signs()
    validator(batch_size, replace(ATTACK, seed=seed, crafting=signs))(model)
    return signs.seen


def test_draws_are_new_at_every_step_and_for_every_batch() -> None:
    drawn = draws(Threshold())
    steps = ATTACK.pgd.steps
    first, second, third = (drawn[start : start + steps] for start in (0, steps, 2 * steps))
    assert len(drawn) == 3 * steps
    assert all(set(batch) == {-1, 1} for batch in (first, second, third))
    assert first != second != third != first


def test_draws_are_the_same_in_every_epoch_and_for_every_model_of_a_seed() -> None:
    trained, other = Threshold(), Threshold()
    with torch.no_grad():
        other.scale.fill_(3.0)
    torch.manual_seed(1)
    reference = draws(trained)
    torch.manual_seed(2)
    assert draws(trained) == draws(other) == reference
    assert draws(trained, seed=1) != reference


def test_draws_come_from_a_stream_of_their_own_keyed_by_the_first_image_of_the_batch() -> None:
    expected = []
    for first in (0, 2, 4):
        generator = Stream(SEED, "selection/states").generator(first)
        expected += [2 * int(torch.randint(0, 2, (), generator=generator)) - 1 for _ in range(ATTACK.pgd.steps)]
    assert draws(Threshold()) == expected


def test_robust_accuracy_under_random_crafting_is_the_same_whenever_it_is_taken() -> None:
    check = validator(2, replace(ATTACK, crafting=Signs()))
    assert check(Threshold()) == check(Threshold())


def test_random_crafting_changes_the_robust_accuracy_and_leaves_the_clean_one() -> None:
    away: Crafting = lambda model, generator: lambda x: -scoring(model, x)  # noqa: E731
    found = validator(5, replace(ATTACK, crafting=away))(Threshold())
    assert found.clean == validator(5)(Threshold()).clean == 0.8
    assert (found.robust, validator(5)(Threshold()).robust) == (0.8, 0.4)


def test_what_an_attack_sees_decides_what_is_frozen() -> None:
    """All images look wrong to this attack: none moves, whatever the scored logits are."""
    model = network()
    what = shown(model)

    def wrong(network: nn.Module, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        return lambda x: scoring(network, x) - 100 * F.one_hot(what.y, 3)

    found = attacked(replace(SMALL, crafting=wrong, freeze_fooled=True), model, what)
    assert torch.equal(found, starts(model, what))
