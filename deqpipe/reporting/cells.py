"""A table as data: its numbers, what is printed of them, and how it is laid out."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import InstanceOf

from deqpipe.reporting.quantities import ACCURACY, Quantity
from deqpipe.statistics.intervals import Estimate, Term

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def no_formula(text: str) -> str:
    """A text of a csv, with an apostrophe before what spreadsheets would compute: classes may be called =1+1."""
    return f"'{text}" if text.startswith(_FORMULA) else text


@dataclass(frozen=True)
class OverSeeds:
    """A number over several seeds.

    Attributes:
        values: by seed, of those that have the number.
        mean: of them.
        deviation: their standard deviation, divided by one less than their number.
        lowest, highest: of them.
    """

    values: tuple[tuple[int, float], ...]
    mean: float
    deviation: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: tuple[tuple[int, float], ...]) -> "OverSeeds | None":
        """What values by seed amount to; None: there are not two of them."""
        if len(values) < 2:
            return None
        alone = [value for _, value in values]
        return cls(values, statistics.fmean(alone), statistics.stdev(alone), min(alone), max(alone))


@dataclass(frozen=True)
class Cell:
    """One row of the csv, in the paper's unit (percent, points, or a count).

    Attributes:
        here: our value; None where there is none.
        low, high: its interval.
        n: images behind it.
        paper: the paper's number.
        difference: here minus paper, where the two may be compared.
        note: what else belongs to the number.
        quantity: what it is a number of.
        over_seeds: the same over all seeds, where there are several.
        answers: what it was counted from; not written.
    """

    row: str
    column: str
    here: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    paper: float | None = None
    difference: float | None = None
    note: str = ""
    quantity: Quantity = ACCURACY
    over_seeds: OverSeeds | None = None
    answers: tuple[InstanceOf[Term], ...] = field(default=(), compare=False, repr=False, metadata={"written": False})

    @property
    def spread(self) -> tuple[float, float] | None:
        """Lowest and highest value over seeds, where there are several."""
        return None if self.over_seeds is None else (self.over_seeds.lowest, self.over_seeds.highest)

    @property
    def extent(self) -> tuple[float, float] | None:
        """The interval, which is of the first seed, widened to the values of all seeds; None where there is none."""
        if self.low is None or self.high is None:
            return None
        ends = (self.low, self.high, *(self.spread or ()))
        return min(ends), max(ends)


@dataclass(frozen=True)
class Shown:
    """What is printed of a cell; empty parts are left out."""

    value: str
    interval: str = ""
    paper: str = ""
    difference: str = ""
    spread: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Line:
    """A printed row: its labels, and what stands under each column."""

    labels: tuple[str, ...]
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Block:
    """A rectangle of a table, with headings of its own."""

    stub: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """A table: what was counted (cells), how it is laid out (blocks), and what must be said with it.

    Attributes:
        notes: what belongs to these numbers alone.
        conditions: what all tables of a run share.
        warnings: signs that its numbers are worth nothing, as sentences: they stand at the top of the report.
    """

    number: int
    title: str
    caption: str
    blocks: tuple[Block, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    conditions: tuple[str, ...]
    warnings: tuple[str, ...] = ()


Cells: TypeAlias = Mapping[tuple[str, str], Cell]
"""Of one table, by row and column."""


def by_name(cells: Iterable[Cell]) -> Cells:
    """Cells of one table by row and column.

    Raises:
        ValueError: two have the same place.
    """
    placed: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        if placed.setdefault((cell.row, cell.column), cell) is not cell:
            raise ValueError(f"two cells of {cell.row}, {cell.column}")
    return placed


EMPTY = Shown(DASH)
LEGEND = "value [interval] (paper; Δ difference) {over seeds}"


def percent(
    row: str,
    column: str,
    estimate: Estimate,
    *,
    paper: float | None = None,
    note: str = "",
    quantity: Quantity = ACCURACY,
) -> Cell:
    """A cell that holds a share or a difference of shares, in percent or points."""
    value, low, high = (100 * number for number in (estimate.value, estimate.low, estimate.high))
    return Cell(
        row, column, value, low, high, estimate.n, paper, note=note, quantity=quantity, answers=estimate.answers
    )


def number(
    row: str, column: str, estimate: Estimate, quantity: Quantity, *, paper: float | None = None, note: str = ""
) -> Cell:
    """A cell that holds no share, in the unit of the estimate."""
    return Cell(
        row, column, estimate.value, estimate.low, estimate.high, estimate.n, paper, note=note, quantity=quantity
    )


@dataclass(frozen=True)
class Digits:
    """Decimals of what is printed of a cell."""

    value: int
    interval: int
    paper: int


def by_size(value: float, *, paper: int) -> Digits:
    """Three significant digits of a positive number, in its interval as well."""
    decimals = max(0, 2 - math.floor(math.log10(value)))
    return Digits(value=decimals, interval=decimals, paper=paper)


def _of_percent(cell: Cell) -> Digits:
    """As many as the number of images can bear."""
    digits = 2 if (cell.n or 0) >= 10_000 else 1
    return Digits(value=digits, interval=digits - 1, paper=2)


def show(cell: Cell, *, signed: bool = False, strong: bool = False, digits: Digits | None = None) -> Shown:
    """A cell as it is printed; without `digits` as percent or points."""
    digits = digits or _of_percent(cell)
    paper = "" if cell.paper is None else _minus(f"{cell.paper:.{digits.paper}f}")
    if cell.here is None:
        return Shown(DASH, paper=paper)
    sign = "+" if signed else ""
    interval = spread = difference = ""
    if cell.low is not None and cell.high is not None:
        interval = _span(cell.low, cell.high, sign=sign, digits=digits.interval)
    if cell.spread is not None:
        spread = _span(*cell.spread, sign=sign, digits=digits.value)
    if cell.difference is not None:
        difference = _minus(f"{cell.difference:+.{digits.paper}f}")
    value = _zero_unsigned(_minus(f"{cell.here:{sign},.{digits.value}f}"))
    return Shown(value, interval, paper, difference, spread, strong)


def _span(low: float, high: float, *, sign: str, digits: int) -> str:
    ends = (_zero_unsigned(_minus(f"{end:{sign},.{digits}f}")) for end in (low, high))
    return (" to " if sign else DASH).join(ends)


def _zero_unsigned(number: str) -> str:
    digits = number.lstrip(f"+{MINUS}")
    return digits if float(digits.replace(",", "")) == 0 else number


def _minus(number: str) -> str:
    return number.replace("-", MINUS)
