"""Adversarial weight perturbation against the authors' procedure, which changes the weights and changes them back."""

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from deqpipe.gradient import Implicit
from deqpipe.machine.stopping import Interrupted
from deqpipe.model.classifier import DEQClassifier, build_classifier
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.training.forward import DEQForward, Draws, PlainForward, draws
from deqpipe.training.objectives import Batch, Loss, LossOfWeights, PGDAdversarial, TradesAdversarial
from deqpipe.training.weight_perturbation import WeightPerturbed, ascent
from tests import tiny
from tests.sampling import one_in
from tests.training.test_objectives import ALWAYS, NEVER, RANDOM, Network, forward, objective

STEP, SIZE = 3, 0.02
Adversarial = PGDAdversarial | TradesAdversarial


def fresh(*, weight_norm: bool = True) -> DEQClassifier:
    """Far from its initialisation, where all states are nearly the same; with dropout."""
    settings = tiny.settings().model.model_copy(update={"weight_norm": weight_norm})
    model = build_classifier(settings, image_shape=(1, 8, 8), classes=3, seed=2).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def batch() -> Batch:
    split = tiny.dataset().train
    return Batch(x=split.float_images(slice(0, 4)).double(), y=split.labels[:4])


EXACT = replace(forward(), gradient=Implicit(FixedPointIteration(), steps=5))
TRAININGS: Mapping[str, tuple[Callable[[], nn.Module], DEQForward | PlainForward]] = {
    "final": (fresh, forward()),
    "random states": (fresh, forward(random=RANDOM)),
    "no weight norm": (partial(fresh, weight_norm=False), forward(random=RANDOM)),
    "exact": (fresh, EXACT),
    "Jacobian": (fresh, forward(ALWAYS, RANDOM)),
    "batch norm": (Network, PlainForward()),
}
CASES = list(itertools.product(TRAININGS, ("pgd_at", "trades")))


def built(training: str, kind: str) -> tuple[nn.Module, Adversarial]:
    """A model, and its objective at the weights themselves."""
    model, passes = TRAININGS[training]
    return model(), objective(kind, passes)


def is_scale(name: str) -> bool:
    """The scale of a weight-normed convolution: PyTorch would call it weight_g."""
    return name.endswith(".g")


def slow_loss(model: nn.Module, plain: Adversarial, batch: Batch, *, size: float) -> Tensor:
    """The loss at perturbed weights with its gradient, as the authors' code has it, but restored before the update."""
    before = copy.deepcopy(model.state_dict())
    ascended, descended = (plain.attacked(model, batch, draws(9, STEP)) for _ in range(2))  # crafted at the weights
    names, parameters = zip(*model.named_parameters(), strict=True)
    directions = torch.autograd.grad(ascended(penalised=False).value, parameters)
    model.load_state_dict(before)
    for name, parameter, direction in zip(names, parameters, directions, strict=True):
        if parameter.dim() > 1 and not is_scale(name):
            parameter.data += size * parameter.data.norm() / direction.norm() * direction
    loss = descended().value
    loss.backward()
    for name, parameter in model.named_parameters():
        parameter.data.copy_(before[name])
    return loss.detach()


@pytest.mark.parametrize(("training", "kind"), one_in(5, CASES))
def test_updated_parameters_are_those_of_the_authors_procedure(training: str, kind: str, batch: Batch) -> None:
    model, plain = built(training, kind)
    fast, slow = copy.deepcopy(model), copy.deepcopy(model)
    expected = slow_loss(slow, plain, batch, size=SIZE)
    loss = WeightPerturbed(plain, SIZE)(fast, batch, draws(9, STEP)).value
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-10, atol=1e-12)
    for one in (fast, slow):
        SGD(one.parameters(), 0.1).step()
    for name, tensor in fast.state_dict().items():
        torch.testing.assert_close(tensor, slow.state_dict()[name], rtol=1e-9, atol=1e-11, msg=name)
    assert any(not torch.equal(tensor, model.state_dict()[name]) for name, tensor in fast.state_dict().items())


@pytest.mark.parametrize(("training", "kind"), one_in(5, CASES, first=2))
def test_a_perturbation_of_size_0_gives_the_bits_of_the_plain_step(training: str, kind: str, batch: Batch) -> None:
    found = []
    model, plain = built(training, kind)
    for one in (plain, WeightPerturbed(plain, 0.0)):
        trained = copy.deepcopy(model)
        loss = one(trained, batch, draws(9, STEP))
        loss.value.backward()
        gradients = [parameter.grad for parameter in trained.parameters()]
        assert all(gradient is not None for gradient in gradients)
        found.append([loss.value.detach(), loss.logits, *trained.buffers(), *(g for g in gradients if g is not None)])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(("training", "kind"), one_in(5, CASES, first=3))
def test_a_perturbation_is_as_long_as_it_should_be_and_raises_the_loss(training: str, kind: str, batch: Batch) -> None:
    (model, plain), sources = built(training, kind), draws(9, STEP)
    loss = plain.attacked(model, batch, sources)
    with sources.drawn_again():
        perturbation = ascent(model, loss, size=SIZE)
    weights = {name: one for name, one in model.named_parameters() if one.dim() > 1 and not is_scale(name)}
    assert perturbation.keys() == weights.keys()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for name, moved in perturbation.items():
        assert moved.norm().item() == pytest.approx(SIZE * before[name].norm().item(), rel=1e-9), name
    found = []
    for share in (-1e-3, 0.0, 1e-3):
        with torch.no_grad(), sources.drawn_again():
            for name, moved in perturbation.items():
                weights[name].copy_(before[name] + share * moved)
            found.append(loss(penalised=False).value.item())
    assert found[0] < found[1] < found[2]


def test_the_convolutions_own_weight_turns_by_as_much_as_its_direction(batch: Batch) -> None:
    """The gradient is orthogonal to v in every channel: the scale g alone decides about the length of v g / ||v||."""
    model = fresh()
    perturbation = ascent(model, objective("trades", forward()).attacked(model, batch, draws(9, STEP)), size=SIZE)
    directions = [name for name in perturbation if name.endswith(".v")]
    assert directions
    for name in directions:
        v, moved = model.get_parameter(name).flatten(1), perturbation[name].flatten(1)
        assert (v * moved).sum(1).abs().max() < 1e-12 * v.norm() * moved.norm()


@pytest.mark.parametrize(("training", "kind"), one_in(5, CASES, first=1))
def test_the_model_is_afterwards_as_it_was(training: str, kind: str, batch: Batch) -> None:
    """Weights bit for bit, the same tensors; means of batch norms move as they would without the ascent."""
    model, plain = built(training, kind)
    without = copy.deepcopy(model)
    parameters, before = dict(model.named_parameters()), copy.deepcopy(dict(model.named_parameters()))
    WeightPerturbed(plain, SIZE)(model, batch, draws(9, STEP)).value.backward()
    plain(without, batch, draws(9, STEP))
    assert dict(model.named_parameters()).keys() == before.keys()
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name]
        assert torch.equal(parameter, before[name])
    assert [int(n) for n in model.buffers() if not n.dim()] == [int(n) for n in without.buffers() if not n.dim()]


@dataclass(frozen=True)
class LeftAt:
    """An objective whose loss is left in the middle, as by a signal, the so-and-so-many-th time."""

    objective: Adversarial
    time: int

    def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        raise NotImplementedError

    def attacked(self, model: nn.Module, batch: Batch, sources: Draws) -> LossOfWeights:
        loss, calls = self.objective.attacked(model, batch, sources), itertools.count(1)

        def left(*, penalised: bool = True) -> Loss:
            found = loss(penalised=penalised)
            if next(calls) == self.time:
                raise Interrupted("a signal")
            return found

        return left


@pytest.mark.parametrize("time", [1, 2], ids=["ascent", "descent"])
def test_the_weights_are_as_they_were_where_a_step_is_left_in_the_middle(batch: Batch, time: int) -> None:
    model = fresh()
    before, parameters = copy.deepcopy(dict(model.named_parameters())), dict(model.named_parameters())
    with pytest.raises(Interrupted):
        WeightPerturbed(LeftAt(objective("trades", forward()), time), SIZE)(model, batch, draws(9, STEP))
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name]
        assert torch.equal(parameter, before[name])


def test_no_weight_is_perturbed_before_the_first_such_step(batch: Batch) -> None:
    model, plain = fresh(), objective("trades", forward(NEVER, RANDOM))
    losses = [
        one(copy.deepcopy(model), batch, draws(9, STEP)).value.item()
        for one in (plain, *(WeightPerturbed(plain, SIZE, first_step=step) for step in (STEP + 1, STEP, 0)))
    ]
    assert losses[0] == losses[1]
    assert losses[2] == losses[3] > losses[1]


class Quadratic(nn.Module):
    """A network whose loss has a known gradient in one weight, and none in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.unused = nn.Parameter(torch.eye(2)), nn.Parameter(torch.ones(2, 2))


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0.5), (0.0, 0.0), (float("nan"), float("nan"))])
def test_a_weight_without_a_gradient_stays_and_a_gradient_that_is_no_number_is_not_hidden(
    factor: float, expected: float
) -> None:
    model = Quadratic()

    def loss(*, penalised: bool = True) -> Loss:
        return Loss(factor * model.weight.square().sum(), model.weight)

    moved = ascent(model, loss, size=0.5)
    torch.testing.assert_close(moved["weight"].diagonal(), torch.full((2,), expected), equal_nan=True)
    assert not moved["unused"].any()
