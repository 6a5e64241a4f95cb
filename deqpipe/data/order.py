"""The order in which training images are seen."""

import torch
from jaxtyping import Int
from torch import Tensor

from deqpipe.seeding import Stream


def batches(n: int, batch_size: int, *, epoch: int, stream: Stream) -> tuple[Int[Tensor, " batch"], ...]:
    """Indices of the batches of one epoch: every image once, in an order that depends on the stream and epoch alone.

    The last batch is smaller when `batch_size` does not divide `n`.
    """
    order = torch.randperm(n, generator=stream.generator(epoch))
    return tuple(order[start : start + batch_size] for start in range(0, n, batch_size))


def steps_per_epoch(n: int, batch_size: int) -> int:
    """How many batches an epoch has."""
    return -(-n // batch_size)
