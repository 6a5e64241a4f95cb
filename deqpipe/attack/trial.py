"""The batch on which a way to compute f proves itself: gradients of an attack and, for a training, of the weights."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deqpipe.attack.surrogate import IntermediateState
from deqpipe.compute.evaluations import Counter
from deqpipe.compute.precision import Precision
from deqpipe.compute.replay import DIRECT, Graphs, Runner
from deqpipe.compute.ways import TrialOutcome, Way
from deqpipe.machine import stopwatch
from deqpipe.machine.device import describe
from deqpipe.model.classifier import DEQClassifier

ATTACK_STEPS, REPEATS = 10, 3
"""A timed run is as long as an attack, the capture of its graph included; the fastest of several counts."""


@dataclass(frozen=True)
class GradientTrial:
    """Random images through a surrogate and back.

    Attributes:
        model: its parameters are real ones; none of them, nor a buffer, is changed.
        surrogate: what is differentiated.
        precision: of the convolutions.
        images: how many.
        weights: whether gradients of the weights belong to it, in training mode.
    """

    model: DEQClassifier
    surrogate: IntermediateState
    precision: Precision
    images: int
    weights: bool = False

    @property
    def facts(self) -> Mapping[str, Any]:
        """Device, versions, shapes, precision."""
        model = self.model
        return {
            "device": describe(self._device),
            "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version(),
            "dtype": str(next(model.parameters()).dtype),
            "precision": self.precision.name,
            "images": [self.images, *model.image_shape],
            "shapes": [list(shape) for shape in model.function.shapes],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "surrogate": repr(self.surrogate),
            "weights": self.weights,
        }

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def run(self, way: Way) -> TrialOutcome:
        """Gradients, computed as a job would."""
        model = self._copy(way)
        x, y = self._batch()
        runner: Runner = Graphs(Counter()) if way.graphs else DIRECT
        step = partial(_attack_gradient, model, self.surrogate)
        for _ in range(3):
            values = runner(step, "trial", (x, y))

        def attack() -> None:
            """As many steps as an attack has. A graph is captured anew every time: that is part of its price."""
            fresh: Runner = Graphs(Counter()) if way.graphs else DIRECT
            for _ in range(ATTACK_STEPS):
                fresh(step, "trial", (x, y))

        taken = [stopwatch.seconds(attack, self._device) / ATTACK_STEPS for _ in range(REPEATS)]
        return TrialOutcome((*values, *self._of_weights(model, x, y)), min(taken))

    @property
    def rounding(self) -> float:
        """Relative rounding error of one convolution."""
        dtype = next(self.model.parameters()).dtype
        return {"fp32": torch.finfo(dtype).eps, "tf32": 2**-11, "bf16": 2**-8}[self.precision.name]

    def once(self) -> None:
        """One gradient of the model as it computes now."""
        _attack_gradient(self.model, self.surrogate, *self._batch())

    def reordered(self, way: Way) -> tuple[Tensor, ...]:
        """The same in reverse order and in two parts, of images that are rounded otherwise.

        On a GPU order alone may change nothing.
        """
        model = self._copy(way)
        x, y = (tensor.flip(0) for tensor in self._batch())
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device, x.dtype)
        x = x * (1 + self.rounding * (2 * noise - 1))
        cut = max(1, self.images // 3)
        parts = [_attack_gradient(model, self.surrogate, x[:cut], y[:cut])]
        parts += [_attack_gradient(model, self.surrogate, x[cut:], y[cut:])] if cut < self.images else []
        values = tuple(torch.cat(part).flip(0) for part in zip(*parts, strict=True))
        return (*values, *self._of_weights(model, x, y))

    def _copy(self, way: Way) -> DEQClassifier:
        model = copy.deepcopy(self.model).eval().requires_grad_(False)
        model.compute_with(self.precision, way)
        return model

    def _batch(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.images)
        like = next(self.model.parameters())
        x = torch.rand(self.images, *self.model.image_shape, generator=generator)
        y = torch.arange(self.images) % self.model.classes
        return x.to(like.device, like.dtype), y.to(like.device)

    def _of_weights(self, model: DEQClassifier, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        if not self.weights:
            return ()
        model.train().requires_grad_(True)
        model.cell.dropout = 0.0  # masks belong to places in the batch, which come in another order
        loss = F.cross_entropy(self.surrogate(model, x), y)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        # As one vector: some are zero but for rounding (biases before a batch norm), and differ by all they are.
        return (torch.cat([gradient.flatten() for gradient in gradients]),)


def _attack_gradient(model: DEQClassifier, surrogate: IntermediateState, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the summed loss with respect to the images."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = surrogate(model, x)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    return logits.detach(), gradient
