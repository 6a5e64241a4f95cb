"""The clock, the memory and the comparison of results: what is done with an operation."""

import ctypes
import ctypes.util
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from benchmarks.differences import difference
from benchmarks.operations import Evaluated, Operation, Prices, Shown, Side
from benchmarks.world import World
from deqpipe.compute.evaluations import Evaluations
from deqpipe.machine import stopwatch

LIMIT = 1e-10
"""Of relative differences between two sides in float64."""
Clock: TypeAlias = Literal["wall", "cpu"]
FEWEST = 3  # pairs, however long one takes
BEST_OF, AT_ONCE = 5, 20  # evaluations of f alone
_RESET_PEAK = "5"  # what Linux takes as: forget the largest resident size so far


class UnequalError(Exception):
    """Two sides of an operation do not give the same results."""


@dataclass(frozen=True)
class Patience:
    """How long an operation is measured.

    Attributes:
        repeats: of all its sides in turn.
        seconds: after which no further repeat begins, once there are `FEWEST`.
        warmups: runs of each side before the clock starts.
        clock: wall: what a user waits; cpu: what this process computed, summed over its threads, whoever else does.
    """

    repeats: int
    seconds: float
    warmups: int = 1
    clock: Clock = "wall"

    def seconds_of(self, work: Callable[[], object], device: torch.device) -> float:
        """How long some work takes."""
        if self.clock == "wall":
            return stopwatch.seconds(work, device)
        started = time.process_time()
        work()
        return time.process_time() - started


@dataclass(frozen=True)
class Ratio:
    """A median over pairs, and its range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Ratio":
        """Of the values of all pairs."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Measured:
    """What was found of one side.

    Attributes:
        side: its name.
        pairs: how often it ran.
        ratio: how many times as fast it is as the first side, pair by pair.
        rate: images per second.
        evaluations: of f, per image.
        peak: bytes that it needs at once beyond what stays; not a number where nobody counts them.
        share: of its time, what its evaluations of f would take by themselves.
        difference: largest relative difference of its results from the first side's, in float64; not a number for the
            first side and for one of other keys.
        same_bits: whether its results in the precision that was measured are those of the first side bit for bit.
    """

    side: str
    pairs: int
    ratio: Ratio
    rate: Ratio
    evaluations: Evaluations
    peak: float
    share: float
    difference: float
    same_bits: bool


def measured(
    operation: Operation, world: World, patience: Patience, differences: Mapping[str, float]
) -> list[Measured]:
    """Time all sides of an operation in turn.

    Args:
        operation: what.
        world: where.
        patience: how long.
        differences: what `compared` found.
    """
    world.computed.enter(world.threads)
    sides = operation.sides(world)
    # Where a run is many equal steps, one of them is enough of a warm-up, unless it is these steps that are captured.
    warmed = operation.sides(replace(world, attack_steps=1)) if world.device.type == "cpu" else sides
    peaks, same = _warmed_up(warmed, world.device, patience)
    prices = priced(operation.f(world), world.device, patience)
    before = [side.counter.counted for side in sides]
    taken = _taken(sides, world.device, patience)
    return [
        _summary(
            side,
            taken=(taken[0], taken[number]),
            counted=side.counter.counted - before[number],
            prices=prices,
            peak=peaks[number],
            difference=differences.get(side.name, torch.nan),
            same_bits=same[number],
        )
        for number, side in enumerate(sides)
    ]


def _warmed_up(sides: Sequence[Side], device: torch.device, patience: Patience) -> tuple[list[float], list[bool]]:
    """Bytes that each side needs, and whether its results are the first side's bit for bit."""
    peaks, shown = [], []
    gc.collect()  # what was measured before shall not be freed in between
    for side in sides:
        for number in range(1, patience.warmups):
            side.run(number)
        peak, found = _watched(side, device)
        peaks.append(peak)
        shown.append({name: tensor.detach().cpu().clone() for name, tensor in found.items()})
    same = [side.compared and _same_bits(shown[0], results) for side, results in zip(sides, shown, strict=True)]
    return peaks, same


def _taken(sides: Sequence[Side], device: torch.device, patience: Patience) -> list[list[float]]:
    """Seconds of each run of each side: all sides once, then all once more, and so on."""
    taken: list[list[float]] = [[] for _ in sides]
    for number in range(patience.repeats):
        if number >= FEWEST and sum(map(sum, taken)) > patience.seconds:
            break
        for side, seconds in zip(sides, taken, strict=True):
            seconds.append(patience.seconds_of(partial(side.run, number), device))
    return taken


def _summary(
    side: Side,
    *,
    taken: tuple[Sequence[float], Sequence[float]],
    counted: Evaluations,
    prices: Prices,
    peak: float,
    difference: float,
    same_bits: bool,
) -> Measured:
    first, own = taken
    alone = (
        counted.forward * prices.forward
        + counted.backward_input * prices.backward_input
        + counted.backward_weights * prices.backward_weights
    )
    return Measured(
        side=side.name,
        pairs=len(own),
        ratio=Ratio.of([one / other for one, other in zip(first, own, strict=True)]),
        rate=Ratio.of([side.images / seconds for seconds in own]),
        evaluations=counted * (1 / (side.images * len(own))),
        peak=peak,
        share=alone / sum(own),
        difference=difference,
        same_bits=same_bits,
    )


# --- f alone ---------------------------------------------------------------------------------------------------------


def priced(f: Evaluated, device: torch.device, patience: Patience) -> Prices:
    """Seconds of one evaluation per image, the best of some."""
    forward, input_too, all_three = (
        _best(work, device, patience) for work in (f.forward, f.with_input, f.with_weights)
    )
    return Prices(
        forward / f.images,
        max(0.0, input_too - forward) / f.images,
        max(0.0, all_three - max(input_too, forward)) / f.images,
    )


def _best(work: Callable[[], object] | None, device: torch.device, patience: Patience) -> float:
    if work is None:
        return 0.0
    for _ in range(patience.warmups):
        work()
    calls = AT_ONCE if device.type == "cuda" else 1  # a single call would be timed with the way to the device and back

    def several() -> None:
        for _ in range(calls):
            work()

    return min(patience.seconds_of(several, device) for _ in range(BEST_OF)) / calls


# --- results ---------------------------------------------------------------------------------------------------------


def compared(operation: Operation, world: World, *, limit: float = LIMIT) -> dict[str, float]:
    """The largest relative difference of each side's results in float64 from those of the first side.

    Raises:
        UnequalError: one is above the limit.
    """
    exact = world.for_comparison()
    exact.computed.enter(exact.threads)
    sides = operation.sides(exact)
    shown = [_everything(side) for side in sides]
    found: dict[str, float] = {}
    for side, results in zip(sides[1:], shown[1:], strict=True):
        if not side.compared:
            continue
        found[side.name] = _check(operation.name, side.name, results, shown[0], limit)
    return found


def _everything(side: Side) -> dict[str, Tensor]:
    found = dict(side.run(0)) | dict(side.more())
    return {name: tensor.detach().cpu().double() for name, tensor in found.items()}


def _check(operation: str, side: str, results: Shown, reference: Shown, limit: float) -> float:
    if results.keys() != reference.keys():
        raise UnequalError(f"{operation}: {side} gives {sorted(results.keys() ^ reference.keys())} of its own")
    apart = {name: difference(tensor.numpy(), reference[name].numpy()) for name, tensor in results.items()}
    worst = max(apart, key=lambda name: apart[name])
    if not apart[worst] <= limit:
        raise UnequalError(f"{operation}: {worst} of {side} is {apart[worst]:.1e} off, but {limit:.0e} is allowed")
    return apart[worst]


def _same_bits(one: Shown, other: Shown) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# --- memory ----------------------------------------------------------------------------------------------------------


def _watched(side: Side, device: torch.device) -> tuple[float, Shown]:
    """A run, and the bytes that it needed at once beyond those that were taken before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        found = side.run(0)
        return float(torch.cuda.max_memory_allocated(device) - before), found
    if not _can_reset():
        return torch.nan, side.run(0)
    _give_back()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="utf-8")
    found = side.run(0)
    return float(_status("VmHWM") - before), found


def _can_reset() -> bool:
    """Whether this system tells how much memory a process had at most since some moment."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="utf-8")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """A line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def _give_back() -> None:
    """Have freed memory counted as free: glibc keeps some for itself."""
    library = ctypes.util.find_library("c")
    if library is not None and hasattr(libc := ctypes.CDLL(library), "malloc_trim"):
        libc.malloc_trim(0)
