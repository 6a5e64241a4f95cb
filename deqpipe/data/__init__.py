"""Images: where they come from, how they are split, in which order and with which augmentation they are seen."""

from deqpipe.data.augment import Augmentation, augmentation, crop_flip, none
from deqpipe.data.dataset import Dataset, Split, load, save, to_float
from deqpipe.data.order import batches, order, steps_per_epoch
from deqpipe.data.sources import prepare

__all__ = [
    "Augmentation",
    "Dataset",
    "Split",
    "augmentation",
    "batches",
    "crop_flip",
    "load",
    "none",
    "order",
    "prepare",
    "save",
    "steps_per_epoch",
    "to_float",
]
