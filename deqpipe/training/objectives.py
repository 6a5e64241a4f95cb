"""Loss functions of training: clean, PGD-AT (Madry et al., 2018) and TRADES (Zhang et al., 2019)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import nn

from deqpipe.attack.pgd import PGD, Drawn, Objective, Repeatable, cross_entropy_objective
from deqpipe.machine.device import upload
from deqpipe.model.classifier import DEQClassifier
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Labels, Logits, Scalar
from deqpipe.training.forward import Draws, Forward, LogitsOf, Pass, UnrolledForward


@dataclass(frozen=True)
class Batch:
    """Images of one training step, augmented and in [0, 1], and their labels."""

    x: Images
    y: Labels


@dataclass(frozen=True)
class Loss:
    """A loss to descend on, and the logits that training accuracy is counted from.

    Attributes:
        value: mean over the batch, with everything in it.
        logits: of the images that are counted.
        penalty: the part of `value` that the regularisation of the Jacobian is; None: there is none.
    """

    value: Scalar
    logits: Logits
    penalty: Scalar | None = None


@runtime_checkable
class TrainingObjective(Protocol):
    """One training step up to the loss; leaves the model in training mode."""

    def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        """The loss on a batch."""
        ...


@runtime_checkable
class LossOfWeights(Protocol):
    """The loss of a step whose images are crafted and whose states are drawn: of the weights alone.

    Every call draws dropout masks and probes from the step's sources.
    """

    def __call__(self, *, penalised: bool = True) -> Loss:
        """The loss at the model's weights; `penalised`: with the regularisation of the Jacobian where it is due."""
        ...


@runtime_checkable
class AdversarialObjective(TrainingObjective, Protocol):
    """An objective that attacks the batch first."""

    def attacked(self, model: nn.Module, batch: Batch, sources: Draws) -> LossOfWeights:
        """Draw the step's states, craft its images; leaves the model in training mode."""
        ...


@dataclass(frozen=True)
class CleanUnrolled:
    """Cross-entropy of the weight-tied network on clean images (pretraining)."""

    forward: UnrolledForward

    def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        """The loss on a batch."""
        assert isinstance(model, DEQClassifier)
        model.train()
        logits = self.forward.logits(model, batch.x, sources)
        return Loss(F.cross_entropy(logits, batch.y), logits)


@dataclass(frozen=True)
class PGDAdversarial:
    """PGD-AT: cross-entropy at images that PGD made of the batch."""

    forward: Forward
    attack: PGD
    stream: Stream

    def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        """The loss on a batch."""
        return self.attacked(model, batch, sources)()

    def attacked(self, model: nn.Module, batch: Batch, sources: Draws) -> LossOfWeights:
        """The loss at attacked images."""
        passes = self.forward.prepare(model, sources)
        adversarial = self._craft(model, passes, batch, sources.step)
        model.train()
        return partial(self._loss, passes, adversarial, batch.y)

    def _loss(self, passes: Pass, adversarial: Images, y: Labels, *, penalised: bool = True) -> Loss:
        output = passes.training(adversarial, passes.loss_states.adversarial, penalised=penalised)
        return Loss(F.cross_entropy(output.logits, y) + output.penalty, output.logits, output.penalty)

    def _craft(self, model: nn.Module, passes: Pass, batch: Batch, step: int) -> Images:
        noise = upload(torch.rand(batch.x.shape, generator=self.stream.generator(step)), batch.x.device)
        start = (batch.x + (2 * noise - 1) * self.attack.ball.epsilon).clamp(0, 1)

        def draw() -> Objective:
            return cross_entropy_objective(passes.crafting(passes.crafting_states().adversarial), batch.y)

        with crafting_mode(model):
            return self.attack(Drawn(draw), batch.x, start=start).images


@dataclass(frozen=True)
class TradesAdversarial:
    """TRADES: cross-entropy on clean images plus a KL term to images that PGD made to maximise it.

    Attributes:
        inverse_lambda: 1/lambda, weight of the KL term.
        start_noise: standard deviation of the attack's Gaussian start, in units of the pixel range.
        both_penalised: whether the natural branch carries the Jacobian term as well.
    """

    forward: Forward
    attack: PGD
    stream: Stream
    inverse_lambda: float
    start_noise: float
    both_penalised: bool = True

    def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        """The loss on a batch."""
        return self.attacked(model, batch, sources)()

    def attacked(self, model: nn.Module, batch: Batch, sources: Draws) -> LossOfWeights:
        """The loss at natural and attacked images."""
        passes = self.forward.prepare(model, sources)
        adversarial = self._craft(model, passes, batch, sources.step)
        model.train()
        return partial(self._loss, passes, adversarial, batch)

    def _loss(self, passes: Pass, adversarial: Images, batch: Batch, *, penalised: bool = True) -> Loss:
        states = passes.loss_states
        natural = passes.training(batch.x, states.natural, penalised=penalised and self.both_penalised)
        perturbed = passes.training(adversarial, states.adversarial, penalised=penalised)
        robust = divergence(perturbed.logits, natural.logits) / len(batch.y)
        value = F.cross_entropy(natural.logits, batch.y) + self.inverse_lambda * robust
        penalty = natural.penalty + perturbed.penalty
        return Loss(value + natural.penalty + perturbed.penalty, natural.logits, penalty)

    def _craft(self, model: nn.Module, passes: Pass, batch: Batch, step: int) -> Images:
        noise = upload(torch.randn(batch.x.shape, generator=self.stream.generator(step)), batch.x.device)
        with crafting_mode(model):
            objective = _divergence_objective(passes, batch.x)
            return self.attack(objective, batch.x, start=batch.x + self.start_noise * noise).images


def divergence(perturbed: Logits, natural: Logits) -> Scalar:
    """Kullback-Leibler divergence of the natural prediction from the perturbed one, summed over images."""
    # both in logarithms: the gradient of p log p with respect to p is infinite where a probability underflows to 0
    return F.kl_div(perturbed.log_softmax(1), natural.log_softmax(1), reduction="sum", log_target=True)


def _divergence_objective(passes: Pass, x: Images) -> Objective:
    """The KL term as an attack's objective. Natural images stay the same, so their states come out of one solve."""
    natural = passes.reader(x)

    def draw() -> Objective:
        states = passes.crafting_states()
        logits_of = passes.crafting(states.adversarial)
        key = ("divergence", logits_of)
        return Repeatable(partial(_divergence_from, logits_of), (natural(states.natural),), key)

    return Drawn(draw)


def _divergence_from(logits_of: LogitsOf, adversarial: Images, natural: Logits) -> Scalar:
    return divergence(logits_of(adversarial), natural)


@contextmanager
def crafting_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient for parameters inside the block; both as they were afterwards."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(was_training)
        for parameter in trainable:
            parameter.requires_grad_(True)
