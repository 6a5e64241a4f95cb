"""Accuracy on the held-out images after each epoch: what the best epoch is chosen by."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deqpipe.attack.pgd import PGD, cross_entropy_objective, uniform_start
from deqpipe.data import Split
from deqpipe.seeding import Stream
from deqpipe.shapes import Logits
from deqpipe.training.loop import Validation
from deqpipe.training.objectives import crafting_mode


@dataclass(frozen=True)
class Validator:
    """Clean accuracy and, with an attack, accuracy under PGD at the final state.

    The attack's start is keyed by image, so every epoch and every model of a seed meets the same one.

    Attributes:
        split: the images.
        logits: (model, images) -> logits of the final state, differentiable.
        batch_size: images at once; no influence on results.
        attack: None: clean accuracy only.
        stream: of the attack's random starts.
    """

    split: Split
    logits: Callable[[nn.Module, Tensor], Logits]
    batch_size: int
    attack: PGD | None
    stream: Stream

    def __call__(self, model: nn.Module) -> Validation:
        """The accuracies of a model; its mode and its parameters' gradients stay as they were."""
        with crafting_mode(model):
            clean, robust = map(sum, zip(*self._counts(model), strict=True))
        total = len(self.split)
        return Validation(clean / total, robust / total if self.attack else None)

    def _counts(self, model: nn.Module) -> Iterator[tuple[int, int]]:
        device = next(model.parameters()).device
        for start in range(0, len(self.split), self.batch_size):
            images = range(start, min(start + self.batch_size, len(self.split)))
            x = self.split.float_images(list(images), device)
            y = self.split.labels[list(images)].to(device)
            yield self._correct(model, x, y), self._robust(model, x, y, images) if self.attack else 0

    @torch.no_grad()
    def _correct(self, model: nn.Module, x: Tensor, y: Tensor) -> int:
        return int((self.logits(model, x).argmax(1) == y).sum())

    def _robust(self, model: nn.Module, x: Tensor, y: Tensor, images: range) -> int:
        assert self.attack is not None
        start = uniform_start(x, ball=self.attack.ball, stream=self.stream, images=images, clamp=True)
        objective = cross_entropy_objective(lambda image: self.logits(model, image), y)
        return self._correct(model, self.attack(objective, x, start=start).images, y)
