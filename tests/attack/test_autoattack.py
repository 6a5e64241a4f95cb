"""The library's attacks one by one, against the library's own evaluation; its checks; what a caller may not notice."""

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqpipe.attack import autoattack
from deqpipe.attack.autoattack import Crafted, Flags, LibraryAttacks, check, check_square, library, runnable
from deqpipe.config import AttackName
from deqpipe.errors import UserError
from deqpipe.threat_model import LinfBall

pyautoattack: Any = pytest.importorskip("pyautoattack")
EVERY: tuple[AttackName, ...] = ("apgd_ce", "apgd_t", "fab_t", "square")
SEED, BATCH, ITERATIONS, QUERIES, TARGETS, RESTARTS = 11, 7, 6, 30, 3, 2
BALL = LinfBall(0.05)
ATTACKS = LibraryAttacks(BALL, iterations=ITERATIONS, restarts=RESTARTS, targets=TARGETS, queries=QUERIES)


def network(classes: int = 5) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator) / 3
            parameter.copy_(drawn - drawn.mean() if drawn.dim() > 1 else 0 * drawn)  # no class ahead of the others
    return model.eval().requires_grad_(False)


def images(number: int, *, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Random images, most of them labelled as the network has it."""
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(number, 1, 8, 8, generator=generator)
    y = network(classes)(x).argmax(1)
    y[::6] = (y[::6] + 1) % classes
    return x, y


def theirs(model: nn.Module, x: Tensor, y: Tensor, attacks: Sequence[AttackName]) -> tuple[Tensor, Tensor]:
    """Images of the library's standard evaluation, and on which of them the network is right."""
    names = [name.replace("_", "-") for name in attacks]
    suite = pyautoattack.AutoAttack(
        model, attacks=names, norm="Linf", eps=BALL.epsilon, seed=SEED, version="custom", device="cpu"
    )
    for attack in (suite.apgd, suite.apgd_targeted):
        attack.__init__(
            model, n_iter=ITERATIONS, n_restarts=1, norm="Linf", eps=BALL.epsilon, seed=SEED, device="cpu",
            logger=suite.logger,
        )  # fmt: skip
    suite.apgd.n_restarts, suite.apgd_targeted.n_target_classes = RESTARTS, TARGETS
    suite.fab.n_iter, suite.fab.n_target_classes = ITERATIONS, TARGETS
    suite.square.n_queries = QUERIES
    made, _ = suite.run_standard_evaluation(x, y, batch_size=BATCH)
    return made, model(made).argmax(1) == y


def ours(
    model: nn.Module, x: Tensor, y: Tensor, attacks: Sequence[AttackName], choose: Callable[[Crafted], Tensor]
) -> tuple[Tensor, Tensor]:
    """The same by our pieces."""
    made, left = x.clone(), model(x).argmax(1) == y
    for name in attacks:
        alive = left.nonzero().flatten()
        for where in alive.split(BATCH) if len(alive) else ():
            crafted = choose(ATTACKS(name, model, x[where], y[where], seed=SEED, flags=Flags()))
            wrong = model(crafted).argmax(1) != y[where]
            made[where[wrong]] = crafted[wrong]
            left[where[wrong]] = False
    return made, left


@pytest.mark.parametrize("attacks", [*((name,) for name in EVERY), EVERY])
def test_standard_evaluation_is_the_librarys_image_by_image(attacks: tuple[AttackName, ...]) -> None:
    model, (x, y) = network(), images(40)
    expected, robust = theirs(model, x, y, attacks)
    made, left = ours(model, x, y, attacks, lambda crafted: crafted.fooled)
    assert 0 < robust.sum() < (model(x).argmax(1) == y).sum(), "all or none would say little"
    torch.testing.assert_close(left, robust)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-7 if "fab_t" in attacks else 0)


@pytest.mark.parametrize("name", ["apgd_ce", "square"])
def test_images_of_highest_loss_fool_wherever_any_image_does(name: AttackName) -> None:
    """By cross-entropy or margin alone: where the loss is above that of a tie, the class is another."""
    model, (x, y) = network(), images(40)
    _, robust = theirs(model, x, y, [name])
    _, left = ours(model, x, y, [name], lambda crafted: crafted.best)
    assert left.sum() >= robust.sum()
    assert (left != robust).sum() <= 2


def test_best_images_of_apgd_have_the_highest_loss_also_where_nothing_fools() -> None:
    model, (x, y) = network(), images(24)
    crafted = ATTACKS("apgd_ce", model, x, y, seed=SEED, flags=Flags())
    losses = [F.cross_entropy(model(z), y, reduction="none") for z in (x, crafted.fooled, crafted.best)]
    assert (losses[2] > losses[0]).all()
    assert (losses[2] >= losses[1] - 1e-6).all()
    resisted = (crafted.fooled == x).flatten(1).all(1)
    assert resisted.any()
    assert (crafted.best[resisted] != x[resisted]).flatten(1).any(1).all()


@pytest.mark.parametrize("name", ["apgd_ce", "apgd_t", "square"])
def test_misclassified_images_are_left_alone_or_made_worse_without_moving_the_others(name: AttackName) -> None:
    model, (x, y) = network(), images(24)
    wrong = model(x).argmax(1) != y
    assert 2 <= wrong.sum() <= 5
    one = LibraryAttacks(BALL, iterations=6, restarts=2, targets=3, queries=30, misclassified=False)
    without, with_them = (attack(name, model, x, y, seed=SEED, flags=Flags()) for attack in (one, ATTACKS))
    assert torch.equal(without.best[wrong], x[wrong])
    assert torch.equal(without.best[~wrong], with_them.best[~wrong])
    assert torch.equal(without.fooled, with_them.fooled)
    assert (with_them.best[wrong] != x[wrong]).flatten(1).any(1).all()
    assert (model(with_them.best[wrong]).argmax(1) != y[wrong]).all()


@pytest.mark.parametrize("name", EVERY)
def test_one_image_is_attacked_as_any_number_is(name: AttackName) -> None:
    x, y = images(3)
    crafted = ATTACKS(name, network(), x[1:2], y[1:2], seed=SEED, flags=Flags())
    for made in (crafted.fooled, crafted.best):
        assert made.shape == (1, 1, 8, 8)
        assert float((made - x[1:2]).abs().max()) <= BALL.epsilon + 1e-6
        assert 0 <= float(made.min()) <= float(made.max()) <= 1
    expected, robust = theirs(network(), x[1:2], y[1:2], [name])
    fools = network()(crafted.fooled).argmax(1) != y[1:2]
    torch.testing.assert_close(fools, ~robust)
    torch.testing.assert_close(crafted.fooled, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_a_ball_without_extent_changes_nothing(name: AttackName) -> None:
    x, y = images(9)
    attack = LibraryAttacks(LinfBall(0.0), iterations=3, restarts=1, targets=2, queries=5)
    crafted = attack(name, network(), x, y, seed=SEED, flags=Flags())
    assert torch.equal(crafted.fooled, x)
    assert torch.equal(crafted.best, x)


def test_with_three_classes_all_attacks_but_the_targeted_dlr_loss_work() -> None:
    model, (x, y) = network(3), images(12, classes=3)
    assert runnable(EVERY, classes=3) == ("apgd_ce", "fab_t", "square")
    assert runnable(EVERY, classes=4) == EVERY
    for name in runnable(EVERY, classes=3):
        assert ATTACKS(name, model, x, y, seed=SEED, flags=Flags()).best.shape == x.shape
    flags = Flags()
    check(model, x, y, attacks=EVERY, flags=flags)
    assert "APGD-T is left out: it needs 4 classes, and there are 3" in flags.lines
    with pytest.raises(ValueError, match="APGD-T needs 4 classes, but there are 3"):
        ATTACKS("apgd_t", model, x, y, seed=SEED, flags=Flags())


@pytest.mark.parametrize("name", EVERY)
def test_seed_decides_and_the_callers_generator_does_not_move(name: AttackName) -> None:
    model, (x, y) = network(), images(12)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = ATTACKS(name, model, x, y, seed=SEED, flags=Flags())
    assert torch.equal(torch.rand(3), expected)
    again, other = (ATTACKS(name, model, x, y, seed=seed, flags=Flags()) for seed in (SEED, SEED + 1))
    assert torch.equal(first.best, again.best)
    assert torch.equal(first.best, other.best) == (name == "fab_t"), "FAB-T draws nothing without restarts"


def test_logits_that_are_no_numbers_end_no_attack() -> None:
    def broken(x: Tensor) -> Tensor:
        return network()(x) * float("nan")

    x, y = images(4)
    for name in ("apgd_ce", "square"):
        crafted = ATTACKS(name, broken, x, y, seed=SEED, flags=Flags())
        assert float((crafted.best - x).abs().max()) <= BALL.epsilon + 1e-6


@pytest.mark.parametrize("what", ["iterations", "restarts", "targets", "queries"])
def test_an_attack_that_does_nothing_is_refused(what: str) -> None:
    changes: dict[str, Any] = {what: 0}
    with pytest.raises(ValueError, match=f"{what} is 0, but must be at least 1"):
        replace(ATTACKS, **changes)


def test_images_beyond_the_pixel_range_and_none_are_refused() -> None:
    x, y = images(3)
    with pytest.raises(ValueError, match=r"images are from .* to 1\.9\d*, but must be within \[0, 1\]"):
        ATTACKS("apgd_ce", network(), x + 1 + 1e-3, y, seed=SEED, flags=Flags())
    with pytest.raises(ValueError, match="no image to attack"):
        ATTACKS("apgd_ce", network(), x[:0], y[:0], seed=SEED, flags=Flags())


def dynamic(x: Tensor) -> Tensor:
    """Logits that depend on a gradient with respect to the image."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(network()(at).logsumexp(1).sum(), at)
    return cast(Tensor, network()(x + 0.01 * gradient.sign()))


def flags_of(logits_of: Callable[[Tensor], Tensor]) -> tuple[str, ...]:
    x, y = images(6)
    flags = Flags()
    check(logits_of, x, y, attacks=EVERY, flags=flags)
    return flags.lines


def test_a_dynamic_defence_is_flagged_and_the_plain_one_after_it_is_not() -> None:
    (line,) = flags_of(dynamic)
    assert line.startswith("it seems to be a dynamic defense!")
    assert "flags_doc" not in line
    assert flags_of(network()) == ()


def test_random_logits_and_probabilities_are_flagged() -> None:
    assert any("randomized" in line for line in flags_of(lambda x: network()(x) + torch.rand(len(x), 5)))
    assert any("probability" in line for line in flags_of(lambda x: network()(x).softmax(1)))


def test_checks_leave_the_trace_function_as_it_was() -> None:
    def trace(frame: Any, event: str, argument: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        flags_of(network())
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


def test_zero_gradients_are_told_once_with_how_often() -> None:
    def flat(x: Tensor) -> Tensor:
        return network()(x) * (x.mean((1, 2, 3), keepdim=False) > 0.5)[:, None] + torch.arange(5.0)

    x = images(8)[0]
    y, flags = flat(x).argmax(1), Flags()
    ATTACKS("apgd_t", flat, x, y, seed=SEED, flags=flags)
    (line,) = flags.lines
    assert "points with zero gradient!" in line
    assert line.endswith("(first of 3 such warnings)")


def test_square_stronger_than_gradients_is_flagged() -> None:
    flags = Flags()
    check_square({"apgd_ce": 0.5, "square": 0.5}, flags=flags)
    assert not flags.lines
    check_square({"apgd_ce": 0.5, "square": 0.4}, flags=flags)
    assert "decreased the robust accuracy" in "".join(flags.lines)


def test_original_package_stands_in_where_the_other_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def find(name: str) -> Any:
        asked.append(name)
        return None if name == "pyautoattack" else types.SimpleNamespace()

    modules = {name: types.ModuleType(name) for name in ("autopgd_base", "square", "fab_pt", "checks")}
    classes = {"autopgd_base": ("APGDAttack", "APGDAttack_targeted"), "square": ("SquareAttack",),
               "fab_pt": ("FABAttack_PT",)}  # fmt: skip
    for module, names in classes.items():
        for name in names:
            setattr(modules[module], name, f"autoattack {name}")
    monkeypatch.setattr(autoattack, "find_spec", find)
    monkeypatch.setattr(autoattack, "import_module", lambda name: modules[name.removeprefix("autoattack.")])
    found = library()
    assert asked == ["pyautoattack", "autoattack"]
    assert (found.apgd, found.apgd_targeted) == ("autoattack APGDAttack", "autoattack APGDAttack_targeted")
    assert (found.fab, found.square) == ("autoattack FABAttack_PT", "autoattack SquareAttack")
    monkeypatch.setattr(autoattack, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs one of the packages pyautoattack, autoattack, but none is installed"):
        library()


def test_the_original_packages_logger_calls_are_understood() -> None:
    """It logs by `log(message)`, the other by `warning(message)`."""
    flags = Flags()
    flags.log("there are 3 points! See flags_doc.md for details.")
    flags.warning("there are 4 points!")
    assert flags.lines == ("there are 3 points! (first of 2 such warnings)",)
