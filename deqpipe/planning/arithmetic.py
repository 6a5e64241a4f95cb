"""Floating-point operations of a configured model, from its shapes: those of its convolutions, which are nearly all.

A multiplication and an addition are two operations, as torch.utils.flop_counter has it. A gradient to the inputs takes
as many as the application itself, one to the weights as many again.
"""

from collections.abc import Iterator, Mapping, Sequence

from deqpipe.config import Config, ModelConfig
from deqpipe.counts import Number
from deqpipe.model.architecture import FEEDFORWARD
from deqpipe.planning.cost import Images, Part, Work
from deqpipe.workflow import vocabulary
from deqpipe.workflow.vocabulary import MODELS, feedforward


def cell_operations(model: ModelConfig, *, image_shape: tuple[int, int, int]) -> int:
    """Of one application of f to one image."""
    sizes = [(image_shape[1] >> i) * (image_shape[2] >> i) for i in range(len(model.channels))]
    return sum(sum(_of_scale(model, sizes, target)) for target in range(len(sizes)))


def cell_weights(model: ModelConfig) -> int:
    """Numbers in the convolutions of f: a multiplication and an addition each, where there is a single pixel."""
    pixels = [1] * len(model.channels)
    return sum(sum(_of_scale(model, pixels, target)) for target in range(len(pixels))) // 2


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


def _convolution(channels_in: int, channels_out: int, *, kernel: int, pixels: int) -> int:
    return 2 * channels_in * channels_out * kernel**2 * pixels


def feedforward_passes(config: Config, parts: Mapping[Part, Number], *, name: str) -> Number:
    """Applications of a network without states to an image in some work.

    Gradients to images and to weights count as one more each.

    Args:
        config: of the run.
        parts: of the work.
        name: of the network's architecture.
    """
    attack = 2 * config.training.attack.steps
    passes = {"decide": 1, "gradient": 2, "train/pgd_at": attack + 3, "train/trades": attack + 1 + 2 * 3}
    return sum(parts.get(f"{name}/{part}", 0) * each for part, each in passes.items())


def operations_of_f(config: Config, images: Images) -> int:
    """Of one application of f to one image of the source."""
    return cell_operations(config.model, image_shape=images.shape)


def operations(config: Config, images: Images, work: Work) -> Number:
    """Of some work on images of the source: of f, and of the networks without states."""
    networks = {MODELS[model].architecture.name: feedforward(config, model) for model in vocabulary.FEEDFORWARD}
    of_f = work.evaluations.total * operations_of_f(config, images)
    return of_f + sum(
        feedforward_passes(config, work.parts, name=name)
        * FEEDFORWARD[name].operations(settings, image_shape=images.shape, classes=images.classes)
        for name, settings in networks.items()
    )
