"""How many images are evaluated at once: a number, or as many as the device's memory holds."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch

from deqpipe.config import DEFAULT_BATCH
from deqpipe.errors import UserError
from deqpipe.machine import faults

T = TypeVar("T")
PROBE = 16
"""Images whose memory is measured."""
SHARE = 0.5
"""Of the free memory."""
SHARE_WITH_GRAPHS = 0.25
"""The same where attack steps are replayed: a graph keeps the memory of its step, beside that of called ones."""
MOST = 4096
_logger = logging.getLogger(__name__)


def _nothing() -> None:
    """Nothing is kept."""


@dataclass
class Batching:
    """Images at once.

    Attributes:
        size: how many.
        fixed: whether the configuration names the number; otherwise it is halved when memory runs out.
        key: of the configuration, for the message.
        forget: gives back memory that is kept for speed alone.
    """

    size: int
    fixed: bool = True
    key: str = "evaluation.batch_size"
    forget: Callable[[], None] = _nothing

    def backing_off(self, compute: Callable[[], T]) -> T:
        """The result of some work, done again with half as many images when memory does not hold them.

        The memory is that of the device, or that of the host, of which a limit (ulimit -v) may leave little.

        Raises:
            UserError: it does not, and the number is fixed, or one image is too many.
        """
        while True:
            try:
                return compute()
            except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is one, as is that of a CPU
                if not faults.is_out_of_memory(error):
                    raise
                if self.fixed or self.size == 1:
                    raise self._refusal(error) from None
                self.size = max(1, self.size // 2)
                _logger.warning("out of memory: from here on %d images at once", self.size)
            self.forget()
            give_back()

    def _refusal(self, error: Exception) -> UserError:
        now = f"{self.key} is {'' if self.fixed else 'auto, now '}{self.size}"
        said, limit = faults.brief(error), faults.limit()
        if self.size == 1:
            return UserError(f"{now}, but memory does not hold one image ({said}){limit}: a device with more is needed")
        allowed = "fewer" if self.key.startswith("autoattack") else "fewer, or auto"
        return UserError(f"{now}, but memory does not hold as many images ({said}){limit}; allowed: {allowed}")


def give_back() -> None:
    """Give the device memory that nobody holds, if PyTorch does: after a failed capture of a graph it may refuse."""
    with suppress(RuntimeError):
        torch.cuda.empty_cache()


def has_room(device: torch.device, size: int) -> bool:
    """Whether so many bytes are at most a tenth of what is free on a device; a CPU's memory is not looked at."""
    return device.type != "cuda" or 10 * size <= torch.cuda.mem_get_info(device)[0]


def automatic(work: Callable[[int], object], device: torch.device, *, share: float = SHARE) -> Batching:
    """As many images as fit into the free memory of a device, by the memory that a few of them take.

    Args:
        work: what is done with a number of images; the most demanding thing that a job does.
        device: where. On a CPU memory is not looked at.
        share: of the free memory.
    """
    if device.type != "cuda":
        return Batching(DEFAULT_BATCH, fixed=False)
    work(1)  # libraries allocate their workspaces
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work(PROBE)
    taken = max(1, torch.cuda.max_memory_allocated(device) - before)
    give_back()
    free, _ = torch.cuda.mem_get_info(device)
    size = max(1, min(MOST, int(share * free * PROBE / taken)))
    size = size // 32 * 32 or size
    _logger.info("evaluation.batch_size auto: %d images at once, %.0f MB each", size, taken / PROBE / 1e6)
    return Batching(size, fixed=False)
