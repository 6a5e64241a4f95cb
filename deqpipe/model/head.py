"""The classification head h: any state of the dynamics can be read off with it."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from deqpipe.compute.convolution import PointwiseConvolution

EXPANSION = 4  # of the bottlenecks, as in ResNet


class Bottleneck(nn.Module):
    """Widen one scale to EXPANSION times `width` channels; the batch norms of the main path have no parameters."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        wide = EXPANSION * width
        self.conv1 = PointwiseConvolution(channels, width)
        self.bn1 = nn.BatchNorm2d(width, affine=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, affine=False)
        self.conv3 = PointwiseConvolution(width, wide)
        self.bn3 = nn.BatchNorm2d(wide, affine=False)
        self.short: nn.Module = nn.Identity()
        if channels != wide:
            self.short = nn.Sequential(PointwiseConvolution(channels, wide), nn.BatchNorm2d(wide))

    def forward(self, z: Tensor) -> Tensor:
        """(batch, EXPANSION * width, height, width)."""
        h = F.relu(self.bn1(self.conv1(z)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.short(z))


class Head(nn.Module):
    """Bottlenecks per scale, merged from the finest scale down, averaged over pixels, classified."""

    def __init__(self, channels: Sequence[int], *, widths: Sequence[int], final_channels: int, classes: int) -> None:
        super().__init__()
        self.incre = nn.ModuleList(Bottleneck(c, w) for c, w in zip(channels, widths, strict=True))
        wide = [EXPANSION * w for w in widths]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(fine, coarse, 3, stride=2, padding=1), nn.BatchNorm2d(coarse), nn.ReLU())
            for fine, coarse in pairwise(wide)
        )
        self.final = nn.Sequential(nn.Conv2d(wide[-1], final_channels, 1), nn.BatchNorm2d(final_channels), nn.ReLU())
        self.fc = nn.Linear(final_channels, classes)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """Logits, (batch, classes)."""
        y = self.incre[0](scales[0])
        for down, incre, z in zip(self.down, self.incre[1:], scales[1:], strict=True):
            y = incre(z) + down(y)
        logits: Tensor = self.fc(self.final(y).mean((2, 3)))
        return logits
