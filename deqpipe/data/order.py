"""The order in which training images are seen."""

import torch
from jaxtyping import Int
from torch import Tensor

from deqpipe.seeding import Stream


def order(n: int, *, epoch: int, stream: Stream) -> Int[Tensor, " image"]:
    """Indices of all images in the order of one epoch, which depends on the stream and epoch alone."""
    return torch.randperm(n, generator=stream.generator(epoch))


def batches(n: int, batch_size: int, *, epoch: int, stream: Stream) -> tuple[Int[Tensor, " batch"], ...]:
    """Indices of the batches of one epoch: every image once, in the epoch's order.

    The last batch is smaller when `batch_size` does not divide `n`.
    """
    return torch.split(order(n, epoch=epoch, stream=stream), batch_size)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """How many batches an epoch has."""
    return -(-n // batch_size)
