"""Accuracy on the held-out images after each epoch: what the best epoch is chosen by."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor, nn

from deqpipe.attack.pgd import PGD, Drawn, Objective, cross_entropy_objective, unfooled_objective, uniform_start
from deqpipe.data import Split
from deqpipe.machine.device import upload
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Labels, Logits
from deqpipe.training.forward import LogitsOf
from deqpipe.training.loop import Validation
from deqpipe.training.objectives import crafting_mode

Scoring: TypeAlias = Callable[[nn.Module, Tensor], Logits]
"""(model, images) -> logits of the final state, differentiable."""
Crafting: TypeAlias = Callable[[nn.Module, torch.Generator], LogitsOf]
"""(model, source of random states) -> what the next attack step sees."""


@dataclass(frozen=True)
class _Scored:
    """Images to the logits that decide; equal for one model and one way to score it."""

    scoring: Scoring
    model: nn.Module

    def __call__(self, x: Images) -> Logits:
        return self.scoring(self.model, x)


@dataclass(frozen=True)
class SelectingAttack:
    """The attack that the best epoch is chosen by. Its random numbers are the same for every epoch and model of a seed.

    Attributes:
        pgd: the attack.
        seed: of its starts, keyed by image, and of its random states, keyed by batch.
        crafting: what it sees; None: the final state.
        freeze_fooled: leave images alone while they are classified wrong.
    """

    pgd: PGD
    seed: int
    crafting: Crafting | None = None
    freeze_fooled: bool = False

    def __call__(self, model: nn.Module, scoring: Scoring, x: Images, y: Labels, images: range) -> Images:
        """The attacked images; `images` are their indices."""
        starts, states = Stream(self.seed, "selection"), Stream(self.seed, "selection/states").generator(images.start)
        objective = unfooled_objective if self.freeze_fooled else cross_entropy_objective

        def draw() -> Objective:
            return objective(self.crafting(model, states) if self.crafting else _Scored(scoring, model), y)

        start = uniform_start(x, ball=self.pgd.ball, stream=starts, images=images, clamp=True)
        return self.pgd(Drawn(draw), x, start=start).images


@dataclass(frozen=True)
class Validator:
    """Clean accuracy and, with an attack, accuracy under it at the final state.

    Attributes:
        split: the images; best on the model's device.
        logits: of the final state.
        batch_size: images at once; no influence on results, unless solver or random states couple them.
        attack: None: clean accuracy only.
    """

    split: Split
    logits: Scoring
    batch_size: int
    attack: SelectingAttack | None

    def __call__(self, model: nn.Module) -> Validation:
        """The accuracies of a model; its mode and its parameters' gradients stay as they were.

        The host waits for the device once, at the end.
        """
        with crafting_mode(model):
            counts = torch.stack([self._counts(model, images) for images in self._batches()]).sum(0)
        clean, undecided, robust = counts.cpu().tolist()
        total = len(self.split)
        return Validation(clean / total, robust / total if self.attack else None, undecided / total)

    def _batches(self) -> Iterator[range]:
        for start in range(0, len(self.split), self.batch_size):
            yield range(start, min(start + self.batch_size, len(self.split)))

    def _counts(self, model: nn.Module, images: range) -> Int[Tensor, " 3"]:
        """How many of some images are classified right, have no class, and are classified right when attacked."""
        device, where = next(model.parameters()).device, slice(images.start, images.stop)
        x, y = self.split.float_images(where, device), upload(self.split.labels[where], device)
        clean, undecided = self._judged(model, x, y)
        if self.attack is None:
            return torch.stack([clean, undecided, torch.zeros_like(clean)])
        robust, _ = self._judged(model, self.attack(model, self.logits, x, y, images), y)
        return torch.stack([clean, undecided, robust])

    @torch.no_grad()
    def _judged(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Int[Tensor, ""], Int[Tensor, ""]]:
        """How many images are classified right, and how many have no class: logits that are not all finite."""
        logits = self.logits(model, x)
        decided = logits.isfinite().all(1)
        return ((logits.argmax(1) == y) & decided).sum(), (~decided).sum()
