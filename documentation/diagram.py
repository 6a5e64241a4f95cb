"""Graphs as Mermaid diagrams, without the arrows that others imply."""

from collections.abc import Collection
from graphlib import TopologicalSorter

Edge = tuple[str, str]


def flowchart(edges: Collection[Edge], *, direction: str) -> str:
    """A picture of a graph for a Markdown page: always in the same order, without the arrows that others imply.

    Args:
        edges: of a graph without cycles.
        direction: LR (from left to right) or TD (from top to bottom).

    Raises:
        graphlib.CycleError: there is a cycle.
    """
    lines = "".join(f"    {before} --> {after}\n" for before, after in reduced(edges))
    return f"```mermaid\nflowchart {direction}\n{lines}```\n"


def reduced(edges: Collection[Edge]) -> list[Edge]:
    """The arrows that no longer way implies, sorted (the transitive reduction).

    Raises:
        graphlib.CycleError: there is a cycle, so that there is more than one such set.
    """
    _refuse_cycles(edges)
    return sorted(edge for edge in set(edges) if not _is_implied(edge, edges))


def _refuse_cycles(edges: Collection[Edge]) -> None:
    graph: TopologicalSorter[str] = TopologicalSorter()
    for before, after in edges:
        graph.add(after, before)
    graph.prepare()


def _is_implied(edge: Edge, edges: Collection[Edge]) -> bool:
    """Whether a longer way leads from one end of an edge to the other."""
    start, end = edge
    reached, waiting = set(), [after for before, after in edges if before == start and after != end]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(after for before, after in edges if before == node)
    return end in reached
