"""How many images are evaluated at once, and what happens when they are too many."""

import pytest
import torch

from deqpipe.config import DEFAULT_BATCH
from deqpipe.errors import UserError
from deqpipe.evaluation.batching import Batching, automatic

ON_DEVICE = torch.OutOfMemoryError("CUDA out of memory")
OF_HOST = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")


def within(most: int, batching: Batching, error: Exception = ON_DEVICE) -> int:
    """Work that only so many images have room for."""
    if batching.size > most:
        raise error
    return batching.size


@pytest.mark.parametrize("error", [ON_DEVICE, OF_HOST, MemoryError(), RuntimeError("std::bad_alloc")])
def test_work_is_done_again_with_half_the_images_until_they_fit(error: Exception) -> None:
    batching = Batching(100, fixed=False)
    assert batching.backing_off(lambda: within(30, batching, error)) == 25
    assert batching.size == 25
    assert batching.backing_off(lambda: within(30, batching, error)) == 25


def test_number_that_the_configuration_names_is_not_changed() -> None:
    batching = Batching(100)
    with pytest.raises(UserError, match=r"evaluation.batch_size is 100, but memory does .*; allowed: fewer, or auto"):
        batching.backing_off(lambda: within(30, batching))
    assert batching.size == 100


def test_one_image_that_is_too_many_is_an_error() -> None:
    batching = Batching(3, fixed=False)
    with pytest.raises(UserError, match="auto, now 1"):
        batching.backing_off(lambda: within(0, batching))


def test_other_errors_are_left_alone() -> None:
    def broken() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Batching(4, fixed=False).backing_off(broken)


def test_on_a_cpu_nothing_is_measured() -> None:
    def unwanted(count: int) -> None:
        raise AssertionError

    batching = automatic(unwanted, torch.device("cpu"))
    assert (batching.size, batching.fixed) == (DEFAULT_BATCH, False)
