"""The transformation f(z; x) of the multiscale DEQ (Bai et al., 2020).

`Cell` holds the parameters. `CellFunction` is f itself: a pure function of the state, the injection, the weights and
the dropout masks, which does not know where they come from. So it can be compiled or captured, and whether a weight
wants a gradient is a matter of the tensor that is handed in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqpipe.compute.precision import FP32, Precision
from deqpipe.compute.ways import Layout
from deqpipe.machine.device import upload
from deqpipe.shapes import State


class Affine(NamedTuple):
    """Gain and bias per channel of a GroupNorm."""

    weight: Tensor
    bias: Tensor


class BlockWeights(NamedTuple):
    """Of the transformation of one scale: two convolutions, three norms."""

    conv1: Tensor
    conv2: Tensor
    gn1: Affine
    gn2: Affine
    gn3: Affine


class ConvNorm(NamedTuple):
    """A convolution and the norm behind it."""

    conv: Tensor
    gn: Affine


class CellWeights(NamedTuple):
    """Everything that f is parametrised with.

    Attributes:
        blocks: per scale.
        exchanges: from scale j to scale i != j, ordered by i, then j: one convolution upwards, |j - i| downwards.
        post: per scale, of the 1x1 convolution behind the sum over scales.
    """

    blocks: tuple[BlockWeights, ...]
    exchanges: tuple[tuple[ConvNorm, ...], ...]
    post: tuple[Tensor, ...]


@dataclass(frozen=True)
class Frozen:
    """What stays the same over all applications of f in one forward pass.

    Attributes:
        weights: effective weights, as convolutions take them.
        masks: dropout masks, one (batch, channels, 1, 1) tensor per scale; empty when there is no dropout.
    """

    weights: CellWeights
    masks: tuple[Tensor, ...]


class HeldState(NamedTuple):
    """f at a state, as far as it goes without the injection.

    Attributes:
        finest: the finest scale of the state.
        branch: what its convolutions make of it, which the injection is added to.
        coarser: the transformed scales below it.
    """

    finest: Tensor
    branch: Tensor
    coarser: tuple[Tensor, ...]


@dataclass(frozen=True)
class CellFunction:
    """f as a pure function.

    Attributes:
        shapes: (channels, height, width) of each scale, finest first, each with half the resolution of the one before.
        groups: of the GroupNorms; half of them after fusing.
        precision: of the convolutions.
        layout: of the state.
    """

    shapes: tuple[tuple[int, int, int], ...]
    groups: int
    precision: Precision = FP32
    layout: Layout = "channels_first"

    def __call__(self, z: State, injection: Tensor, weights: CellWeights, masks: tuple[Tensor, ...]) -> State:
        """f(z; x), (batch, state); the input is injected into the finest scale."""
        return self.injected(self.held(z, weights, masks), injection, weights)

    def held(self, z: State, weights: CellWeights, masks: tuple[Tensor, ...]) -> HeldState:
        """What the injection has no part in: most of f."""
        scales, count = self.scales(z), len(weights.blocks)
        branches = [self._branch(scales[i], weights.blocks[i], masks[i] if masks else None) for i in range(count)]
        coarser = [self._merged(branches[i], scales[i], weights.blocks[i]) for i in range(1, count)]
        return HeldState(scales[0], branches[0], tuple(coarser))

    def injected(self, held: HeldState, injection: Tensor, weights: CellWeights) -> State:
        """The rest of f; what is held stays as it is."""
        finest = self._merged(held.branch + injection, held.finest, weights.blocks[0])
        hidden = [finest, *held.coarser]
        return self.flat([self._post(self._fused(hidden, weights, i), weights.post[i]) for i in range(len(hidden))])

    def scales(self, z: State) -> list[Tensor]:
        """A state as one (batch, channels, height, width) view per scale."""
        parts = z.split([math.prod(shape) for shape in self.shapes], dim=1)
        if self.layout == "channels_first":
            return [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        views = (part.view(-1, h, w, c) for part, (c, h, w) in zip(parts, self.shapes, strict=True))
        return [view.permute(0, 3, 1, 2) for view in views]

    def flat(self, scales: Sequence[Tensor]) -> State:
        """The state that these scales make up."""
        if self.layout == "channels_last":
            scales = [scale.permute(0, 2, 3, 1) for scale in scales]
        return torch.cat([scale.flatten(1) for scale in scales], dim=1)

    # What is changed in place below is nothing that a backward pass, or one through it, looks at.

    def _branch(self, z: Tensor, weights: BlockWeights, mask: Tensor | None) -> Tensor:
        """The two convolutions of one scale."""
        h = F.relu(self._norm(self._conv(z, weights.conv1, padding=1), weights.gn1), inplace=True)
        h = self._conv(h, weights.conv2, padding=1)
        return h if mask is None else h.mul_(mask)

    def _merged(self, branch: Tensor, z: Tensor, weights: BlockWeights) -> Tensor:
        """What comes behind them: the transformation of the scale."""
        h = self._norm(branch, weights.gn2).add_(z)
        return self._norm(F.relu(h, inplace=True), weights.gn3)

    def _fused(self, hidden: Sequence[Tensor], weights: CellWeights, target: int) -> Tensor:
        """The sum over all scales at the resolution of one."""
        total = self._part(hidden, weights, 0, target)
        for source in range(1, len(hidden)):
            part = self._part(hidden, weights, source, target)
            total = total + part if source == 1 else total.add_(part)
        return total

    def _part(self, hidden: Sequence[Tensor], weights: CellWeights, source: int, target: int) -> Tensor:
        if source == target:
            return hidden[target]
        steps = weights.exchanges[target * (len(hidden) - 1) + source - (source > target)]
        return self._exchanged(hidden[source], steps, upwards=2 ** max(source - target, 0))

    def _exchanged(self, h: Tensor, steps: tuple[ConvNorm, ...], *, upwards: int) -> Tensor:
        """From a coarser scale: 1x1 convolution, norm, nearest neighbour. From a finer one: strided convolutions."""
        if upwards > 1:
            h = self._norm(self._conv(h, steps[0].conv), steps[0].gn)
            return F.interpolate(h, scale_factor=upwards, mode="nearest")
        for number, step in enumerate(steps):
            h = F.relu(h, inplace=True) if number else h
            h = self._norm(self._conv(h, step.conv, stride=2, padding=1), step.gn)
        return h

    def _post(self, y: Tensor, weight: Tensor) -> Tensor:
        """What follows the sum over scales: ReLU, 1x1 weight-normed convolution, GroupNorm without parameters."""
        return F.group_norm(self._conv(F.relu(y, inplace=True), weight), self.groups // 2)

    def _conv(self, x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
        return self.precision.conv2d(x, weight, stride=stride, padding=padding)

    def _norm(self, x: Tensor, affine: Affine) -> Tensor:
        return F.group_norm(x, self.groups, affine.weight, affine.bias)


class NormedConv2d(nn.Module):
    """The weight of a bias-free convolution, v g / ||v||, the norm taken per output channel."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, weight_norm: bool) -> None:
        super().__init__()
        weight = torch.empty(channels_out, channels_in, kernel, kernel)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.v = nn.Parameter(weight)
        self.g = nn.Parameter(_channel_norm(weight)) if weight_norm else None

    def effective_weight(self) -> Tensor:
        """The weight of the convolution, (out, in, kernel, kernel)."""
        return self.v if self.g is None else self.v * (self.g / _channel_norm(self.v))

    @torch.no_grad()
    def reset_normal(self, std: float) -> None:
        """Draw v from N(0, std^2), and set g so that the weight is v."""
        self.v.normal_(0, std)
        if self.g is not None:
            self.g.copy_(_channel_norm(self.v))


def _channel_norm(weight: Tensor) -> Tensor:
    norm: Tensor = weight.flatten(1).norm(dim=1)
    return norm.view(-1, 1, 1, 1)


class ResidualBlock(nn.Module):
    """Parameters of the transformation of one scale."""

    def __init__(self, channels: int, *, expansion: int, groups: int, weight_norm: bool) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv1 = NormedConv2d(channels, wide, 3, weight_norm=weight_norm)
        self.gn1 = nn.GroupNorm(groups, wide)
        self.conv2 = NormedConv2d(wide, channels, 3, weight_norm=weight_norm)
        self.gn2 = nn.GroupNorm(groups, channels)
        self.gn3 = nn.GroupNorm(groups, channels)

    def weights(self, precision: Precision) -> BlockWeights:
        """As convolutions take them."""
        conv1, conv2 = (precision.weight(conv.effective_weight()) for conv in (self.conv1, self.conv2))
        return BlockWeights(conv1, conv2, affine(self.gn1), affine(self.gn2), affine(self.gn3))


class Upsample(nn.Module):
    """Parameters from a coarser scale to a finer one: a 1x1 convolution and its norm."""

    def __init__(self, channels_in: int, channels_out: int, *, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.gn = nn.GroupNorm(groups, channels_out)


def downsample(channels_in: int, channels_out: int, *, halvings: int, groups: int) -> nn.Sequential:
    """Parameters from a finer scale to a coarser one: strided convolutions that change the channels in the last."""
    layers: list[nn.Module] = []
    for k in range(halvings):
        last = k == halvings - 1
        width = channels_out if last else channels_in
        layers += [nn.Conv2d(channels_in, width, 3, stride=2, padding=1, bias=False), nn.GroupNorm(groups, width)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


class PostFuse(nn.Module):
    """The parameters of what follows the sum over scales."""

    def __init__(self, channels: int, *, weight_norm: bool) -> None:
        super().__init__()
        self.conv = NormedConv2d(channels, channels, 1, weight_norm=weight_norm)

    def weight(self, precision: Precision) -> Tensor:
        """Of the 1x1 convolution, as convolutions take it."""
        return precision.weight(self.conv.effective_weight())


class MultiscaleCell(nn.Module):
    """The parameters of f on some scales, finest first."""

    def __init__(
        self, channels: Sequence[int], *, groups: int, expansion: int, weight_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.dropout = dropout
        scales = range(len(channels))
        self.branches = nn.ModuleList(
            ResidualBlock(c, expansion=expansion, groups=groups, weight_norm=weight_norm) for c in channels
        )
        self.fuse = nn.ModuleDict(
            {f"{j}to{i}": _exchange(channels, j, i, groups) for i in scales for j in scales if i != j}
        )
        self.post = nn.ModuleList(PostFuse(c, weight_norm=weight_norm) for c in channels)

    def weights(self, precision: Precision) -> CellWeights:
        """Effective weights, as convolutions take them."""
        return CellWeights(
            blocks=tuple(block.weights(precision) for block in self.branches if isinstance(block, ResidualBlock)),
            exchanges=tuple(_exchange_weights(exchange, precision) for exchange in self.fuse.values()),
            post=tuple(post.weight(precision) for post in self.post if isinstance(post, PostFuse)),
        )

    def freeze(self, batch: int, generator: torch.Generator | None, precision: Precision = FP32) -> Frozen:
        """Effective weights and, in training mode with dropout, masks for `batch` images.

        Args:
            batch: number of images.
            generator: CPU generator that the masks are drawn from; needed in training mode with dropout only.
            precision: of the convolutions.
        """
        weights = self.weights(precision)
        if not self.training or self.dropout == 0:
            return Frozen(weights, ())
        assert generator is not None, "training with dropout needs a generator"
        return Frozen(weights, tuple(self._mask(batch, c, generator) for c in self.channels))

    def _mask(self, batch: int, channels: int, generator: torch.Generator) -> Tensor:
        keep = 1 - self.dropout
        kept = torch.rand(batch, channels, 1, 1, generator=generator) < keep
        like = next(self.parameters())
        return upload(kept, like.device).to(like.dtype) / keep


def affine(norm: nn.Module) -> Affine:
    """The parameters of a GroupNorm that has some."""
    assert isinstance(norm, nn.GroupNorm)
    assert norm.weight is not None
    assert norm.bias is not None
    return Affine(norm.weight, norm.bias)


def _exchange_weights(exchange: nn.Module, precision: Precision) -> tuple[ConvNorm, ...]:
    if isinstance(exchange, Upsample):
        return (ConvNorm(precision.weight(exchange.conv.weight), affine(exchange.gn)),)
    assert isinstance(exchange, nn.Sequential)
    convolutions = [layer for layer in exchange if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in exchange if isinstance(layer, nn.GroupNorm)]
    pairs = zip(convolutions, norms, strict=True)
    return tuple(ConvNorm(precision.weight(conv.weight), affine(norm)) for conv, norm in pairs)


def _exchange(channels: Sequence[int], source: int, target: int, groups: int) -> nn.Module:
    if source > target:
        return Upsample(channels[source], channels[target], groups=groups)
    return downsample(channels[source], channels[target], halvings=target - source, groups=groups)
