"""Convolutions, and the faster way that some have on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """The convolution of images with a weight, without bias.

    On a CPU a 1x1 convolution is a product of matrices per image: each number is the same sum, and so is each of the
    gradient to the images, but no time goes into rearranging memory. The order is the same as well, but for images of
    about 4x4 pixels or fewer, which PyTorch's convolution adds up otherwise: there the two differ by rounding. The
    gradient to the weight sums over the images, in another order: whoever wants it gets the convolution.
    """
    if stride == 1 and padding == 0 and _is_product(x, weight):
        return _product(x, weight)
    return F.conv2d(x, weight, stride=stride, padding=padding)


class PointwiseConvolution(nn.Conv2d):
    """A 1x1 convolution without bias."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        return conv2d(x, self.weight)


def _is_product(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution that neither strides nor pads may be computed as a product."""
    wants_weight = weight.requires_grad and torch.is_grad_enabled()
    pointwise = weight.shape[2:] == (1, 1) and weight.shape[1] > 1  # of one channel the gradient's order differs
    return pointwise and not wants_weight and x.device.type == "cpu" and _in_channel_order(x)


def _in_channel_order(x: Tensor) -> bool:
    """Whether the numbers of every image lie one after the other, channel by channel; images may lie apart."""
    height, width = x.shape[2:]
    return x.stride()[1:] == (height * width, width, 1)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    matrices = weight.view(1, -1, channels).expand(batch, -1, -1)
    return torch.bmm(matrices, x.view(batch, channels, height * width)).view(batch, -1, height, width)
