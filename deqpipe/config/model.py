"""The models: MDEQ, and networks without states for comparison."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from deqpipe.config.base import Batch, Epochs, Fraction, NonNegative, Positive, Section, Width
from deqpipe.errors import UserError

MOST_SCALES = 12
"""Of an MDEQ: the largest images that are read (data.opening) are a pixel at the last."""
MOST_WEIGHTS = 1_000_000_000
"""Of a model: a hundred times MDEQ-Large."""
MOST_BLOCKS = 200
"""Of a stage of a ResNet: those of ResNet-1202, at the widths of ResNet-18."""


class ModelConfig(Section):
    """The multiscale DEQ (MDEQ). The default is MDEQ-Large."""

    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=MOST_SCALES, strict=False)]
    """Channels of each scale; every scale has half the resolution of the one before."""
    head_channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=MOST_SCALES, strict=False)]
    """Bottleneck channels of the classification head, one per scale; the head is four times as wide."""
    final_channels: Width
    """Channels before global average pooling."""
    groups: Width
    """Groups of every GroupNorm in f; half of them, rounded down, after fusing."""
    expansion: Annotated[int, Field(ge=1, le=1_000)]
    """Width of the residual blocks in f, relative to the scale's channels."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Variational dropout in f: one mask per image and channel for a whole forward pass, training only."""
    weight_norm: bool
    """Weight normalisation of the block and post-fuse convolutions of f."""
    init: Literal["release", "normal_all"]
    """release: weight-normed convolutions keep PyTorch's initialisation, the others N(0, 0.01^2); normal_all: all
    N(0, 0.01^2)."""


class FeedforwardTrainingConfig(Section):
    """How a network without states is trained: the recipe of Pang et al. (2021)."""

    epochs: Epochs
    batch_size: Batch
    learning_rate: Positive
    momentum: Fraction
    weight_decay: NonNegative
    milestones: Annotated[tuple[Epochs, ...], Field(strict=False)]
    """Epochs after which the learning rate is multiplied by `factor`."""
    factor: Annotated[float, Field(ge=1e-12, le=1)]


class FeedforwardConfig(Section):
    """A network without states, for comparison: its shape stands in subclasses."""

    training: FeedforwardTrainingConfig

    @property
    def depth(self) -> int:
        """Layers with weights."""
        raise NotImplementedError

    @property
    def halvings(self) -> int:
        """How often it halves the resolution."""
        raise NotImplementedError


class ResNetConfig(FeedforwardConfig):
    """The deep-network baseline: torchvision's ResNet with a 3x3 stem and no max-pooling."""

    layers: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MOST_BLOCKS)], ...], Field(min_length=4, max_length=4, strict=False)
    ]
    """Basic blocks per stage; [2, 2, 2, 2] is ResNet-18."""

    @property
    def depth(self) -> int:
        """Layers with weights: 18 of ResNet-18."""
        return 2 * sum(self.layers) + 2

    @property
    def halvings(self) -> int:
        """Three of its four stages do."""
        return 3


def check_model(model: ModelConfig) -> None:
    """Refuse scales and groups that do not go together.

    Raises:
        UserError: names the key and its value.
    """
    if len(model.channels) != len(model.head_channels):
        raise UserError(
            f"config: model.head_channels has {len(model.head_channels)} entries, "
            f"but model.channels has {len(model.channels)} scales"
        )
    if model.groups < 2:
        raise UserError(f"config: model.groups is {model.groups}, but must be at least 2 (half of them after fusing)")
    for channels in model.channels:
        for groups in (model.groups, model.groups // 2):
            if channels % groups:
                raise UserError(
                    f"config: model.channels has {channels}, which {groups} groups do not divide "
                    f"(model.groups = {model.groups}, half of them after fusing)"
                )
    weights = _weights(model)
    if weights > MOST_WEIGHTS:
        raise UserError(
            f"config: model has more than {weights:,} weights, but may have {MOST_WEIGHTS:,}: lower model.channels, "
            "model.expansion, model.head_channels or model.final_channels"
        )


def _weights(model: ModelConfig) -> int:
    """Weights of the largest convolutions: the blocks of f, the head's way down its scales, and its last one."""
    blocks = sum(2 * 9 * model.expansion * channels**2 for channels in model.channels)
    wide = [4 * channels for channels in model.head_channels]
    return blocks + sum(9 * fine * coarse for fine, coarse in pairwise(wide)) + wide[-1] * model.final_channels
