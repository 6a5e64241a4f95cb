"""How figures look, and how they are saved so that equal data give equal files."""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager, ft2font
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from deqpipe.analysis.reading import Source
from deqpipe.results import records

# Okabe and Ito: told apart with every common kind of colour blindness, and in print.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY = "#555555"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_OF_WINDOWS = ("backend", "backend_fallback", "interactive", "toolbar")  # we open none; others in this process may
_PDF_METADATA = ("CreationDate", "Producer", "Creator")  # what matplotlib would fill in, and what changes by itself
MARKERS = ("o", "s", "^", "D", "v", "P")
_WIDTH = 5.2  # inches: text of 9 points is still read where the figure is as wide as a phone

_FONT = "DejaVu Sans"  # comes with matplotlib: figures are the same everywhere
_STYLE: dict[str, Any] = {
    "font.family": _FONT,
    "font.size": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "pdf.fonttype": 42,
    "figure.dpi": 240,
}


@dataclass(frozen=True)
class Drawing:
    """A figure, the numbers in it, and the words that go with it.

    Attributes:
        caption: what is drawn, and how to read it.
        alt: what it shows, for those who cannot see it.
        columns, rows: the csv.
        notes: what belongs to these numbers alone.
        conditions: under which they were made.
        sources: the files behind it.
    """

    caption: str
    alt: str
    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | bool | None, ...], ...]
    notes: tuple[str, ...]
    conditions: tuple[str, ...]
    sources: tuple[Source, ...]


@contextmanager
def style() -> Iterator[None]:
    """Our settings, whatever the user's matplotlibrc says.

    Not by `matplotlib.style`, which reads the styles of the user, and fails on one that is damaged.
    """
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key not in _OF_WINDOWS}
    ours: Any = {**defaults, **_STYLE}  # keys are of a closed set by their types
    with matplotlib.rc_context(ours):
        yield


def plain(text: str, otherwise: str) -> str:
    r"""A name for matplotlib: a dollar in it starts no formula.

    Args:
        text: the name, as somebody gave it.
        otherwise: what to draw where the font lacks a character of it.
    """
    drawable = all(one in _characters() for one in text)
    return text.replace("$", r"\$") if drawable else otherwise


@functools.cache
def _characters() -> frozenset[str]:
    """What the font can draw."""
    font = ft2font.FT2Font(font_manager.findfont(_FONT))
    return frozenset(map(chr, font.get_charmap()))


def new(height: float = 3.4) -> tuple[Figure, Axes]:
    """An empty figure of one panel, in inches."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def panels(heights: Sequence[float]) -> tuple[Figure, tuple[SubFigure, ...]]:
    """A figure of panels one below the other, each as wide as a figure alone, so that it reads as well on a phone."""
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    return figure, tuple(parts[:, 0])


def headline(part: SubFigure, letter: str, text: str) -> None:
    """The letter of a panel, and what it is of."""
    part.suptitle(f"({letter}) {text}", x=0.01, ha="left", fontsize=9.5, fontweight="bold")


def legend_above(figure: Figure, axes: Axes, *, columns: int) -> None:
    """A legend outside the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def percent_axis(axes: Axes, values: Iterable[float], *, least_span: float = 20.0) -> None:
    """Limits that show all values (in percent) with some air, within 0 and 100, and never less than `least_span`."""
    low, high = min(values := list(values)), max(values)
    middle, half = (low + high) / 2, max(1.16 * (high - low), least_span) / 2
    bottom = max(-2.0, min(middle - half, 102 - 2 * half))
    axes.set_ylim(bottom, min(102.0, bottom + 2 * half))


_ROW = 0.19
"""Inches of a row of a legend."""
_LONG = 20
"""Letters of a label of which three do not stand side by side."""


def taller(height: float, labels: Sequence[str], *, columns: int, most: int) -> float:
    """The height of a panel whose legend may have more entries than the paper's methods.

    Args:
        height: with as many as there are rows for.
        labels: of the entries.
        columns: of the legend where its labels are short.
        most: rows that the height has room for.
    """
    rows = math.ceil(len(labels) / _columns(labels, columns))
    return height + _ROW * max(0, rows - most)


def _columns(labels: Sequence[str], columns: int) -> int:
    return min(columns, 2) if any(len(label) > _LONG for label in labels) else columns


def key_above(axes: Axes, *, columns: int, handles: Sequence[Artist] | None = None) -> None:
    """A legend right above the axes of a panel, below its headline; of long labels in two columns."""
    entries = axes.get_legend_handles_labels()[0] if handles is None else handles
    columns = _columns([str(entry.get_label()) for entry in entries], columns)
    axes.legend(handles=entries, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False)


def logarithmic(axes: Axes, low: float, high: float) -> None:
    """A logarithmic horizontal axis from `low` to `high` (both above zero) with plain numbers at its ticks."""
    axes.set_xscale("log")
    decades = math.log10(high / low)
    axes.set_xlim(low / 10 ** (0.04 * decades), high * 10 ** (0.04 * decades))
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def whole_numbers(axes: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers only."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def save(figure: Figure, stem: Path) -> None:
    """Write png and pdf whole, without dates or versions in them."""
    for ending, metadata in ((".png", {"Software": None}), (".pdf", dict.fromkeys(_PDF_METADATA))):
        with records.atomic(stem.with_suffix(ending)) as temporary:
            figure.savefig(temporary, format=ending[1:], metadata=metadata)
