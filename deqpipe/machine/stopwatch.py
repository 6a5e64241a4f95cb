"""The clock of timing jobs: passes of several kinds in turn, each between two readings of a device at rest."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

_logger = logging.getLogger(__name__)

Pass: TypeAlias = Callable[[], int]
"""Does the work once; how many images it was done on."""


@dataclass(frozen=True)
class Repeats:
    """How often a pass runs.

    Attributes:
        warmup: passes that are not timed.
        timed: passes that are.
    """

    warmup: int
    timed: int


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


def in_turn(
    passes: Mapping[str, Pass], *, repeats: Repeats, device: torch.device, warmups: Mapping[str, Pass] | None = None
) -> dict[str, tuple[float, ...]]:
    """Images per second of each pass, repeat by repeat.

    All kinds run once, then all once more, and so on: what the machine does differently with time reaches all of them.

    Args:
        passes: what is timed, by name.
        repeats: how often.
        device: where it computes.
        warmups: what runs before the clock starts, where less than a whole pass will do.
    """
    for name, work in (warmups or passes).items():
        for _ in range(repeats.warmup):
            work()
        _logger.info("%s: warmed up", name)
    rates: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(repeats.timed):
        for name, work in passes.items():
            rates[name].append(_images_per_second(work, device))
        _logger.info("repeat %d/%d done", number + 1, repeats.timed)
    return {name: tuple(own) for name, own in rates.items()}


def _images_per_second(work: Pass, device: torch.device) -> float:
    images: list[int] = []
    taken = seconds(lambda: images.append(work()), device)
    return images[0] / taken


def load() -> tuple[float, ...]:
    """Processes that want to compute on this machine: averages of the last 1, 5 and 15 minutes."""
    return tuple(round(average, 2) for average in os.getloadavg())
