"""The DEQ classifier: hands out f(.; x) and reads logits off a state."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deqpipe.compute.compiling import compiled
from deqpipe.compute.evaluations import Counter
from deqpipe.compute.precision import FP32, Precision
from deqpipe.compute.ways import PLAIN, Way
from deqpipe.config import ModelConfig
from deqpipe.errors import UserError
from deqpipe.model.cell import CellFunction, CellWeights, Frozen, MultiscaleCell, NormedConv2d
from deqpipe.model.head import Head
from deqpipe.model.stem import stem
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Logits, State

EvaluateCell: TypeAlias = Callable[[Tensor, Tensor, CellWeights, tuple[Tensor, ...]], Tensor]
"""As `CellFunction` is called."""


@dataclass(frozen=True)
class BoundMap:
    """z -> f(z; x) for fixed images, (batch, state) -> (batch, state).

    Attributes:
        function: f.
        evaluate: the same, possibly compiled.
        injection: of the images.
        frozen: weights and dropout masks.
        counter: of evaluations.
    """

    function: CellFunction
    evaluate: EvaluateCell
    injection: Tensor
    frozen: Frozen
    counter: Counter

    def __call__(self, z: State) -> State:
        """f(z; x)."""
        first, *others = self.frozen.weights.post
        watched = self.counter.watched(first, images=len(z))
        weights = self.frozen.weights._replace(post=(watched, *others))
        value = self.evaluate(z, self.injection, weights, self.frozen.masks)
        self.counter.count(value)
        return value

    @property
    def eager(self) -> "BoundMap":
        """The same map, not compiled: gradients of its gradients can be taken, and its backward pass run again."""
        return replace(self, evaluate=self.function)

    def of_first(self, count: int) -> "BoundMap":
        """The map of the first images alone."""
        masks = tuple(mask[:count] for mask in self.frozen.masks)
        return replace(self, injection=self.injection[:count], frozen=replace(self.frozen, masks=masks))


CONVOLUTION_STD = 0.01


class DEQClassifier(nn.Module):
    """A multiscale DEQ with stem, cell and head.

    A state z is flat, (batch, state): all scales one after the other, finest first, each in the order of a layout:
    channel, row, column unless `compute_with` chose another.

    Attributes:
        image_shape: (channels, height, width) of the images that it takes.
        classes: how many logits it gives.
        function: f as a pure function of state, injection and weights.
        counter: of the evaluations of f so far.
    """

    def __init__(self, architecture: ModelConfig, *, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        _check_resolution(image_shape, scales=len(architecture.channels))
        self.image_shape = image_shape
        self.classes = classes
        self.stem = stem(image_shape[0], architecture.channels[0], scales=len(architecture.channels))
        self.cell = MultiscaleCell(
            architecture.channels,
            groups=architecture.groups,
            expansion=architecture.expansion,
            weight_norm=architecture.weight_norm,
            dropout=architecture.dropout,
        )
        self.head = Head(
            architecture.channels,
            widths=architecture.head_channels,
            final_channels=architecture.final_channels,
            classes=classes,
        )
        self.function = CellFunction(_scale_shapes(architecture.channels, image_shape[1:]), architecture.groups)
        self._evaluate: EvaluateCell = self.function
        self.counter = Counter()

    @property
    def state_size(self) -> int:
        """Numbers in the state of one image."""
        return sum(math.prod(shape) for shape in self.function.shapes)

    def compute_with(self, precision: Precision = FP32, way: Way = PLAIN) -> None:
        """Choose how f is computed from here on; maps that were bound before keep their way.

        Args:
            precision: of its convolutions.
            way: its layout, and whether it is compiled; states of different layouts must not be mixed.
        """
        self.function = replace(self.function, precision=precision, layout=way.layout)
        self._evaluate = compiled(self.function) if way.compiled else self.function

    def initial_state(self, x: Images) -> State:
        """z^[0] = 0."""
        return x.new_zeros(len(x), self.state_size)

    def bind(self, x: Images, generator: torch.Generator | None = None) -> BoundMap:
        """The map `z -> f(z; x)`. Injection, effective weights and dropout masks are computed here, once.

        Args:
            x: images in [0, 1].
            generator: source of the dropout masks; needed in training mode with dropout.
        """
        frozen = self.cell.freeze(len(x), generator, self.function.precision)
        return BoundMap(self.function, self._evaluate, self._injection(x), frozen, self.counter)

    @torch.no_grad()
    def holding(self, z: State) -> Callable[[Images], State]:
        """The map `x -> f(z; x)` with gradient to x alone. What the images have no part in is computed here, once.

        Args:
            z: the state that is held; the model is in evaluation mode.
        """
        function, weights = self.function, self.cell.freeze(len(z), None, self.function.precision).weights
        held = function.held(z, weights, ())

        def of_images(x: Images) -> State:
            value = function.injected(held, self._injection(x), weights)
            self.counter.count(value)
            return value

        return of_images

    def _injection(self, x: Images) -> Tensor:
        injection: Tensor = self.stem(self._laid_out(x))
        return injection

    def _laid_out(self, x: Images) -> Images:
        last = self.function.layout == "channels_last"
        return x.contiguous(memory_format=torch.channels_last) if last else x

    def logits(self, z: State) -> Logits:
        """What the head reads off a state."""
        out: Tensor = self.head(self.function.scales(z))
        return out

    def trajectory_logits(self, states: Float[Tensor, "step batch state"]) -> Float[Tensor, "step batch classes"]:
        """The head's reading of every state (evaluation mode: no state influences another's)."""
        out: Tensor = self.logits(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        return out

    def in_channel_order(self, z: State) -> State:
        """A state with its numbers in the order channel, row, column, whatever the layout is that f is computed in."""
        return torch.cat([scale.flatten(1) for scale in self.function.scales(z)], dim=1)


def _scale_shapes(channels: Sequence[int], resolution: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    height, width = resolution
    return tuple((c, height >> i, width >> i) for i, c in enumerate(channels))


def _check_resolution(image_shape: tuple[int, int, int], *, scales: int) -> None:
    factor = 2 ** (scales - 1)
    if image_shape[1] % factor or image_shape[2] % factor:
        raise UserError(
            f"images of {image_shape[1]}x{image_shape[2]} pixels do not fit a model of {scales} scales: "
            f"height and width must be multiples of {factor}"
        )


def build_classifier(
    architecture: ModelConfig, *, image_shape: tuple[int, int, int], classes: int, seed: int
) -> DEQClassifier:
    """A freshly initialised classifier; the same seed gives the same parameters.

    Every convolution starts from N(0, 0.01^2), biases included, except that with `init: release` the weight-normed ones
    keep PyTorch's initialisation: the release writes to a cached tensor that weight normalisation then overwrites.
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(Stream(seed, "initialisation").generator().get_state())
        model = DEQClassifier(architecture, image_shape=image_shape, classes=classes)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, CONVOLUTION_STD)
                if module.bias is not None:
                    nn.init.normal_(module.bias, 0, CONVOLUTION_STD)
            elif isinstance(module, NormedConv2d) and architecture.init == "normal_all":
                module.reset_normal(CONVOLUTION_STD)
    return model
