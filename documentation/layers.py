"""Graphs in layers, as Sugiyama et al. (1981) lay them out: every arrow leads to a later layer, with few crossings.

What Graphviz's dot does, for graphs of some dozen nodes, and so that a committed picture is the same on every machine.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from statistics import fmean
from typing import TypeAlias

Edge: TypeAlias = tuple[str, str]
Layers: TypeAlias = tuple[tuple[str, ...], ...]
_SWEEPS = 24
_GAP = 1.0
"""Between neighbours of a layer."""


@dataclass(frozen=True)
class Layout:
    """Where nodes lie, and the way of every arrow.

    Attributes:
        layers: names in order, bends of arrows among them (they are no nodes of the graph).
        across: where each lies across its layer, in units of a node.
        ways: per arrow the names that it passes, ends included.
    """

    layers: Layers
    across: Mapping[str, float]
    ways: Mapping[Edge, tuple[str, ...]]


def layout(edges: Collection[Edge]) -> Layout:
    """The layout of a graph without cycles; always the same for the same arrows.

    Raises:
        graphlib.CycleError: there is a cycle.
    """
    edges = sorted(edges)
    depth = _depths(edges)
    ways = {edge: _way(edge, depth) for edge in edges}
    steps = [pair for way in ways.values() for pair in pairwise(way)]
    layers = _ordered(_by_depth(ways, depth), steps)
    return Layout(layers, _placed(layers, steps), ways)


def _depths(edges: Sequence[Edge]) -> dict[str, int]:
    """The layer of each node: behind all before it, and sources as late as what they lead to allows."""
    graph: TopologicalSorter[str] = TopologicalSorter()
    for before, after in edges:
        graph.add(after, before)
    order = list(graph.static_order())
    depth = dict.fromkeys(order, 0)
    for node in order:
        depth[node] = max((depth[before] + 1 for before, after in edges if after == node), default=0)
    for node in reversed(order):
        if all(after != node for _, after in edges):
            depth[node] = min(depth[after] for before, after in edges if before == node) - 1
    return depth


def _way(edge: Edge, depth: Mapping[str, int]) -> tuple[str, ...]:
    """The ends of an arrow, and a bend in every layer that it passes."""
    start, end = edge
    return (start, *(f"{start}>{end}@{layer}" for layer in range(depth[start] + 1, depth[end])), end)


def _by_depth(ways: Mapping[Edge, tuple[str, ...]], depth: Mapping[str, int]) -> Layers:
    placed: dict[str, int] = {}
    for (start, _), way in ways.items():
        placed |= {name: depth[start] + number for number, name in enumerate(way)}
    placed |= {name: depth[name] for name in depth}
    return tuple(tuple(sorted(n for n in placed if placed[n] == layer)) for layer in range(max(placed.values()) + 1))


def _ordered(layers: Layers, steps: Sequence[Edge]) -> Layers:
    """The layers with the fewest crossings that sorting by the mean of neighbours comes by."""
    best, current = layers, layers
    for sweep in range(_SWEEPS):
        current = _swept(current, steps, forwards=sweep % 2 == 0)
        if crossings(current, steps) < crossings(best, steps):
            best = current
    return best


def _swept(layers: Layers, steps: Sequence[Edge], *, forwards: bool) -> Layers:
    done = list(layers)
    pairs = [step if forwards else step[::-1] for step in steps]
    numbers = range(1, len(done)) if forwards else range(len(done) - 2, -1, -1)
    for number in numbers:
        fixed = {name: place for place, name in enumerate(done[number - 1 if forwards else number + 1])}
        here = {name: place for place, name in enumerate(done[number])}
        mean = {name: _mean([fixed[a] for a, b in pairs if b == name and a in fixed], here[name]) for name in here}
        done[number] = tuple(sorted(here, key=lambda name: (mean[name], here[name])))
    return tuple(done)


def _mean(places: Sequence[float], otherwise: float) -> float:
    return fmean(places) if places else otherwise


def crossings(layers: Layers, steps: Sequence[Edge]) -> int:
    """How many pairs of arrows between neighbouring layers cross."""
    place = {name: number for layer in layers for number, name in enumerate(layer)}
    count = 0
    for layer in layers:
        between = [(place[a], place[b]) for a, b in steps if a in layer]
        count += sum((a - c) * (b - d) < 0 for number, (a, b) in enumerate(between) for c, d in between[:number])
    return count


def _placed(layers: Layers, steps: Sequence[Edge]) -> dict[str, float]:
    """Each near the mean of its neighbours, in the order of its layer, at least a gap apart."""
    across = {name: place - len(layer) / 2 for layer in layers for place, name in enumerate(layer)}
    near: dict[str, list[str]] = {name: [] for name in across}
    for a, b in steps:
        near[a].append(b)
        near[b].append(a)
    for _ in range(_SWEEPS):
        for layer in layers:
            wanted = [_mean([across[other] for other in near[name]], across[name]) for name in layer]
            across |= dict(zip(layer, _apart(wanted), strict=True))
    least = min(across.values())
    return {name: round(place - least, 2) for name, place in across.items()}


def _apart(wanted: Sequence[float]) -> list[float]:
    """The places nearest to those wanted, in their order and a gap apart (isotonic regression of what is left over)."""
    blocks: list[list[float]] = []
    for number, place in enumerate(wanted):
        blocks.append([place - number * _GAP])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    level = [fmean(block) for block in blocks for _ in block]
    return [place + number * _GAP for number, place in enumerate(level)]
