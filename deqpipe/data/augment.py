"""Augmentation of training images, on the device that they are on."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.nn import functional

from deqpipe.machine.device import upload

AnyImages: TypeAlias = Shaped[Tensor, "batch channels height width"]
"""Images as stored or in [0, 1]."""
Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Images and a CPU generator to images of the same shape, dtype and device."""
PADDING = 4


def augmentation(kind: Literal["none", "crop_flip"]) -> Augmentation:
    """The augmentation of that name."""
    return {"none": none, "crop_flip": crop_flip}[kind]


def none(images: AnyImages, generator: torch.Generator) -> AnyImages:
    """The images as they are; draws nothing."""
    return images


def crop_flip(images: AnyImages, generator: torch.Generator) -> AnyImages:
    """Pad with 4 black pixels on every side, crop at random to the old size, and flip left to right in half the cases.

    Every image has its own draw. Numbers are drawn on the CPU and moved, so that devices agree.

    Args:
        images: as stored or in [0, 1].
        generator: on the CPU.
    """
    batch, channels, height, width = images.shape
    top, left, flipped = _drawn(batch, generator, images.device)
    along = torch.arange(width, device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.where(flipped.bool(), along.flip(0), along)
    padded = functional.pad(images, (PADDING,) * 4)
    rows_picked = padded.gather(2, rows[:, None, :, None].expand(-1, channels, -1, padded.shape[3]))
    return rows_picked.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))


def _drawn(batch: int, generator: torch.Generator, device: torch.device) -> Int[Tensor, "3 batch 1"]:
    """Row and column of every crop, and whether it is flipped, moved at once."""
    places = 2 * PADDING + 1
    top, left, flipped = (torch.randint(most, (batch, 1), generator=generator) for most in (places, places, 2))
    return upload(torch.stack([top, left, flipped]), device)
