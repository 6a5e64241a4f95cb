"""The deep-network baseline: torchvision's ResNet with the stem that is usual for small images."""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from deqpipe.seeding import Stream


def resnet(layers: Sequence[int], classes: int, *, in_channels: int, seed: int) -> ResNet:
    """A ResNet of basic blocks: images (batch, in_channels, height, width) in [0, 1] to logits (batch, classes).

    A 3x3 convolution of stride 1 takes the place of the 7x7 one of stride 2, and there is no max-pooling: three stages
    halve the resolution, so 8x8 images are the smallest that make sense. With [2, 2, 2, 2], ten classes and three
    channels it is the ResNet-18 of 11,173,962 parameters. Initialisation is torchvision's (He et al., 2015).

    Args:
        layers: blocks in each of the four stages.
        classes: how many logits.
        in_channels: channels of the images.
        seed: of the initialisation, which depends on nothing else.
    """
    with torch.random.fork_rng(devices=()):
        # the CPU's generator only: torch.manual_seed would change those of the other devices, too
        torch.default_generator.manual_seed(Stream(seed, "resnet initialisation").generator().initial_seed())
        network = ResNet(BasicBlock, list(layers), num_classes=classes)
        network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
