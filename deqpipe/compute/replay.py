"""Steps that are run again and again: called each time, or captured once in a CUDA graph and replayed.

An attack step is a solve, an unroll, a backward pass and a projection: hundreds of small kernels, each started by
Python. A graph starts all of them at once. It is bound to the memory that it was captured with, so a step takes its
inputs and gives its results as tensors, and looks at nothing else that changes.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from deqpipe.compute.evaluations import Counter, Evaluations

Step: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""Tensors to tensors, the same work every time."""

WARM_UP = 3
"""Calls before a capture: libraries choose their algorithms and allocate their workspaces in the first ones."""
MOST = 256
"""Graphs that are kept; the one that was used least recently makes room."""


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

    def __init__(self, counter: Counter, capture: "Capture | None" = None) -> None:
        """Take a counter of evaluations of f, which a replay makes without anybody seeing."""
        self._counter = counter
        self._capture = capture or OnDevice()
        self._captured: dict[Hashable, Captured] = {}
        self._met: set[Hashable] = set()

    def __call__(self, step: Step, key: Hashable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the step makes of its inputs."""
        full = (key, tuple((tuple(one.shape), one.dtype, one.stride()) for one in inputs))
        if full not in self._met:
            self._met.add(full)  # a step that is run once is not worth a graph
            return step(*inputs)
        return self._replayed(self._found(full, step, inputs), inputs)

    def _found(self, full: Hashable, step: Step, inputs: Sequence[Tensor]) -> Captured:
        captured = self._captured.pop(full, None) or self._new(step, inputs)
        self._captured[full] = captured  # the most recently used one stands last
        if len(self._captured) > MOST:
            self._captured.pop(next(iter(self._captured)))
        return captured

    def _new(self, step: Step, inputs: Sequence[Tensor]) -> Captured:
        before, static = self._counter.counted, tuple(one.clone() for one in inputs)
        graph, outputs, calls = self._capture(step, static)
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
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, step: Step, inputs: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...], int]:
        """Call the step a few times beside the main stream, then capture it."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = step(*inputs)
        return graph, outputs, WARM_UP + 1
