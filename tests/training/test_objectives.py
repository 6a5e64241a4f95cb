"""The training losses against slow versions that are written straight from the formulas."""

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqpipe.attack.pgd import PGD
from deqpipe.compute.replay import Step
from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier, build_classifier
from deqpipe.seeding import Stream
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Returned, Termination
from deqpipe.threat_model import LinfBall
from deqpipe.training.forward import (
    DEQForward,
    DEQPass,
    Draws,
    Pass,
    PlainForward,
    RandomStates,
    Reader,
    StateChoice,
    UnrolledForward,
    draws,
)
from deqpipe.training.jacobian import JacobianRegularisation
from deqpipe.training.objectives import (
    Batch,
    CleanUnrolled,
    Loss,
    PGDAdversarial,
    TradesAdversarial,
    crafting_mode,
    divergence,
)
from tests import tiny
from tests.sampling import one_in
from tests.training.slow_states import slow_returned

N, DAMPING, UNROLL = 3, 0.5, 2
EPSILON, ALPHA, STEPS = 0.1, 0.04, 3
NOISE, INVERSE_LAMBDA = 0.05, 6.0
ATTACK = PGD(LinfBall(EPSILON), steps=STEPS, step_size=ALPHA)
STREAM = Stream(5, "training/attack")
NEVER = JacobianRegularisation(weight=1.0, frequency=0.0, last_step=100, probes=1, length_jitter=(0, 0))
ALWAYS = JacobianRegularisation(weight=2.0, frequency=1.0, last_step=100, probes=2, length_jitter=(1, 1))
RANDOM = RandomStates(in_attack=True, natural="independent")
NATURAL: tuple[Literal["final", "independent", "shared"], ...] = ("final", "independent", "shared")
RETURNED: tuple[Returned, ...] = ("last", "lowest_sample", "lowest_batch")


@pytest.fixture
def deq() -> DEQClassifier:
    """Far from its initialisation, where all states are nearly the same."""
    model = build_classifier(tiny.settings().model, image_shape=(1, 8, 8), classes=3, seed=2).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def batch() -> Batch:
    split = tiny.dataset().train
    return Batch(x=split.float_images(slice(0, 4)).double(), y=split.labels[:4])


class Network(nn.Module):
    """As small as a network with batch norm can be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.linear = nn.BatchNorm2d(1), nn.Linear(64, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.norm(x)).flatten(1))


def forward(
    jacobian: JacobianRegularisation = NEVER, random: RandomStates | None = None, *, returned: Returned = "last"
) -> DEQForward:
    return DEQForward(
        solver=FixedPointIteration(),
        termination=Termination(max_steps=N),
        gradient=Unrolled(steps=UNROLL, damping=DAMPING),
        random_states=random,
        jacobian=jacobian,
        returned=returned,
    )


# The slow versions. States come from iterating f, as the solver here is plain iteration.


def slow_state(model: DEQClassifier, f: Callable[[Tensor], Tensor], x: Tensor, choice: StateChoice) -> Tensor:
    states = [torch.zeros(len(x), model.state_size, dtype=x.dtype)]
    with torch.no_grad():
        for _ in range(choice.steps):
            states.append(f(states[-1]))
    return slow_returned(f, states[1:], choice.returned)


def slow_logits(model: DEQClassifier, f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    for _ in range(UNROLL):
        z = (1 - DAMPING) * z + DAMPING * f(z)
    return model.logits(z)


def slow_pgd(x: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    adversarial = start.clone()
    for _ in range(STEPS):
        adversarial = adversarial.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(adversarial), adversarial)
        moved = adversarial.detach() + ALPHA * gradient.sign()
        adversarial = torch.max(torch.min(moved, x + EPSILON), x - EPSILON).clamp(0, 1)
    return adversarial


def slow_kl(natural: Tensor, perturbed: Tensor) -> Tensor:
    p, q = natural.softmax(1), perturbed.softmax(1)
    return (p * (p / q).log()).sum(1).mean()


def uniform_start(x: Tensor, step: int) -> Tensor:
    noise = torch.rand(x.shape, generator=STREAM.generator(step))
    return (x + (2 * noise - 1) * EPSILON).clamp(0, 1)


def gaussian_start(x: Tensor, step: int) -> Tensor:
    return x + NOISE * torch.randn(x.shape, generator=STREAM.generator(step))


class SlowStates:
    """Which states a step sees, drawn again from the step's own source: two numbers a time, the first is z~'s."""

    def __init__(self, step: int, random: RandomStates | None, returned: Returned) -> None:
        self.generator, self.random = draws(9, step).states, random
        self.final = StateChoice(N, returned)

    def __call__(self, *, fixed: bool = False) -> tuple[StateChoice, StateChoice]:
        """(natural, adversarial)."""
        if self.random is None or fixed:
            return self.final, self.final
        first, second = (
            StateChoice(int(torch.randint(1, N + 1, (), generator=self.generator)), self.random.returned)
            for _ in range(2)
        )
        return {"final": self.final, "independent": second, "shared": first}[self.random.natural], first


def slow_deq_loss(
    kind: str,
    model: DEQClassifier,
    batch: Batch,
    step: int,
    random: RandomStates | None,
    *,
    returned: Returned = "last",
) -> Tensor:
    states = SlowStates(step, random, returned)
    natural_state, state = states()
    in_attack = random is not None and random.in_attack
    model.eval()

    def eval_logits(x: Tensor, choice: StateChoice) -> Tensor:
        f = model.bind(x)
        return slow_logits(model, f, slow_state(model, f, x, choice))

    def attack_loss(x: Tensor) -> Tensor:
        natural, adversarial = states(fixed=not in_attack)
        if kind == "pgd_at":
            return F.cross_entropy(eval_logits(x, adversarial), batch.y)
        return slow_kl(eval_logits(batch.x, natural).detach(), eval_logits(x, adversarial))

    start = uniform_start(batch.x, step) if kind == "pgd_at" else gaussian_start(batch.x, step)
    adversarial = slow_pgd(batch.x, start, attack_loss)
    model.train()
    masks = draws(9, step).dropout

    def train_logits(x: Tensor, choice: StateChoice) -> Tensor:
        f = model.bind(x, masks)
        return slow_logits(model, f, slow_state(model, f, x, choice))

    if kind == "pgd_at":
        return F.cross_entropy(train_logits(adversarial, state), batch.y)
    natural = train_logits(batch.x, natural_state)
    return F.cross_entropy(natural, batch.y) + INVERSE_LAMBDA * slow_kl(natural, train_logits(adversarial, state))


def objective(kind: str, passes: DEQForward | PlainForward, *, both: bool = True) -> PGDAdversarial | TradesAdversarial:
    if kind == "pgd_at":
        return PGDAdversarial(passes, ATTACK, STREAM)
    return TradesAdversarial(
        passes, ATTACK, STREAM, inverse_lambda=INVERSE_LAMBDA, start_noise=NOISE, both_penalised=both
    )


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def assert_same(model: nn.Module, loss: Tensor, slow_model: nn.Module, slow_loss: Tensor) -> None:
    """Loss, gradient and everything that the forward passes leave in the model."""
    torch.testing.assert_close(loss, slow_loss, rtol=1e-10, atol=1e-12)
    for left, right in zip(gradients(model, loss), gradients(slow_model, slow_loss), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-10)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, slow_model.state_dict()[name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "random",
    [
        None,
        RANDOM,
        RandomStates(in_attack=False, natural="final"),
        RandomStates(in_attack=True, natural="shared"),
        RandomStates(in_attack=True, natural="final"),
    ],
    ids=["final", "independent", "not-in-attack", "shared", "natural-final"],
)
@pytest.mark.parametrize("kind", ["pgd_at", "trades"])
def test_loss_of_a_deq_is_what_the_formula_says(
    deq: DEQClassifier, batch: Batch, kind: str, random: RandomStates | None
) -> None:
    for step in (3, 4):
        slow, fast = copy.deepcopy(deq), copy.deepcopy(deq)
        loss = objective(kind, forward(random=random))(fast, batch, draws(9, step))
        assert_same(fast, loss.value, slow, slow_deq_loss(kind, slow, batch, step, random))


@pytest.mark.parametrize("returned", ["lowest_sample", "lowest_batch"])
@pytest.mark.parametrize(
    "random",
    one_in(2, [RANDOM, None, RandomStates(in_attack=True, natural="final")]),
    ids=["independent", "final", "natural-final"],
)
@pytest.mark.parametrize("kind", ["pgd_at", "trades"])
def test_loss_at_states_of_lowest_residual_is_what_the_formula_says(
    deq: DEQClassifier, batch: Batch, kind: str, random: RandomStates | None, returned: Returned
) -> None:
    random = replace(random, returned=returned) if random else None
    for step in (3, 4):
        slow, fast = copy.deepcopy(deq), copy.deepcopy(deq)
        loss = objective(kind, forward(random=random, returned=returned))(fast, batch, draws(9, step))
        assert_same(fast, loss.value, slow, slow_deq_loss(kind, slow, batch, step, random, returned=returned))


def loss_at(deq: DEQClassifier, batch: Batch, kind: str, step: int, whole: DEQForward) -> float:
    return objective(kind, whole)(copy.deepcopy(deq), batch, draws(9, step)).value.item()


@pytest.mark.parametrize("kind", ["pgd_at", "trades"])
def test_loss_differs_only_where_a_prefix_has_more_than_one_state(deq: DEQClassifier, batch: Batch, kind: str) -> None:
    """Everything else is equal: z* is, and the attack sees nothing else."""
    iterate = RandomStates(in_attack=False, natural="shared")
    differences = []
    for step in range(6):
        plain, lowest = (forward(random=replace(iterate, returned=which)) for which in ("last", "lowest_sample"))
        longer = lowest.prepare(deq, draws(9, step)).loss_states.adversarial.steps > 1
        left, right = (loss_at(deq, batch, kind, step, whole) for whole in (plain, lowest))
        differences.append((longer, abs(left - right)))
    assert {0.0} == {difference for longer, difference in differences if not longer}
    assert max(difference for longer, difference in differences if longer) > 1e-3


@pytest.mark.parametrize("kind", ["pgd_at", "trades"])
def test_loss_of_an_ordinary_network_is_what_the_formula_says(batch: Batch, kind: str) -> None:
    fast, slow = Network(), Network()
    loss = objective(kind, PlainForward())(fast, batch, draws(9, 3))
    slow.eval()
    if kind == "pgd_at":
        made = slow_pgd(batch.x, uniform_start(batch.x, 3), lambda x: F.cross_entropy(slow(x), batch.y))
        expected = F.cross_entropy(slow.train()(made), batch.y)
    else:
        clean = slow(batch.x).detach()
        made = slow_pgd(batch.x, gaussian_start(batch.x, 3), lambda x: slow_kl(clean, slow(x)))
        natural = slow.train()(batch.x)
        expected = F.cross_entropy(natural, batch.y) + INVERSE_LAMBDA * slow_kl(natural, slow(made))
    assert_same(fast, loss.value, slow, expected)


def test_pretraining_loss_is_the_cross_entropy_behind_a_few_applications_of_f(deq: DEQClassifier, batch: Batch) -> None:
    slow = copy.deepcopy(deq).train()
    loss = CleanUnrolled(UnrolledForward(3))(deq, batch, draws(9, 2))
    f = slow.bind(batch.x, draws(9, 2).dropout)
    z = torch.zeros(4, slow.state_size, dtype=torch.float64)
    expected = F.cross_entropy(slow.logits(f(f(f(z)))), batch.y)
    assert_same(deq, loss.value, slow, expected)


def test_divergence_is_summed_over_images() -> None:
    natural, perturbed = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(divergence(perturbed, natural), 5 * slow_kl(natural, perturbed))


def jacobian_value(
    jacobian: JacobianRegularisation, kind: str, deq: DEQClassifier, batch: Batch, *, both: bool
) -> float:
    """The Jacobian part of a loss: with it minus without it, everything else equal (N + 1 steps in both)."""
    sharp = replace(jacobian, length_jitter=(0, 0))
    values = [
        objective(kind, forward(term), both=both)(copy.deepcopy(deq), batch, draws(9, 0)).value.item()
        for term in (sharp, replace(sharp, weight=0.0))
    ]
    return values[0] - values[1]


def test_jacobian_term_stands_on_both_branches_of_trades_or_on_the_adversarial_one(
    deq: DEQClassifier, batch: Batch
) -> None:
    once = jacobian_value(ALWAYS, "trades", deq, batch, both=False)
    twice = jacobian_value(ALWAYS, "trades", deq, batch, both=True)
    assert 0 < once < twice
    assert twice == pytest.approx(2 * once, rel=0.3)  # other images, other probes


def test_jacobian_term_is_proportional_to_its_weight(deq: DEQClassifier, batch: Batch) -> None:
    two = jacobian_value(ALWAYS, "pgd_at", deq, batch, both=True)
    six = jacobian_value(replace(ALWAYS, weight=6.0), "pgd_at", deq, batch, both=True)
    assert six == pytest.approx(3 * two, rel=1e-9)


def counted(model: DEQClassifier, loss: Callable[[], Loss]) -> int:
    before = model.counter.counted
    loss()
    return int((model.counter.counted - before).forward)


def test_natural_logits_are_computed_once_per_state_and_not_once_per_attack_step(
    deq: DEQClassifier, batch: Batch
) -> None:
    used = counted(deq, lambda: objective("trades", forward())(deq, batch, draws(9, 0)))
    one_pass = (N + UNROLL) * len(batch.y)
    assert used == one_pass * (1 + STEPS) + 2 * one_pass  # natural once, each attack step, both branches of the loss


# With random states: the natural trajectory is solved once per batch, as far as the latest state that was drawn.

DRAWING = {
    f"{natural}, {returned}": RandomStates(in_attack=True, natural=natural, returned=returned)
    for natural in NATURAL
    for returned in RETURNED
}
ATTACK_OF_MANY_STEPS = replace(ATTACK, steps=5)


def choices(step: int, random: RandomStates, returned: Returned, count: int) -> list[tuple[StateChoice, StateChoice]]:
    """(natural, adversarial) of the loss, then of each attack step."""
    states = SlowStates(step, random, returned)
    return [states() for _ in range(count + 1)]


def evaluations(choice: StateChoice) -> int:
    """Of reaching a state and unrolling it."""
    return choice.steps + (choice.returned != "last") + UNROLL


@pytest.mark.parametrize("returned", ["last", "lowest_sample"])
@pytest.mark.parametrize("which", one_in(2, DRAWING))
def test_a_step_of_trades_evaluates_f_as_often_as_the_formula_says(
    deq: DEQClassifier, batch: Batch, which: str, returned: Returned
) -> None:
    """The natural solve as far as its latest state, each different natural state unrolled once, all else as drawn."""
    random, whole = DRAWING[which], forward(random=DRAWING[which], returned=returned)
    for step in range(2):
        loss, *attack = choices(step, random, returned, ATTACK_OF_MANY_STEPS.steps)
        natural = {natural for natural, _ in attack}
        solved = max(choice.steps + (choice.returned != "last") for choice in natural)
        expected = (
            solved
            + UNROLL * len(natural)
            + sum(evaluations(adversarial) for _, adversarial in attack)
            + sum(evaluations(choice) for choice in loss)
        )
        trades = replace(objective("trades", whole), attack=ATTACK_OF_MANY_STEPS)
        used = counted(deq, lambda trades=trades, step=step: trades(deq, batch, draws(9, step)))  # type: ignore[misc]
        assert used == expected * len(batch.y)


@dataclass(frozen=True)
class SolvedAnew:
    """Each natural state by a solve of its own, at every attack step."""

    forward: DEQForward

    def prepare(self, model: nn.Module, sources: Draws) -> Pass:
        passes = self.forward.prepare(model, sources)

        class Anew(DEQPass):
            def reader(self, x: Tensor) -> Reader:
                return torch.no_grad()(lambda state: passes.crafting(state)(x))

        return Anew(**vars(passes))


@pytest.mark.parametrize(
    "termination",
    [Termination(8), Termination(8, rtol=0.3), Termination(8, scope="batch"), Termination(8, rtol=0.3, scope="batch")],
    ids=lambda one: f"{one.scope} {one.rtol}",
)
@pytest.mark.parametrize("which", one_in(3, [which for which in DRAWING if "final" not in which]))
def test_one_natural_solve_gives_the_bits_of_a_solve_for_each_state(
    deq: DEQClassifier, batch: Batch, termination: Termination, which: str
) -> None:
    whole = replace(forward(random=DRAWING[which], returned="lowest_sample"), solver=Broyden(), termination=termination)
    found = []
    for way in (whole, SolvedAnew(whole)):
        trades = replace(objective("trades", whole), forward=way, attack=ATTACK_OF_MANY_STEPS)
        model = copy.deepcopy(deq)
        loss = trades(model, batch, draws(9, 1))
        found.append([loss.value.detach(), loss.logits.detach(), *gradients(model, loss.value)])
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


@pytest.mark.parametrize("returned", RETURNED)
def test_what_a_reader_reads_has_the_bits_of_crafting(deq: DEQClassifier, batch: Batch, returned: Returned) -> None:
    """Every state that can be drawn, in an order that goes back and forth, and again from what is known."""
    whole = replace(forward(), solver=Broyden(), termination=Termination(8))
    passes = whole.prepare(deq.eval(), draws(9, 0))
    reader = passes.reader(batch.x)
    for steps in (3, 8, 1, 5, 2, 8, 7, 6, 4, 3):
        choice = StateChoice(steps, returned)
        with torch.no_grad():
            assert torch.equal(reader(choice), passes.crafting(choice)(batch.x))
    assert not reader(StateChoice(2, returned)).requires_grad


def test_a_reader_of_an_ordinary_network_computes_its_logits_once(batch: Batch) -> None:
    network, calls = Network().eval(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    passes = PlainForward().prepare(network, draws(9, 0))
    reader = passes.reader(batch.x)
    found = [reader(passes.loss_states.natural) for _ in range(3)]
    assert len(calls) == 1
    assert torch.equal(found[0], network(batch.x).detach())
    assert not found[0].requires_grad


@pytest.mark.parametrize("kind", ["pgd_at", "trades"])
def test_a_step_leaves_no_gradient_behind_and_the_model_in_training_mode(
    deq: DEQClassifier, batch: Batch, kind: str
) -> None:
    deq.eval()
    objective(kind, forward())(deq, batch, draws(9, 0))
    assert deq.training
    assert all(module.training for module in deq.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in deq.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_crafting_mode_gives_everything_back_even_after_an_error(training: bool) -> None:
    model = Network().train(training)
    model.linear.bias.requires_grad_(False)

    def craft() -> None:
        with crafting_mode(model):
            assert not model.training
            assert not any(parameter.requires_grad for parameter in model.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        craft()
    assert model.training is training
    assert model.linear.weight.requires_grad
    assert not model.linear.bias.requires_grad


def test_training_accuracy_is_counted_on_the_natural_branch_of_trades_and_the_adversarial_one_of_pgd_at(
    batch: Batch,
) -> None:
    model = Network()
    trades = objective("trades", PlainForward())(copy.deepcopy(model), batch, draws(9, 0))
    torch.testing.assert_close(trades.logits, copy.deepcopy(model).train()(batch.x))
    at = objective("pgd_at", PlainForward())(copy.deepcopy(model), batch, draws(9, 0))
    assert not torch.allclose(at.logits, copy.deepcopy(model).train()(batch.x))
    torch.testing.assert_close(F.cross_entropy(at.logits, batch.y), at.value)


def test_every_step_of_a_training_attack_goes_through_what_runs_steps(batch: Batch) -> None:
    """Where steps are replayed as graphs, those of training are, too, whatever states are drawn."""
    seen: list[Hashable] = []

    class Watching:
        def __call__(self, step: Step, key: Hashable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
            seen.append(key)
            return step(*inputs)

    attack = PGD(LinfBall(0.1), steps=3, step_size=0.03, run=Watching())
    for objective in (
        PGDAdversarial(PlainForward(), attack, Stream(0, "training/attack")),
        TradesAdversarial(PlainForward(), attack, Stream(0, "training/attack"), inverse_lambda=6.0, start_noise=0.001),
    ):
        seen.clear()
        objective(Network(), batch, draws(0, 0))
        assert len(seen) == 3
        assert len(set(seen)) == 1
