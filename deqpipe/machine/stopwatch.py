"""The clock of timing jobs: passes of several kinds in turn, each between two readings of a device at rest."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

_logger = logging.getLogger(__name__)

Pass: TypeAlias = Callable[[], int]
"""Does the work once; how many images it was done on."""


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long some work takes, everything that the device still had to do before left out."""
    _finish(device)
    started = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warm_up(passes: Mapping[str, Pass], times: int) -> None:
    """Run each pass so many times without a clock."""
    for name, work in passes.items():
        for _ in range(times):
            work()
        _logger.info("%s: warmed up", name)


def one_round(passes: Mapping[str, Pass], device: torch.device) -> dict[str, float]:
    """Images per second of each pass, run once.

    Rounds follow each other: what the machine does differently with time reaches all passes.

    Args:
        passes: what is timed, by name.
        device: where it computes.
    """
    return {name: _images_per_second(work, device) for name, work in passes.items()}


def _images_per_second(work: Pass, device: torch.device) -> float:
    images: list[int] = []
    taken = seconds(lambda: images.append(work()), device)
    return images[0] / taken


def load() -> tuple[float, ...]:
    """Processes that want to compute on this machine: averages of the last 1, 5 and 15 minutes."""
    return tuple(round(average, 2) for average in os.getloadavg())
