"""The deep-network baseline: torchvision's ResNet of basic blocks, with the stem that is usual for small images.

It is written out here because importing torchvision takes as long as importing torch once more, in every job of a
ResNet. Names of parameters, initialisation and results are torchvision's (tests/model/test_resnet.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqpipe.config import MOST_BLOCKS, ResNetConfig
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Logits

WIDTHS = (64, 128, 256, 512)
"""Channels of the four stages; each but the first halves the resolution."""
ONE_PIXEL = 8
"""Images of at most so many pixels a side are a single pixel in the last stage."""

Convolution: TypeAlias = Callable[..., nn.Conv2d]


class ResNet(nn.Module):
    """Images (batch, channels, height, width) in [0, 1] to logits (batch, classes)."""

    def __init__(self, layers: Sequence[int], classes: int, *, image_shape: tuple[int, int, int]) -> None:
        """Initialised as torchvision does (He et al., 2015), from the same draws of the CPU's generator.

        Raises:
            ValueError: there are not four stages, or one has too many blocks.
        """
        super().__init__()
        channels, *size = image_shape
        # torchvision's stem, 7x7 and for three channels: its draws come first, and it is replaced below.
        self.conv1 = nn.Conv2d(3, WIDTHS[0], kernel_size=7, bias=False)
        self.bn1 = BatchNorm(WIDTHS[0])
        if len(layers) != len(WIDTHS):
            raise ValueError(f"layers is {list(layers)}, but a ResNet has {len(WIDTHS)} stages")
        if max(layers) > MOST_BLOCKS:
            raise ValueError(f"layers is {list(layers)}, but a stage may have at most {MOST_BLOCKS} blocks")
        first, second, third, fourth = layers
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks=first, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks=second)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks=third)
        last = OnePixelConvolution if max(size) <= ONE_PIXEL else nn.Conv2d
        self.layer4 = _stage(WIDTHS[2], WIDTHS[3], blocks=fourth, convolution=last)
        self.fc = nn.Linear(WIDTHS[3], classes)
        _initialise(self)
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], kernel_size=3, padding=1, bias=False)
        _initialise(self.conv1)
        for module in self.modules():
            if isinstance(module, OnePixelConvolution):
                module.arrange()  # after the draws, which depend on the order of numbers in memory

    def forward(self, images: Images) -> Logits:
        """The logits."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut, which is one itself where the shape changes."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, convolution: Convolution) -> None:
        """Initialised as PyTorch does, in torchvision's order."""
        super().__init__()
        shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            pointwise = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)
            shortcut = nn.Sequential(pointwise, BatchNorm(channels))
        self.conv1 = convolution(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = BatchNorm(channels)
        self.conv2 = convolution(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = BatchNorm(channels)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The block's value."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)).add_(shortcut), inplace=True)


class BatchNorm(nn.BatchNorm2d):
    """PyTorch's, with its gradient in evaluation as one product: on a CPU its own takes several times as long."""

    def forward(self, x: Tensor) -> Tensor:
        """The normalised values, by the statistics of the batch in training."""
        if self.training:
            return super().forward(x)
        assert self.running_mean is not None, "kept unless asked otherwise"
        assert self.running_var is not None, "kept unless asked otherwise"
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


class OnePixelConvolution(nn.Conv2d):
    """A 3x3 convolution with padding whose value is a single pixel, without the taps that meet nothing but padding.

    One pixel meets the middle one of nine taps, and 2x2 pixels under a stride of 2 meet four. On a CPU the convolution
    itself would take most of its time to fetch and rearrange weights that it multiplies with zero.
    """

    def arrange(self) -> None:
        """Store the weight channels last, so that the taps in use lie together."""
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of at most 2x2 pixels."""
        height, width = x.shape[2:]
        taps = self.weight.permute(0, 2, 3, 1)[:, 1 : 1 + height, 1 : 1 + width]
        pixels = x.permute(0, 2, 3, 1)
        rows = [F.linear(pixels[:, row].flatten(1), taps[:, row].flatten(1)) for row in range(height)]
        return torch.stack(rows).sum(0)[:, :, None, None]


def _stage(
    in_channels: int, channels: int, *, blocks: int, stride: int = 2, convolution: Convolution = nn.Conv2d
) -> nn.Sequential:
    """Blocks of one width."""
    first = BasicBlock(in_channels, channels, stride=stride, convolution=convolution)
    return nn.Sequential(
        first, *(BasicBlock(channels, channels, stride=1, convolution=convolution) for _ in range(blocks - 1))
    )


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build_resnet(described: Mapping[str, Any], classes: int, *, image_shape: tuple[int, int, int], seed: int) -> ResNet:
    """A ResNet as a checkpoint describes it: see `resnet`."""
    return resnet(described["layers"], classes, image_shape=image_shape, seed=seed)


def resnet(layers: Sequence[int], classes: int, *, image_shape: tuple[int, int, int], seed: int) -> ResNet:
    """A ResNet of basic blocks: images (batch, channels, height, width) in [0, 1] to logits (batch, classes).

    A 3x3 convolution of stride 1 takes the place of torchvision's 7x7 one of stride 2, and there is no max-pooling:
    three stages halve the resolution, so 8x8 images are the smallest that make sense. With [2, 2, 2, 2], ten classes
    and three channels it is the ResNet-18 of 11,173,962 parameters.

    Args:
        layers: blocks in each of the four stages.
        classes: how many logits.
        image_shape: channels, height and width of the images.
        seed: of the initialisation, which depends on nothing else.

    Raises:
        ValueError: there are not four stages, or one has too many blocks.
    """
    with torch.random.fork_rng(devices=()):
        # the CPU's generator only: torch.manual_seed would change those of the other devices, too
        torch.default_generator.manual_seed(Stream(seed, "resnet initialisation").generator().initial_seed())
        return ResNet(layers, classes, image_shape=image_shape)


def resnet_operations(settings: ResNetConfig, *, image_shape: tuple[int, int, int], classes: int) -> int:
    """Floating-point operations of one application to one image; a multiplication and an addition are two."""
    channels, *sides = image_shape
    total, incoming = 2 * channels * WIDTHS[0] * 9 * math.prod(sides), WIDTHS[0]
    for stage, (blocks, width) in enumerate(zip(settings.layers, WIDTHS, strict=True)):
        before = math.prod(_halved(side, max(stage - 1, 0)) for side in sides)
        pixels = math.prod(_halved(side, stage) for side in sides)
        one_pixel = stage == len(WIDTHS) - 1 and max(sides) <= ONE_PIXEL  # only taps that meet a pixel are computed
        taps = (before, 1) if one_pixel else (9, 9)
        total += 2 * pixels * width * (incoming * taps[0] + width * taps[1] * (2 * blocks - 1))
        if incoming != width:  # its shortcut
            total += 2 * incoming * width * pixels
        incoming = width
    return total + 2 * incoming * classes


def _halved(size: int, times: int) -> int:
    for _ in range(times):
        size = -(-size // 2)
    return size
