"""The images of a training, batch after batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from deqpipe.data import Augmentation, Split, order, steps_per_epoch, to_float
from deqpipe.machine.device import upload
from deqpipe.seeding import Stream
from deqpipe.training.objectives import Batch


class Feed:
    """Batches on a device that holds all images, a byte a pixel; they are picked and augmented there.

    A batch depends on the seed and its step alone. The order of an epoch is drawn when its first batch is asked for.
    """

    def __init__(
        self, split: Split, augment: Augmentation, *, seed: int, batch_size: int, device: torch.device
    ) -> None:
        """Move the images, unless they are there."""
        self._split, self._augment, self._seed, self._batch_size = split.to(device), augment, seed, batch_size
        self._device = device
        self._epoch: int | None = None
        self._picked: Sequence[Tensor] = ()

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        epoch, number = divmod(step, steps_per_epoch(len(self._split), self._batch_size))
        picked = self._order_of(epoch)[number]
        pixels = self._augment(self._split.images[picked], Stream(self._seed, "augment").generator(step))
        return Batch(x=to_float(pixels), y=self._split.labels[picked])

    def _order_of(self, epoch: int) -> Sequence[Int[Tensor, " batch"]]:
        if epoch != self._epoch:
            drawn = order(len(self._split), epoch=epoch, stream=Stream(self._seed, "order"))
            self._epoch, self._picked = epoch, torch.split(upload(drawn, self._device), self._batch_size)
        return self._picked
