"""A ResNet of basic blocks (He et al., 2015) for small images, in plain PyTorch; torchvision's names of tensors.

Its first convolution is 3x3 with stride 1, and there is no max-pooling.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            shortcut = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height / stride, width / stride)."""
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + self.downsample(x))


class ResNet(nn.Module):
    """Images (batch, channels, height, width) in [0, 1], as they are, to logits (batch, classes)."""

    def __init__(self, *, layers: Sequence[int], channels: int, classes: int) -> None:
        """Initialised as PyTorch does; the weights come from a file.

        Args:
            layers: blocks in each of the four stages.
            channels: of the images.
            classes: how many logits.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self._stage(64, 64, layers[0], stride=1)
        self.layer2 = self._stage(64, 128, layers[1], stride=2)
        self.layer3 = self._stage(128, 256, layers[2], stride=2)
        self.layer4 = self._stage(256, 512, layers[3], stride=2)
        self.fc = nn.Linear(512, classes)

    @staticmethod
    def _stage(channels_in: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
        first = BasicBlock(channels_in, channels, stride=stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        h = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            h = stage(h)
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits
