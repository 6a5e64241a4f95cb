"""Adversarial weight perturbation (AWP; Wu, Xia & Wang, 2020): descent on the loss at weights that raise it.

    min_w max_v L(w + v),   ||v_l|| <= gamma ||w_l|| for every layer l

After the images of a step are crafted, one ascent step finds v: along the gradient of the loss, as long in every layer
as the constraint allows. The step then descends on L(w + v), whose gradient in w is taken with v held constant.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deqpipe.training.forward import Draws
from deqpipe.training.objectives import AdversarialObjective, Batch, Loss, LossOfWeights


@dataclass(frozen=True)
class WeightPerturbed:
    """An adversarial objective at perturbed weights.

    Ascent and descent see the same images, the same random state (Sec. 3.3) and the same dropout masks. The ascent is
    on the loss of the classification alone: the regularisation of the Jacobian is no part of it, as a weight decay is
    none of the authors'.

    The model's own weights never change here: w + v stands in for them while the loss is computed. The authors add v,
    update, and subtract it again, which differs by rounding and, where there is a weight decay, by that of v.

    Attributes:
        objective: the loss.
        size: gamma, the norm of a layer's perturbation relative to that of its weights.
        first_step: no perturbation before this training step.
    """

    objective: AdversarialObjective
    size: float
    first_step: int = 0

    def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        """The loss on a batch, and the training accuracy, at the perturbed weights."""
        loss = self.objective.attacked(model, batch, sources)
        if sources.step < self.first_step:
            return loss()
        with sources.drawn_again():
            perturbation = ascent(model, loss, size=self.size)
        weights = dict(model.named_parameters())
        return _at(model, {name: weights[name] + moved for name, moved in perturbation.items()}, loss, penalised=True)


def ascent(model: nn.Module, loss: LossOfWeights, *, size: float) -> dict[str, Tensor]:
    """A perturbation of every weight of a model, by its name: along the gradient of the loss, `size` times its length.

    Weights are parameters of more than one number per output: what convolutions and linear maps multiply by. Biases and
    the gains of norms are left alone, and so is the scale g of a weight-normed convolution, the gain of its channel:
    its perturbed weight is the direction v, relative to the norm of v. As only the direction of v matters, the gradient
    is orthogonal to v in every channel, and the convolution's own weight v g / ||v|| turns by as much.

    A weight that the loss does not depend on stays as it is. A gradient that is not finite makes a perturbation that is
    not, and so a loss that the training withholds its update from.
    """
    weights = {name: one for name, one in model.named_parameters() if one.ndim > 1 and one[0].numel() > 1}
    means = {name: buffer.clone() for name, buffer in model.named_buffers()}  # batch norms move copies of their own
    value = _at(model, means, loss, penalised=False).value
    gradients = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    return {
        name: _scaled(gradient, size * torch.linalg.vector_norm(weight.detach()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def _scaled(gradient: Tensor, length: Tensor) -> Tensor:
    """A vector of some length along a gradient; of no length where the gradient is 0."""
    norm = torch.linalg.vector_norm(gradient)
    return gradient * torch.where(norm == 0, 0, length / norm)


class _Evaluated(nn.Module):
    """A loss as a module, so that tensors can stand in for those of the model in it."""

    def __init__(self, model: nn.Module, loss: LossOfWeights, *, penalised: bool) -> None:
        super().__init__()
        self.model, self._loss, self._penalised = model, loss, penalised

    def forward(self) -> Loss:
        return self._loss(penalised=self._penalised)


def _at(model: nn.Module, tensors: Mapping[str, Tensor], loss: LossOfWeights, *, penalised: bool) -> Loss:
    """The loss with other tensors in place of the model's, which are back however the call ends."""
    named = {f"model.{name}": tensor for name, tensor in tensors.items()}
    found: Loss = functional_call(_Evaluated(model, loss, penalised=penalised), named, ())
    return found
