"""The picture at the top: every decision of Table 1, clean and under attack, with intervals and the paper's numbers."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deqpipe.analysis.decision import Decision, all_decisions
from deqpipe.config import Config
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Cells, Table, by_name, show
from deqpipe.reporting.figures import plotting
from deqpipe.reporting.figures.described import Overview
from deqpipe.reporting.tables.table1 import AA, ALL_PER_IMAGE, CLEAN, PGD
from deqpipe.reporting.tables.table11 import UNION
from deqpipe.results import records
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import ENTROPY, ZERO_STEPS

NAME = "overview"
ENDINGS = (".png", ".svg")


@dataclass(frozen=True)
class Theme:
    """The colours of everything that is no series: ground, text, lines of the grid."""

    ground: str
    ink: str
    soft: str
    lines: str


@dataclass(frozen=True)
class Series:
    """One kind of mark: which column of Table 1, what it is called, and how it looks (on white, on black)."""

    column: str
    label: str
    colours: tuple[str, str]
    marker: str


LIGHT = Theme(ground="#ffffff", ink="#1c1e21", soft="#5b6169", lines="#dddddd")
DARK = Theme(ground="#15171a", ink="#e7e9ec", soft="#a3aab4", lines="#343940")
SERIES = (
    Series(CLEAN, "clean images", ("#6b7077", "#a3aab4"), "o"),
    Series(PGD, "strongest attack of the grid", (plotting.BLUE, plotting.SKY), "s"),
    Series(AA, "AutoAttack", ("#b77c00", plotting.ORANGE), "^"),
    Series(ALL_PER_IMAGE, "all attacks, per image", (plotting.VERMILION, "#ff8a4c"), "D"),
)
TOGETHER = Series(UNION, "union with attacks that know it", (plotting.VERMILION, "#ff8a4c"), "D")
"""In place of the last one where there is a suite, whose union is the stricter figure."""
_CONTROL = "own control, R = 0"
_CONTROLLED = (PGD, UNION)
"""The kinds of marks on whose line the control's own number is drawn: the two that a gain is read off."""
_STEP = 0.2  # rows stand 1 apart: so far apart stand the marks of one row


def shown(tables: Mapping[int, Table]) -> Cells:
    """The numbers of the picture, all of the same images: Table 11's where it has the union, else Table 1's.

    The paper's are Table 1's.
    """
    first = by_name(tables[1].cells)
    union = by_name(tables[11].cells) if 11 in tables else {}
    if not any(column == UNION for _, column in union):
        return first
    drawn = {kind.column for kind in (*SERIES[:-1], TOGETHER)}
    papers = {name: cell.paper for name, cell in first.items()}
    return {name: replace(cell, paper=papers.get(name)) for name, cell in union.items() if name[1] in drawn}


def series(cells: Cells) -> tuple[Series, ...]:
    """The kinds of marks."""
    union = any(column == UNION for _, column in cells)
    return (*SERIES[:-1], TOGETHER) if union else SERIES


def write(cells: Cells, config: Config, stem: Path) -> Overview:
    """Write the picture of some numbers as png and svg; its words."""
    with plotting.style():
        figure = draw(cells, config, LIGHT)
        with records.atomic(stem.with_suffix(".png")) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
        drawing = _as_svg(figure)
    records.write_text(stem.with_suffix(".svg"), drawing)
    return Overview(_caption(cells, config), _alt(cells, config))


def svg(cells: Cells, config: Config, theme: Theme) -> str:
    """The picture as svg, the same whenever it is drawn."""
    with plotting.style():
        return _as_svg(draw(cells, config, theme))


def _as_svg(figure: Figure) -> str:
    text = io.StringIO()
    with matplotlib.style.context({"svg.hashsalt": NAME}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def draw(cells: Cells, config: Config, theme: Theme) -> Figure:
    """One row for each decision, one mark for each series that has a number; hollow ones are the paper's."""
    rows = list(_rows(cells, config))
    figure = Figure(figsize=(5.2, 1.25 + 0.45 * (len(rows) + 1)), layout="constrained", facecolor=theme.ground)
    axes = figure.add_subplot(facecolor=theme.ground)
    dark = theme == DARK
    for place, (decision, _) in enumerate(rows):
        _marks(axes, decision, cells, place=_place(rows, place), dark=dark, theme=theme)
    _frame(axes, rows, theme)
    figure.legend(
        handles=_key(cells, dark=dark, theme=theme), loc="outside upper center", ncols=2, frameon=False,
        labelcolor=theme.ink, columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip
    return figure


def _rows(cells: Cells, config: Config) -> Iterator[tuple[Decision, str]]:
    """The decisions with numbers, framework by framework, and what they are called."""
    for framework in vocabulary.FRAMEWORKS:
        networks = [
            Decision(model, "plain")
            for model in vocabulary.FEEDFORWARD
            if vocabulary.MODELS[model].framework == framework
        ]
        for one in (*networks, *all_decisions(framework)):
            if any((one.row, kind.column) in cells for kind in series(cells)):
                network = vocabulary.MODELS[one.model].architecture.method
                yield one, conditions.architecture(config, one.model) if network else one.method


def _place(rows: Sequence[tuple[Decision, str]], number: int) -> float:
    """From the top, with some air between frameworks."""
    before = [decision.framework for decision, _ in rows[: number + 1]]
    return number + 0.75 * (len(dict.fromkeys(before)) - 1)


def _marks(axes: Axes, decision: Decision, cells: Cells, *, place: float, dark: bool, theme: Theme) -> None:
    kinds = series(cells)
    for number, kind in enumerate(kinds):
        cell, height = cells.get((decision.row, kind.column)), place + _STEP * (number - (len(kinds) - 1) / 2)
        if cell is None:
            continue
        colour = kind.colours[dark]
        if cell.low is not None and cell.high is not None:
            axes.plot([cell.low, cell.high], [height] * 2, color=colour, linewidth=1.6, alpha=0.55, zorder=2)
        if cell.here is not None:
            axes.plot([cell.here], [height], color=colour, marker=kind.marker, markersize=5.2, zorder=4)
        if cell.paper is not None:
            axes.plot(
                [cell.paper], [height], color=colour, marker=kind.marker, markersize=5.2, markerfacecolor="none",
                markeredgewidth=0.9, linestyle="none", zorder=5,
            )  # fmt: skip
        control = cells.get((Decision(decision.model, ZERO_STEPS.name).row, kind.column))
        if decision.defence == ENTROPY.name and kind.column in _CONTROLLED and control and control.here is not None:
            axes.plot(
                [control.here], [height], color=theme.ink, marker="|", markersize=8, markeredgewidth=1.6, zorder=5
            )


def _frame(axes: Axes, rows: Sequence[tuple[Decision, str]], theme: Theme) -> None:
    """Names on the left, framework above its rows, per cent below."""
    places = [_place(rows, number) for number in range(len(rows))]
    axes.set_yticks(places, [name for _, name in rows])
    axes.set_ylim(places[-1] + 0.6, -1.1)
    for number, (decision, _) in enumerate(rows):
        if number == 0 or decision.framework != rows[number - 1][0].framework:
            axes.text(
                0,
                places[number] - 0.56,
                decision.framework,
                fontweight="bold",
                color=theme.ink,
                va="bottom",
                fontsize=9,
            )
    axes.set_xlim(-2, 102)
    axes.set_xlabel("right answers (%)", color=theme.ink)
    axes.tick_params(colors=theme.ink, length=0)
    axes.grid(axis="x", color=theme.lines)
    axes.grid(visible=False, axis="y")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _key(cells: Cells, *, dark: bool, theme: Theme) -> list[Line2D]:
    """What the marks mean; only those that there are."""
    columns = {column for (_, column), cell in cells.items() if cell.here is not None}
    handles = [
        Line2D([], [], color=one.colours[dark], marker=one.marker, label=one.label, linestyle="none", markersize=5.2)
        for one in series(cells)
        if one.column in columns
    ]
    if _controlled(cells):
        handles.append(
            Line2D(
                [], [], color=theme.ink, marker="|", label=_CONTROL, linestyle="none", markersize=9, markeredgewidth=1.6
            )
        )
    hollow = Line2D(
        [], [], color=theme.soft, marker="s", markerfacecolor="none", label="hollow: the paper",
        linestyle="none", markersize=5.2,
    )  # fmt: skip
    return [*handles, hollow]


def _controlled(cells: Cells) -> bool:
    """Whether there are controls of Sec. 3.2."""
    rows = [Decision(model, ZERO_STEPS.name).row for model in vocabulary.DEQS]
    return any((row, column) in cells for row in rows for column in _CONTROLLED)


def _caption(cells: Cells, config: Config) -> str:
    context = "" if conditions.comparable(config) else ", of another experiment than this one, as context"
    union = series(cells)[-1] == TOGETHER
    said = (
        f"Right answers on {_images(cells, config)} test images of {conditions.data(config)}, with "
        f"{100 * config.statistics.confidence:g} % intervals.",
        "Square: the lowest mean accuracy over the attacks of the grid, as the paper counts (ResNets: one attack).",
        _diamond(cells),
        _bars(cells),
        f"Hollow: the paper's numbers{context}.",
        f"All numbers stand in Table {11 if union else 1}.",
    )
    return " ".join(filter(None, said))


def _images(cells: Cells, config: Config) -> str:
    """How many, the same for every mark."""
    counted = {cell.n for (_, column), cell in cells.items() if column == UNION and cell.n}
    return f"the first {counted.pop():,}" if len(counted) == 1 else f"{config.evaluation.images:,}"


def _bars(cells: Cells) -> str:
    """What the control's numbers are, on the lines that have them."""
    if not _controlled(cells):
        return ""
    control = "the same weights at the same state without Sec. 3.2's descent"
    if not any(column == UNION for _, column in cells):
        return f"Bar, on the square's line: {control}."
    return f"Bars: {control}, each by the figure of the mark on its line; AutoAttack was not run on it."


def _diamond(cells: Cells) -> str:
    """What the strictest figure is, where there is one."""
    column = series(cells)[-1].column
    counted = [cell.n for (_, name), cell in cells.items() if name == column]
    if not counted:
        return ""
    if column == ALL_PER_IMAGE:
        return "Diamond: an image counts only if it withstands every attack, the stricter figure."
    return (
        "Diamond: images that withstand every attack, those included that know the decision: what the other marks are "
        "worth."
    )


def _alt(cells: Cells, config: Config) -> str:
    said = [
        f"{decision.row} {show(clean).value} clean, {show(worst).value} under the strongest attack"
        for decision, _ in _rows(cells, config)
        if (clean := cells.get((decision.row, CLEAN))) and (worst := cells.get((decision.row, PGD)))
    ]
    return f"Dot plot of right answers in per cent, one row for each trained model and defence: {'; '.join(said)}."
