"""Floating-point operations of a configured model, from its shapes: those of its convolutions, which are nearly all.

A multiplication and an addition are two operations, as torch.utils.flop_counter has it. A gradient to the inputs takes
as many as the application itself, one to the weights as many again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from deqpipe.config import Config, ModelConfig
from deqpipe.counts import Number
from deqpipe.model.resnet import ONE_PIXEL, WIDTHS
from deqpipe.planning.cost import Images, Part


def cell_operations(model: ModelConfig, *, image_shape: tuple[int, int, int]) -> int:
    """Of one application of f to one image."""
    sizes = [(image_shape[1] >> i) * (image_shape[2] >> i) for i in range(len(model.channels))]
    return sum(sum(_of_scale(model, sizes, target)) for target in range(len(sizes)))


def _of_scale(model: ModelConfig, sizes: Sequence[int], target: int) -> Iterator[int]:
    """The block of a scale, what comes in from the others, and the convolution behind their sum.

    Args:
        model: the architecture.
        sizes: pixels of each scale.
        target: the scale.
    """
    channels = model.channels[target]
    yield 2 * _convolution(channels, model.expansion * channels, kernel=3, pixels=sizes[target])
    for source, incoming in enumerate(model.channels):
        if source > target:
            yield _convolution(incoming, channels, kernel=1, pixels=sizes[source])
        for step in range(source + 1, target + 1):  # halves the resolution; the last one changes the channels
            outgoing = channels if step == target else incoming
            yield _convolution(incoming, outgoing, kernel=3, pixels=sizes[step])
    yield _convolution(channels, channels, kernel=1, pixels=sizes[target])


def resnet_operations(layers: Sequence[int], *, image_shape: tuple[int, int, int], classes: int) -> int:
    """Of one application of a ResNet of basic blocks to one image."""
    channels, *sides = image_shape
    total, incoming = _convolution(channels, WIDTHS[0], kernel=3, pixels=math.prod(sides)), WIDTHS[0]
    for stage, (blocks, width) in enumerate(zip(layers, WIDTHS, strict=True)):
        before = math.prod(_halved(side, max(stage - 1, 0)) for side in sides)
        pixels = math.prod(_halved(side, stage) for side in sides)
        one_pixel = stage == len(WIDTHS) - 1 and max(sides) <= ONE_PIXEL  # only taps that meet a pixel are computed
        taps = (before, 1) if one_pixel else (9, 9)
        total += 2 * pixels * width * (incoming * taps[0] + width * taps[1] * (2 * blocks - 1))
        if incoming != width:  # its shortcut
            total += _convolution(incoming, width, kernel=1, pixels=pixels)
        incoming = width
    return total + 2 * incoming * classes


def _halved(size: int, times: int) -> int:
    for _ in range(times):
        size = -(-size // 2)
    return size


def _convolution(channels_in: int, channels_out: int, *, kernel: int, pixels: int) -> int:
    return 2 * channels_in * channels_out * kernel**2 * pixels


def resnet_passes(config: Config, parts: Mapping[Part, Number]) -> Number:
    """Applications of a ResNet to an image in some work; gradients to images and to weights count as one more each."""
    attack = 2 * config.training.attack.steps
    passes = {"decide": 1, "gradient": 2, "train/pgd_at": attack + 3, "train/trades": attack + 1 + 2 * 3}
    return sum(parts.get(f"resnet/{name}", 0) * each for name, each in passes.items())


def operations(config: Config, images: Images) -> tuple[int, int]:
    """Of one application of f, and of a ResNet, to one image of the source."""
    shape = images.shape
    return (
        cell_operations(config.model, image_shape=shape),
        resnet_operations(config.resnet.layers, image_shape=shape, classes=images.classes),
    )
