"""Every attack of the suite, on a network, on undefended dynamics and on such as update the input."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deqpipe.attack import losses
from deqpipe.attack import suite as attacks
from deqpipe.attack.judged import Crafted
from deqpipe.attack.suite import Batch, Victim
from deqpipe.defence.entropy import (
    DifferentiableDescent,
    InputDescent,
    InputEntropyReduction,
    RestartedEntropyReduction,
    Schedule,
)  # fmt: skip
from deqpipe.dynamics import PlainDynamics
from deqpipe.seeding import Stream
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.workflow.suite_attacks import SuiteAttack, against, suite_attacks
from tests.analysis.suites import asked
from tests.reference.tiny import images, tiny_model
from tests.sampling import one_in

N, STATE, SIZE, BATCH = 4, 3, 4, 2
BALL = LinfBall(0.02)
SUITE = asked(iterations=1, restarts=2, targets=2, long=(2,), queries=3, decision_queries=3)
MODEL = tiny_model(2, size=SIZE).requires_grad_(False)
X = images(BATCH, size=SIZE)
DESCENT = InputDescent(BALL, steps=1, step_size=0.01)
PLAIN = PlainDynamics(Broyden(), Termination(N))
REDUCTION = InputEntropyReduction(Broyden(), Termination(N), DESCENT, Schedule(2))
RESTARTED = RestartedEntropyReduction(Broyden(), Termination(N), DESCENT, Schedule(2))
KEYS: Sequence[int] = (7, 3)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    return layers.requires_grad_(False)


VICTIMS = {
    "network": Victim(network(), BALL),
    "plain": Victim(MODEL, BALL, PLAIN, STATE, PLAIN),
    "algorithm 1": Victim(MODEL, BALL, REDUCTION, STATE, PLAIN),
    "restarted": Victim(MODEL, BALL, RESTARTED, STATE, PLAIN),
}


def labels(victim: Victim) -> Tensor:
    """As the decision has them: every image is right to begin with."""
    return victim.logits(X).argmax(1)


def run(attack: SuiteAttack, victim: Victim, rows: slice = slice(None), **changes: Any) -> Crafted:
    x, y = X[rows], labels(victim)[rows]
    warm = x + BALL.epsilon / 2 if attack.warm else None
    asked_for = replace_suite(**changes)
    return attacks.run(attack, victim, Batch(x, y, KEYS[rows], warm), stream=Stream(5, attack.name), suite=asked_for)


def replace_suite(**changes: Any) -> Any:
    return SUITE.model_copy(update=changes)


def cases(*names: str) -> Iterator[Any]:
    """Attacks on victims: all on the network, every fifth on each of the others, and the rest when slow."""
    every = [(attack, name) for name in names or VICTIMS for attack in against(SUITE, VICTIMS[name].kind)]
    for number, (attack, name) in enumerate(every):
        slow = name != "network" and number % 5
        yield pytest.param(attack, name, id=f"{attack.name}-{name}", marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("attack", "name"), [*cases()])
def test_what_an_attack_ends_with_is_allowed_and_judged_as_the_decision_judges_it(
    attack: SuiteAttack, name: str
) -> None:
    victim = VICTIMS[name]
    crafted = run(attack, victim)
    assert BALL.distance(crafted.images, X).amax() <= BALL.epsilon + 1e-12
    assert crafted.images.amin() >= 0
    assert crafted.images.amax() <= 1
    assert torch.equal(X + crafted.delta, crafted.images)
    assert (crafted.taken > 0).all()
    right = victim.logits(crafted.images).argmax(1) == labels(victim)
    assert torch.equal(right, crafted.broken_at < 0)
    assert torch.equal(right, crafted.margin > 0)


def by_gradient(*names: str) -> Iterator[Any]:
    return (one for one in cases(*names) if one.values[0].search == "apgd" and not one.values[0].warm)


def objective_at(attack: SuiteAttack, victim: Victim, number: int, x: Tensor) -> Any:
    batch = Batch(X, labels(victim), KEYS)
    return attacks._objectives(attack, victim, batch, victim.logits(X))(number)(x, torch.arange(BATCH))


@pytest.mark.parametrize(("attack", "name"), [*by_gradient()])
def test_an_objective_hands_out_the_decisions_own_logits_and_a_gradient(attack: SuiteAttack, name: str) -> None:
    victim = VICTIMS[name]
    moved = (X + 0.01).clamp(0, 1).requires_grad_()
    measured = objective_at(attack, victim, 0, moved)
    if measured.logits is not None:
        assert torch.equal(measured.logits, victim.logits(moved.detach()))
    (gradient,) = torch.autograd.grad(measured.loss.sum(), moved)
    assert (gradient != 0).flatten(1).any(1).all()


@pytest.mark.parametrize(("attack", "name"), [*by_gradient("algorithm 1")])
def test_an_attack_touches_the_defence_unless_it_is_blind_to_it(
    attack: SuiteAttack, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, calls = VICTIMS[name], list[str]()
    batch, clean = Batch(X, labels(victim), KEYS), victim.logits(X)
    objective = attacks._objectives(attack, victim, batch, clean)(0)
    for descent in (InputDescent, DifferentiableDescent):
        monkeypatch.setattr(descent, "__call__", _counting(descent.__call__, calls))
    objective(X.clone().requires_grad_(), torch.arange(BATCH))
    assert bool(calls) == (attack.gradient not in ("unrolled", "adjoint"))


def _counting(descent: Callable[..., Tensor], calls: list[str]) -> Callable[..., Tensor]:
    def counted(*arguments: Any) -> Tensor:
        calls.append("descent")
        return descent(*arguments)

    return counted


@pytest.mark.parametrize("loss", ["targeted", "low_entropy"])
def test_targeted_losses_aim_at_another_wrong_class_from_each_start(loss: str) -> None:
    clean, y = VICTIMS["plain"].logits(X), labels(VICTIMS["plain"])
    aims = torch.stack([attacks._target(clean, y, number) for number in range(4)])
    for row in range(BATCH):
        assert sorted([*aims[:, row].tolist(), int(y[row])]) == [0, 1, 2, 3, 4]
        likely = clean[row, aims[:, row]].tolist()
        assert likely == sorted(likely, reverse=True)
    attack = next(one for one in suite_attacks(SUITE).values() if one.loss == loss)
    values = [
        objective_at(attack, VICTIMS["algorithm 1"], number, X.clone().requires_grad_()).loss for number in (0, 1)
    ]
    assert not torch.equal(values[0], values[1])


def test_a_targeted_loss_aims_at_no_more_classes_than_there_are() -> None:
    attack = suite_attacks(SUITE)["exact_targeted"]
    crafted = run(attack, VICTIMS["network"], targets=50)
    assert (crafted.taken <= 4 * (SUITE.iterations + 1)).all()


@pytest.mark.parametrize("name", ["exact_margin", "noise"])
def test_more_starts_contain_fewer(name: str) -> None:
    attack, victim = suite_attacks(SUITE)[name], replace(VICTIMS["network"], ball=LinfBall(0.05))
    few, many = (run(attack, victim, restarts=count) for count in (1, 4))
    assert (many.margin <= few.margin).all()
    fallen = few.broken_at >= 0
    assert torch.equal(many.images[fallen], few.images[fallen])
    standing = many.broken_at < 0
    assert torch.equal(many.taken[standing], 4 * few.taken[standing])


@pytest.mark.parametrize("name", one_in(5, ["bpda_updated", "noise", "exact_margin", "square", "rays"]))
def test_an_image_has_what_it_has_alone(name: str) -> None:
    attack, victim = suite_attacks(SUITE)[name], VICTIMS["algorithm 1"]
    together = run(attack, victim)
    for number in range(BATCH):
        alone = run(attack, victim, slice(number, number + 1))
        torch.testing.assert_close(alone.images[0], together.images[number], rtol=0, atol=1e-9)
        assert alone.broken_at[0] == together.broken_at[number]
        assert alone.taken[0] == together.taken[number]


def test_a_warm_attack_starts_where_it_is_told() -> None:
    attack, victim = suite_attacks(SUITE)["warm"], VICTIMS["network"]
    y = labels(victim)
    warm = (X + 0.015).clamp(0, 1)
    crafted = attacks.run(
        attack, victim, Batch(X, y, KEYS, warm), stream=Stream(0, "warm"),
        suite=SUITE.model_copy(update={"iterations": 1}),
    )  # fmt: skip
    at_warm = -losses.margin(victim.logits(warm), y)
    assert (crafted.margin <= at_warm).all()


def test_a_warm_attack_without_images_is_refused() -> None:
    attack = suite_attacks(SUITE)["warm"]
    batch = Batch(X, labels(VICTIMS["network"]), KEYS)
    with pytest.raises(ValueError, match="warm starts from the best images so far, but none were given"):
        attacks.run(attack, VICTIMS["network"], batch, stream=Stream(0, ""), suite=SUITE)


def test_an_attack_on_what_it_is_not_made_for_is_refused() -> None:
    attack = suite_attacks(SUITE)["bpda_updated"]
    with pytest.raises(ValueError, match="bpda_updated attacks defended decisions, but this is plain"):
        run(attack, VICTIMS["plain"])


def test_an_attack_on_no_image_ends_with_none() -> None:
    crafted = run(suite_attacks(SUITE)["exact_margin"], VICTIMS["plain"], slice(0, 0))
    assert len(crafted.images) == len(crafted.broken_at) == 0
