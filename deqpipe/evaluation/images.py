"""Which test images an evaluation may take, and the random streams of their attacks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deqpipe.data import Split
from deqpipe.errors import UserError
from deqpipe.evaluation.evaluated_model import EvaluatedModel
from deqpipe.machine.device import upload


@dataclass(frozen=True)
class Chunk:
    """Some images of a split, by index."""

    split: Split
    images: range

    def batches(self, size: int) -> Sequence[range]:
        """The indices, at most `size` at once."""
        first, last = self.images.start, self.images.stop
        return [range(start, min(start + size, last)) for start in range(first, last, size)]

    def load(self, images: range, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and labels of some of them."""
        where = slice(images.start, images.stop)
        return self.split.float_images(where, device), self.split.labels[where].to(device)

    def labels(self, images: range) -> np.ndarray:
        """The labels of some of them, on the host."""
        labels: np.ndarray = self.split.labels[images.start : images.stop].cpu().numpy()
        return labels


def load_test_images(evaluated: EvaluatedModel, images: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Some test images, in whatever order, in [0, 1], and their labels."""
    split, device = evaluated.dataset.test, evaluated.job.device
    where = upload(torch.tensor(list(images)), split.images.device)
    return split.float_images(where, device), upload(split.labels[where], device)


STARTS = "attack/start"  # random starts on test images; on validation images they have a stream of their own
SELECTION_STARTS = "selection/start"


PIECE = 1024
"""Images that are kept at once by stages that go through all of them: some minutes' work at the paper's speeds."""


SUITE_PIECE = 128
"""Images that an attack of the suite keeps at once at most: enough to fill a device."""
SUITE_STEPS = 8_000
"""Steps or queries of all of them together: under long attacks fewer images are kept at once, for less than an hour's
work at the paper's speed."""


def suite_piece(steps: int) -> int:
    """Images that an attack of the suite keeps at once, of so many steps or queries per image."""
    return max(1, min(SUITE_PIECE, SUITE_STEPS // steps))


def slices(evaluated: EvaluatedModel, images: range) -> list[range]:
    """The images, so many at once as are worth keeping; no batch whose images influence each other is cut.

    How many that is does not depend on the memory of a device: who goes on elsewhere finds the same slices.
    """
    size = PIECE
    if "evaluation.batch_size" in evaluated.settings:
        size = -(-PIECE // evaluated.batch_size) * evaluated.batch_size
    return [range(start, min(start + size, images.stop)) for start in range(images.start, images.stop, size)]


def first_images(evaluated: EvaluatedModel, count: int) -> Chunk:
    """The first so many test images.

    Raises:
        UserError: there are not so many, or a batch whose images influence each other would be cut.
    """
    chunk = Chunk(evaluated.dataset.test, range(count))
    check_images(evaluated, chunk.images)
    return chunk


def check_images(evaluated: EvaluatedModel, images: range) -> None:
    """Refuse test images that are not there, or that would cut a batch whose images influence each other.

    Raises:
        UserError: says which images are allowed.
    """
    check_range(evaluated, images)
    _check_batches(evaluated, images, there=len(evaluated.dataset.test))


def check_range(evaluated: EvaluatedModel, images: range) -> None:
    """Refuse test images that are not there.

    Raises:
        UserError: says which images are allowed.
    """
    there = len(evaluated.dataset.test)
    if not 0 <= images.start < images.stop <= there:
        raise UserError(
            f"test images {images.start} to {images.stop - 1} were asked for, but {evaluated.dataset.name} has "
            f"images 0 to {there - 1} (evaluation.images may be at most {there})"
        )


def _check_batches(evaluated: EvaluatedModel, images: range, *, there: int) -> None:
    """Refuse to cut batches where their images influence each other."""
    if "evaluation.batch_size" not in evaluated.settings:
        return
    size, last = evaluated.batch_size, min(there, evaluated.settings["evaluation.images"])
    if images.start % size or images.stop > last or (images.stop % size and images.stop != last):
        raise UserError(
            f"test images {images.start} to {images.stop - 1} were asked for, but the solver couples the images of a "
            f"batch: the first must be a multiple of evaluation.batch_size ({size}), and no batch may be cut short"
        )
