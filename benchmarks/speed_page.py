"""The tables and the picture of a page on speed, written from the csv beside it."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from benchmarks.speed_rows import Row
from deqpipe.errors import UserError
from deqpipe.reporting.figures.plotting import BLUE, GREY, ORANGE
from deqpipe.results.records import write_text

HEADER = (
    "| operation | | times as fast | images/s | f-evaluations per image | MiB | share of f | if f alone took time "
    "| difference |"
)
HALF = "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.dpi": 160,
}


def write(page: Path, rows: Sequence[Row]) -> None:
    """Put tables and picture into a page.

    Raises:
        UserError: the page has no place for them.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    picture(rows).savefig(page.with_suffix(".png"), metadata={"Software": None})
    put(page, "speed", [f"![How many times as fast]({page.with_suffix('.png').name})", *tables(rows)])


def put(page: Path, place: str, paragraphs: Sequence[str]) -> None:
    """Write paragraphs between the two comments of a place in a page; a page that is not there is made.

    Raises:
        UserError: the page has no such place.
    """
    opening, closing = f"<!-- {place} -->", f"<!-- /{place} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else f"{opening}\n{closing}\n"
    before, opened, rest = text.partition(opening)
    _, closed, after = rest.partition(closing)
    if not opened or not closed:
        raise UserError(f"{page} has no place for tables between {opening} and {closing}")
    body = "\n\n".join(paragraphs)
    write_text(page, f"{before}{opening}\n\n{body}\n\n{closing}{after}")


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """One table per model and comparison."""
    for (model, against), group in _groups(rows):
        lines = [_line(row) for row in group]
        yield "\n".join([f"### {model}, against {_side(against)}", "", *_conditions(group), "", HEADER, HALF, *lines])


def _groups(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    """Rows by model and comparison, in the order in which these first appear."""
    order = list(dict.fromkeys((row.model, row.against) for row in rows))
    for key in order:
        yield key, [row for row in rows if (row.model, row.against) == key]


def _side(name: str) -> str:
    return "the plain way" if name == "plain" else name


def _conditions(rows: Sequence[Row]) -> list[str]:
    """In words; a line more for every set of them that differs."""
    described = dict.fromkeys(
        f"{row.batch} images at once, {row.precision}, keys of the {row.protocol}, {row.threads} thread(s)"
        f"{'' if row.clock == 'wall' else ', seconds of computing'}; {row.device}; torch {row.torch}; {row.date}."
        for row in rows
    )
    load = max(row.load for row in rows)
    return [*described, f"Fewest pairs: {min(row.pairs for row in rows)}. Highest load before one: {load:.1f}."]


def _line(row: Row) -> str:
    first = row.side == row.against
    evaluations = f"{row.forward:.4g} + {row.backward_input:.4g} + {row.backward_weights:.4g}"
    return (
        f"| {'' if not first else row.operation} | {row.side} "
        f"| {'1' if first else f'**{row.ratio:.2f}** ({row.ratio_low:.2f} to {row.ratio_high:.2f})'} "
        f"| {row.rate:.3g} | {evaluations} | {'' if math.isnan(row.peak) else f'{row.peak / 2**20:.0f}'} "
        f"| {row.share:.0%} | {'' if not row.share or first else f'{row.bound:.2f}'} | {_difference(row)} |"
    )


def _difference(row: Row) -> str:
    if row.side == row.against:
        return ""
    if row.same_bits:
        return "none"
    return "other keys" if math.isnan(row.difference) else f"{row.difference:.0e}"


def picture(rows: Sequence[Row]) -> Figure:
    """Ratios as bars, with the range over pairs, one panel per model and comparison."""
    groups = [(key, [row for row in group if row.side != row.against]) for key, group in _groups(rows)]
    heights = [len(group) for _, group in groups]
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(7.0, 0.9 * len(groups) + 0.22 * sum(heights)), layout="constrained")
        panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)
        for (axis,), ((model, against), group) in zip(panels, groups, strict=True):
            _bars(axis, group)
            axis.set_title(f"{model}, against {_side(against)}", loc="left", fontsize=8)
        panels[-1][0].set_xlabel("times as fast: median of pairs, and their range")
    return figure


def _bars(axis: Any, rows: Sequence[Row]) -> None:
    names = [row.operation if row.side == "ours" else f"{row.operation}\n({row.side})" for row in rows]
    low = [row.ratio - row.ratio_low for row in rows]
    high = [row.ratio_high - row.ratio for row in rows]
    colours = [ORANGE if row.operation.startswith("training") else BLUE for row in rows]
    axis.barh(range(len(rows)), [row.ratio for row in rows], xerr=(low, high), color=colours, ecolor=GREY, height=0.7)
    axis.axvline(1, color=GREY, linewidth=0.8)
    axis.set_yticks(range(len(rows)), names, fontsize=7)
    axis.invert_yaxis()
