"""Steps that are run again and again: called each time, or captured once in a CUDA graph and replayed.

An attack step is a solve, an unroll, a backward pass and a projection: hundreds of small kernels, each started by
Python. A graph starts all of them at once. It is bound to the memory that it was captured with, so a step takes its
inputs and gives its results as tensors, and looks at nothing else that changes.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from deqpipe.compute.evaluations import Counter, Evaluations

Step: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""Tensors to tensors, the same work every time."""

WARM_UP = 1
"""Calls before a capture, beside its stream: libraries choose their algorithms and allocate their workspaces. The first
meeting with a step was one already."""
MOST = 32
"""Graphs that are kept, each with the memory of its inputs; the one that was used least recently makes room."""


_logger = logging.getLogger(__name__)


@runtime_checkable
class Runner(Protocol):
    """Runs steps."""

    def __call__(self, step: Step, key: Hashable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What a step makes of its inputs; steps of equal keys do the same work."""
        ...


@dataclass(frozen=True)
class Direct:
    """Calls the step."""

    def __call__(self, step: Step, key: Hashable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the step makes of its inputs."""
        return step(*inputs)


DIRECT = Direct()


@dataclass(frozen=True)
class Captured:
    """A step in a graph.

    Attributes:
        graph: to be replayed.
        inputs: the memory that it reads.
        outputs: the memory that it writes.
        cost: evaluations of f in one replay.
    """

    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    cost: Evaluations


class Graphs:
    """Captures every step that it meets a second time, and replays it from then on."""

    def __init__(self, counter: Counter, fresh: "Callable[[], Capture] | None" = None) -> None:
        """Take a counter of evaluations of f, which a replay makes without anybody seeing.

        Args:
            counter: of the model that the steps compute with.
            fresh: makes what captures; by default for the CUDA device.
        """
        self._counter = counter
        self._fresh: Callable[[], Capture] = fresh or OnDevice
        self._capture = self._fresh()
        self._captured: dict[Hashable, Captured] = {}
        self._met: set[Hashable] = set()
        self._failed: set[Hashable] = set()

    def __call__(self, step: Step, key: Hashable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the step makes of its inputs."""
        full = (key, tuple((tuple(one.shape), one.dtype, one.stride()) for one in inputs))
        if full not in self._met:
            self._met.add(full)  # a step that is run once is not worth a graph
            return step(*inputs)
        captured = None if full in self._failed else self._found(full, step, inputs)
        return step(*inputs) if captured is None else self._replayed(captured, inputs)

    def forget(self) -> None:
        """Give back all memory that graphs hold."""
        self._captured.clear()
        self._met.clear()
        self._capture = self._fresh()

    def _found(self, full: Hashable, step: Step, inputs: Sequence[Tensor]) -> Captured | None:
        captured = self._captured.pop(full, None) or self._new(full, step, inputs)
        if captured is not None:
            self._captured[full] = captured  # the most recently used one stands last
        if len(self._captured) > MOST:
            self._captured.pop(next(iter(self._captured)))
        return captured

    def _new(self, full: Hashable, step: Step, inputs: Sequence[Tensor]) -> Captured | None:
        """The step in a graph; None, from now on, where it cannot be captured: that costs speed and nothing else."""
        before, static = self._counter.counted, tuple(one.clone() for one in inputs)
        try:
            graph, outputs, calls = self._capture(step, static)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._failed.add(full)
            _logger.warning("an attack step cannot be captured and is called instead: %s", " ".join(str(error).split()))
            return None
        finally:
            seen = self._counter.counted - before
            self._counter.add(seen * -1)
        return Captured(graph, static, outputs, seen.shared(calls))

    def _replayed(self, captured: Captured, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for static, given in zip(captured.inputs, inputs, strict=True):
            static.copy_(given)
        captured.graph.replay()
        self._counter.add(captured.cost)
        return tuple(output.clone() for output in captured.outputs)


Capture: TypeAlias = Callable[[Step, tuple[Tensor, ...]], tuple[Any, tuple[Tensor, ...], int]]
"""A step and the memory of its inputs to: a graph, the memory of its outputs, and how often the step was called."""


class OnDevice:
    """Captures steps in CUDA graphs.

    All graphs share one pool of memory for what they need in between: they are replayed one after the other, and what
    they give is copied out before the next one starts.

    After one failed capture this process captures no more: PyTorch's allocator may go on to believe that a capture is
    under way (pytorch#180395, in 2.11), and then fails at the next one.
    """

    failed = False

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def __call__(self, step: Step, inputs: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...], int]:
        """Call the step beside the main stream, then capture it there; every stream has workspaces, so one serves all.

        Where the capture fails, what comes after it goes on in the stream that was current before.
        """
        if OnDevice.failed:
            raise RuntimeError("an earlier capture of this process failed")
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        self._stream = self._stream or torch.cuda.Stream()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                step(*inputs)
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                outputs = step(*inputs)
        except BaseException:
            torch.cuda.set_stream(current)
            OnDevice.failed, self._pool = True, None
            raise
        return graph, outputs, WARM_UP + 1
