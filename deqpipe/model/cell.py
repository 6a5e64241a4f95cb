"""The transformation f(z; x) of the multiscale DEQ (Bai et al., 2020)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Frozen:
    """What stays the same over all applications of f in one forward pass.

    Attributes:
        weights: effective convolution weights, per module that has a normalised weight.
        masks: dropout masks, one (batch, channels, 1, 1) tensor per scale; empty when there is no dropout.
    """

    weights: dict[nn.Module, Tensor]
    masks: tuple[Tensor, ...]


class NormedConv2d(nn.Module):
    """Bias-free convolution whose weight is v g / ||v||, the norm taken per output channel.

    `effective_weight` is computed once per forward pass and handed to every application.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, weight_norm: bool) -> None:
        super().__init__()
        self.padding = kernel // 2
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

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution of `x` with an effective weight."""
        return F.conv2d(x, weight, padding=self.padding)


def _channel_norm(weight: Tensor) -> Tensor:
    norm: Tensor = weight.flatten(1).norm(dim=1)
    return norm.view(-1, 1, 1, 1)


class ResidualBlock(nn.Module):
    """The transformation of one scale: two weight-normed convolutions, injection, residual connection."""

    def __init__(self, channels: int, *, expansion: int, groups: int, weight_norm: bool) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv1 = NormedConv2d(channels, wide, 3, weight_norm=weight_norm)
        self.gn1 = nn.GroupNorm(groups, wide)
        self.conv2 = NormedConv2d(wide, channels, 3, weight_norm=weight_norm)
        self.gn2 = nn.GroupNorm(groups, channels)
        self.gn3 = nn.GroupNorm(groups, channels)

    def forward(self, z: Tensor, injection: Tensor | None, frozen: Frozen, mask: Tensor | None) -> Tensor:
        """One scale of f before fusing; `injection` is None for all scales but the finest."""
        h = F.relu(self.gn1(self.conv1(z, frozen.weights[self.conv1])))
        h = self.conv2(h, frozen.weights[self.conv2])
        h = h if mask is None else h * mask
        h = h if injection is None else h + injection
        h = self.gn2(h) + z
        out: Tensor = self.gn3(F.relu(h))
        return out


class Upsample(nn.Module):
    """From a coarser scale to a finer one: 1x1 convolution, GroupNorm, nearest neighbour."""

    def __init__(self, channels_in: int, channels_out: int, *, factor: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.gn = nn.GroupNorm(groups, channels_out)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_out, factor * height, factor * width)."""
        return F.interpolate(self.gn(self.conv(x)), scale_factor=self.factor, mode="nearest")


def downsample(channels_in: int, channels_out: int, *, halvings: int, groups: int) -> nn.Sequential:
    """From a finer scale to a coarser one: strided convolutions that change the channels in the last."""
    layers: list[nn.Module] = []
    for k in range(halvings):
        last = k == halvings - 1
        width = channels_out if last else channels_in
        layers += [nn.Conv2d(channels_in, width, 3, stride=2, padding=1, bias=False), nn.GroupNorm(groups, width)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


class PostFuse(nn.Module):
    """What follows the sum over scales: ReLU, 1x1 weight-normed convolution, GroupNorm without parameters."""

    def __init__(self, channels: int, *, groups: int, weight_norm: bool) -> None:
        super().__init__()
        self.conv = NormedConv2d(channels, channels, 1, weight_norm=weight_norm)
        self.gn = nn.GroupNorm(groups, channels, affine=False)

    def forward(self, y: Tensor, frozen: Frozen) -> Tensor:
        """The new state of one scale."""
        out: Tensor = self.gn(self.conv(F.relu(y), frozen.weights[self.conv]))
        return out


class Cell(nn.Module):
    """f(z; x) on a list of scales, finest first, each with half the resolution of the one before."""

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
        self.post = nn.ModuleList(PostFuse(c, groups=groups // 2, weight_norm=weight_norm) for c in channels)

    def freeze(self, batch: int, generator: torch.Generator | None) -> Frozen:
        """Effective weights and, in training mode with dropout, masks for `batch` images.

        Args:
            batch: number of images.
            generator: CPU generator that the masks are drawn from; needed in training mode with dropout only.
        """
        convolutions = [module for module in self.modules() if isinstance(module, NormedConv2d)]
        weights: dict[nn.Module, Tensor] = {module: module.effective_weight() for module in convolutions}
        if not self.training or self.dropout == 0:
            return Frozen(weights, ())
        assert generator is not None, "training with dropout needs a generator"
        return Frozen(weights, tuple(self._mask(batch, c, generator) for c in self.channels))

    def _mask(self, batch: int, channels: int, generator: torch.Generator) -> Tensor:
        keep = 1 - self.dropout
        kept = torch.rand(batch, channels, 1, 1, generator=generator) < keep
        like = next(self.parameters())
        return kept.to(like.device, like.dtype) / keep

    def forward(self, scales: Sequence[Tensor], injection: Tensor, frozen: Frozen) -> list[Tensor]:
        """One application of f to all scales; the input is injected into the finest."""
        hidden = [
            branch(z, injection if i == 0 else None, frozen, frozen.masks[i] if frozen.masks else None)
            for i, (branch, z) in enumerate(zip(self.branches, scales, strict=True))
        ]
        return [post(self._fused(hidden, i), frozen) for i, post in enumerate(self.post)]

    def _fused(self, hidden: Sequence[Tensor], target: int) -> Tensor:
        parts = [h if j == target else self.fuse[f"{j}to{target}"](h) for j, h in enumerate(hidden)]
        return sum(parts[1:], start=parts[0])


def _exchange(channels: Sequence[int], source: int, target: int, groups: int) -> nn.Module:
    if source > target:
        return Upsample(channels[source], channels[target], factor=2 ** (source - target), groups=groups)
    return downsample(channels[source], channels[target], halvings=target - source, groups=groups)
