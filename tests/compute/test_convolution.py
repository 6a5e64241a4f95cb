"""Convolutions: the products that stand in for some of them on a CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deqpipe.compute.convolution import PointwiseConvolution, conv2d


def images(channels: int) -> Tensor:
    return torch.randn(3, channels, 4, 6, dtype=torch.float64)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding"), [(5, 1, 1, 0), (1, 1, 1, 0), (5, 1, 2, 0), (5, 1, 1, 1), (5, 3, 2, 1)]
)
def test_values_and_gradients_are_those_of_the_convolution(
    channels: int, kernel: int, stride: int, padding: int
) -> None:
    weight = torch.randn(7, channels, kernel, kernel, dtype=torch.float64)
    x = images(channels).requires_grad_()
    ours, theirs = conv2d(x, weight, stride=stride, padding=padding), F.conv2d(x, weight, None, stride, padding)
    arriving = torch.randn_like(ours)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, x, arriving)[0] for value in (ours, theirs)))


def test_a_1x1_convolution_is_a_product_unless_its_weight_wants_a_gradient() -> None:
    convolution, x = PointwiseConvolution(5, 7).double(), images(5).requires_grad_()
    assert "Convolution" in name_of_gradient(convolution(x))
    with torch.no_grad():
        torch.testing.assert_close(convolution(x), F.conv2d(x, convolution.weight))
    convolution.requires_grad_(False)
    assert "Convolution" not in name_of_gradient(convolution(x))


def test_images_that_do_not_lie_in_channel_order_are_convolved() -> None:
    x, weight = images(5).contiguous(memory_format=torch.channels_last), torch.randn(7, 5, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(conv2d(x, weight), F.conv2d(x, weight))
    assert conv2d(x, weight).is_contiguous(memory_format=torch.channels_last)


def test_images_that_lie_apart_are_multiplied_as_they_lie() -> None:
    weight, rows = torch.randn(7, 5, 1, 1, dtype=torch.float64), torch.randn(3, 200, dtype=torch.float64)
    x = rows[:, 40:160].view(3, 5, 4, 6).requires_grad_()
    assert "Convolution" not in name_of_gradient(conv2d(x, weight))
    torch.testing.assert_close(conv2d(x, weight), F.conv2d(x, weight))


def name_of_gradient(value: Tensor) -> str:
    node = value.grad_fn
    while node is not None and "View" in node.name():
        node = node.next_functions[0][0]
    assert node is not None
    return node.name()
