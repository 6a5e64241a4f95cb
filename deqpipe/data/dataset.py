"""Images held in memory as uint8, with their splits, and the one file that keeps them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deqpipe.errors import UserError
from deqpipe.machine.device import upload
from deqpipe.results import checkpoint
from deqpipe.shapes import Images, Labels, Pixels

_KIND = "dataset"
_SPLITS = ("train", "validation", "test")


def to_float(pixels: Pixels) -> Images:
    """Images in [0, 1], float32."""
    return pixels.to(torch.float32) / 255


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their classes, in a fixed order."""

    images: Pixels
    labels: Labels

    def __len__(self) -> int:
        """How many images."""
        return len(self.labels)

    def float_images(self, indices: Tensor | Sequence[int] | slice, device: torch.device | str = "cpu") -> Images:
        """The images at `indices`, in [0, 1], on a device."""
        return to_float(upload(self.images[indices], device))

    def to(self, device: torch.device | str) -> "Split":
        """The same on a device, a byte a pixel, to be read from there again and again."""
        return Split(upload(self.images, device), upload(self.labels, device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits by index, fixed for ever: seeds change what is trained, never what is held out.

    Attributes:
        train: what is trained on.
        validation: the last training images in file order, never trained on.
        test: the test images in file order.
        classes: names; label k is classes[k].
        name: for captions, such as "CIFAR-10".
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    name: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def evaluated_on(self, device: torch.device | str) -> "Dataset":
        """The same with the images that models are evaluated on lying on a device."""
        return replace(self, validation=self.validation.to(device), test=self.test.to(device))


def hold_out(train: Split, test: Split, *, validation: int, classes: tuple[str, ...], name: str) -> Dataset:
    """The dataset whose validation split is the last `validation` training images.

    Raises:
        UserError: `validation` leaves nothing to train on, or holds nothing out.
    """
    if not 1 <= validation < len(train):
        allowed = f"must be 1 to {len(train) - 1} ({name} has {len(train)} training images)"
        raise UserError(f"data.validation is {validation}, but {allowed}")
    kept = len(train) - validation
    return Dataset(
        train=Split(train.images[:kept], train.labels[:kept]),
        validation=Split(train.images[kept:], train.labels[kept:]),
        test=test,
        classes=classes,
        name=name,
    )


def save(path: Path, dataset: Dataset, *, provenance: Mapping[str, Any]) -> None:
    """Write a dataset whole, as one safetensors file; `provenance` goes into its metadata."""
    tensors: dict[str, Tensor] = {}
    for name in _SPLITS:
        split: Split = getattr(dataset, name)
        tensors |= {f"{name}.images": split.images, f"{name}.labels": split.labels}
    described = {"kind": _KIND, "name": dataset.name, "classes": list(dataset.classes)}
    checkpoint.write(path, tensors, {**described, "provenance": dict(provenance)})


def load(path: Path) -> Dataset:
    """The dataset that `save` wrote.

    Raises:
        UserError: the file is missing, cut short, damaged, or holds something else.
    """
    file = checkpoint.read(path, what=_KIND)
    if file.metadata.get("kind") != _KIND:
        raise UserError(f"dataset {path} holds something else: its kind is {file.metadata.get('kind')!r}")
    try:
        splits = {name: Split(**file.part(name)) for name in _SPLITS}
        dataset = Dataset(**splits, classes=tuple(file.metadata["classes"]), name=file.metadata["name"])
    except (KeyError, TypeError) as error:
        raise UserError(f"dataset {path} lacks a part: {' '.join(str(error).split())}") from None
    if not all(isinstance(name, str) for name in (dataset.name, *dataset.classes)):
        raise UserError(f"dataset {path} has names that are no texts, of itself or of its classes")
    for name in _SPLITS:
        _check_split(getattr(dataset, name), name, len(dataset.classes), path)
    return dataset


def _check_split(split: Split, name: str, classes: int, path: Path) -> None:
    wrong = split.labels[(split.labels < 0) | (split.labels >= classes)]
    if len(wrong):
        raise UserError(
            f"dataset {path} has label {int(wrong[0])} among its {name} images, but its {classes} classes have labels "
            f"0 to {classes - 1}"
        )
