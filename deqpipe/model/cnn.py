"""A plain convolutional network: every layer halves the resolution, and nothing goes around any."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from deqpipe.config.model import CNNConfig
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Logits


class CNN(nn.Module):
    """Images (batch, channels, height, width) in [0, 1] to logits (batch, classes)."""

    def __init__(self, widths: Sequence[int], classes: int, *, channels: int) -> None:
        """Initialised as PyTorch does."""
        super().__init__()
        layers: list[nn.Module] = []
        for incoming, outgoing in zip((channels, *widths), widths, strict=False):
            convolution = nn.Conv2d(incoming, outgoing, kernel_size=3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outgoing), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Images) -> Logits:
        """The logits."""
        logits: Logits = self.head(self.layers(images).mean(dim=(2, 3)))
        return logits


def build_cnn(described: Mapping[str, Any], classes: int, *, image_shape: tuple[int, int, int], seed: int) -> CNN:
    """A network as a checkpoint describes it."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(Stream(seed, "cnn initialisation").generator().initial_seed())
        return CNN(described["widths"], classes, channels=image_shape[0])


def cnn_operations(settings: CNNConfig, *, image_shape: tuple[int, int, int], classes: int) -> int:
    """Floating-point operations of one application to one image."""
    incoming, *sides = image_shape
    total = 0
    for width in settings.widths:
        sides = [-(-side // 2) for side in sides]
        total, incoming = total + 2 * incoming * width * 9 * math.prod(sides), width
    return total + 2 * incoming * classes
