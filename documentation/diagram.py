"""Graphs as SVG pictures, without the arrows that others imply: light and dark, and nothing fetched from elsewhere."""

from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter
from html import escape

from documentation.layers import Edge, Layout, layout

_CHARACTER, _HEIGHT, _BETWEEN, _ROW, _MARGIN = 7.3, 26, 44, 36, 12
"""Pixels: a character of a label, a box, the room between layers, a row, and around the picture."""
_STYLE = """\
  <style>
    rect { fill: #f3f5fb; stroke: #4a5fa5; } path { fill: none; stroke: #8a93ad; stroke-width: 1.3; }
    marker path { fill: #8a93ad; stroke: none; } text { fill: #1d2433; font: 13px system-ui, sans-serif; }
    @media (prefers-color-scheme: dark) {
      rect { fill: #232a3d; stroke: #8ea2e8; } path { stroke: #76809e; } marker path { fill: #76809e; }
      text { fill: #e6e9f2; }
    }
  </style>
  <defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">
    <path d="M0 0 8 4 0 8z"/></marker></defs>
"""


def picture(edges: Collection[Edge], *, title: str) -> str:
    """A graph from left to right as SVG, without the arrows that others imply; always the same.

    Args:
        edges: of a graph without cycles.
        title: what it shows, for those who do not see it.

    Raises:
        graphlib.CycleError: there is a cycle.
    """
    laid = layout(reduced(edges))
    columns = _columns(laid)
    width = max(left + wide for left, wide in columns.values()) + _MARGIN
    height = (max(laid.across.values()) + 1) * _ROW + 2 * _MARGIN - (_ROW - _HEIGHT)
    shapes = [_arrow(way, laid, columns) for way in laid.ways.values()]
    shapes += [_box(name, laid, columns) for layer in laid.layers for name in layer if name in _nodes(laid)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" role="img" aria-label="{escape(title)}">\n'
        f"  <title>{escape(title)}</title>\n{_STYLE}" + "".join(f"  {shape}\n" for shape in shapes) + "</svg>\n"
    )


def _nodes(laid: Layout) -> set[str]:
    return {name for edge in laid.ways for name in edge}


def _columns(laid: Layout) -> dict[str, tuple[float, float]]:
    """Left edge and width of the layer of each name."""
    nodes, left, columns = _nodes(laid), float(_MARGIN), dict[str, tuple[float, float]]()
    for layer in laid.layers:
        wide = max((len(name) * _CHARACTER + 18 for name in layer if name in nodes), default=0)
        columns |= {name: (left, wide) for name in layer}
        left += wide + _BETWEEN
    return columns


def _box(name: str, laid: Layout, columns: Mapping[str, tuple[float, float]]) -> str:
    left, wide = columns[name]
    top = _MARGIN + laid.across[name] * _ROW
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{left + wide / 2:.1f}" y="{top + 17.5:.1f}" text-anchor="middle">{escape(name)}</text>'
    )


def _arrow(way: tuple[str, ...], laid: Layout, columns: Mapping[str, tuple[float, float]]) -> str:
    """A smooth line from the right of its start, through its bends, to the left of its end."""
    middle = {name: _MARGIN + laid.across[name] * _ROW + _HEIGHT / 2 for name in way}
    x, y = sum(columns[way[0]]), middle[way[0]]
    drawn = f"M{x:.1f} {y:.1f}"
    for name in way[1:]:
        left, wide = columns[name]
        half = (left + x) / 2
        drawn += f"C{half:.1f} {y:.1f} {half:.1f} {middle[name]:.1f} {left:.1f} {middle[name]:.1f}"
        if name != way[-1]:
            drawn += f"H{left + wide:.1f}"
        x, y = left + wide, middle[name]
    return f'<path d="{drawn}" marker-end="url(#tip)"/>'


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
