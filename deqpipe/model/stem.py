"""From images to the injection of the finest scale."""

from torch import nn


def stem(in_channels: int, channels: int, *, scales: int) -> nn.Sequential:
    """Two 3x3 convolutions and, with more than two scales, the 1x1 transformation of the injection.

    The release has that last transformation only from three scales on.
    """
    layers = [*_conv_bn_relu(in_channels, channels, 3), *_conv_bn_relu(channels, channels, 3)]
    if scales > 2:
        layers += _conv_bn_relu(channels, channels, 1)
    return nn.Sequential(*layers)


def _conv_bn_relu(channels_in: int, channels_out: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]
