"""The numbers of two runs, cell by cell, with their differences and how sure these are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from deqpipe.errors import UserError
from deqpipe.reporting.comparison.settings import Setting, differences
from deqpipe.reporting.comparison.sides import CellName, Side
from deqpipe.results.numbers import Number
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Answers, Bootstrap, Estimate
from deqpipe.workflow import specs

Way: TypeAlias = Literal["paired", "unpaired", "none"]
"""Paired by image; from the two intervals alone; or the difference has no interval."""


@dataclass(frozen=True)
class OverSeeds:
    """The difference of two means over seeds.

    Attributes:
        first, second: the means.
        seeds: how many each is of.
        low, high: interval of first minus second, by Welch's t; None: values do not vary at all.
    """

    first: float
    second: float
    seeds: tuple[int, int]
    low: float | None
    high: float | None

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves 0 out."""
        return _excludes_zero(self.low, self.high)


@dataclass(frozen=True)
class Compared:
    """A cell of two runs; the difference is the second minus the first, in the cell's unit.

    Attributes:
        first, second: the cells; None where a run does not have it.
        way: how the interval was made.
        difference, low, high: None where there is none.
        over_seeds: the same over seeds, where both runs have several.
        why: it was not paired although there are records of it, or has no interval although both cells have one.
    """

    first: Number | None
    second: Number | None
    way: Way = "none"
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    over_seeds: OverSeeds | None = None
    why: tuple[str, ...] = ()

    @property
    def cell(self) -> Number:
        """That of a run that has it."""
        one = self.first or self.second
        assert one is not None
        return one

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval of the difference leaves 0 out."""
        return _excludes_zero(self.low, self.high)

    @property
    def is_better(self) -> bool | None:
        """Whether the second run has the better number; None where that is no question."""
        better = self.cell.higher_is_better
        return None if better is None or not self.difference else (self.difference > 0) == better


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        names: of the runs.
        settings: that differ.
        cells: of all tables.
        level: of the intervals.
        paired: which cells could be compared image by image, or why none could.
    """

    names: tuple[str, str]
    settings: tuple[Setting, ...]
    cells: tuple[Compared, ...]
    level: float
    paired: str

    @property
    def in_both(self) -> tuple[Compared, ...]:
        """Cells that have a value in both runs."""
        return tuple(one for one in self.cells if one.difference is not None)

    @property
    def judged(self) -> tuple[Compared, ...]:
        """Cells whose difference has an interval."""
        return tuple(one for one in self.cells if one.way != "none")


def compare(first: Side, second: Side) -> Comparison:
    """Two runs side by side."""
    behind, words = _answers(first, second)
    bootstrap = _bootstrap(first, second)
    pairs = _pairs(first.numbers.cells, second.numbers.cells)
    return Comparison(
        names=(first.told, second.told),
        settings=differences(first.numbers.config, second.numbers.config),
        cells=tuple(_compared(one, other, behind, bootstrap) for one, other in pairs),
        level=bootstrap.confidence,
        paired=words,
    )


def _bootstrap(*sides: Side) -> Bootstrap:
    """How the runs' own intervals were made; where they differ, whichever run comes first, the more cautious way."""
    told = [side.numbers.config.get("statistics", {}) for side in sides]
    return Bootstrap(
        resamples=max(one.get("resamples", 2000) for one in told),
        confidence=max(one.get("confidence", 0.95) for one in told),
        seed=min(side.numbers.seeds[0] for side in sides),
    )


def _pairs(first: Sequence[Number], second: Sequence[Number]) -> list[tuple[Number | None, Number | None]]:
    """The cells of both, in the order of the first; those that the second alone has come last."""
    one, other = ({(cell.table, cell.row, cell.column): cell for cell in cells} for cells in (first, second))
    return [(one.get(name), other.get(name)) for name in dict.fromkeys((*one, *other))]


_Behind: TypeAlias = Mapping[tuple[int, CellName], tuple[Answers, Answers]]


def _answers(first: Side, second: Side) -> tuple[_Behind, str]:
    """What the cells of both were counted from, where they are of the same images; and what that came to, in words."""
    if first.folder is None or second.folder is None:
        return {}, "unpaired: a results.json holds no records of single images; give both folders to pair by image"
    if first.config is None or second.config is None:
        return {}, "unpaired: this deqpipe does not know every setting of these runs"
    here, there = first.images(), second.images()
    if here is None or there is None:
        return {}, "unpaired: the data set is not beside the results, so that nobody knows whether images are the same"
    if here != there or _data(first) != _data(second):
        told = " and ".join(f"{images:,} of data set {digest[:8]}" for digest, images in (here, there))
        return {}, f"unpaired: not the same images ({told})"
    return _together(first, second)


def _data(side: Side) -> str:
    assert side.config is not None
    return specs.fingerprint(specs.build("data", side.config))


def _together(first: Side, second: Side) -> tuple[_Behind, str]:
    """The answers of all tables whose records both have."""
    behind: dict[tuple[int, CellName], tuple[Answers, Answers]] = {}
    lacking = []
    theirs = {one.table for one in second.numbers.tables}
    for table in (one.table for one in first.numbers.tables if one.table in theirs):
        try:
            one, other = (side.answers(table, side.numbers.seeds[0]) for side in (first, second))
        except UserError as error:
            lacking.append(f"Table {table} is not ({error})")
            continue
        behind |= {(table, name): (one[name], other[name]) for name in one if one[name] and other.get(name)}
    words = "paired by image where a cell is an accuracy, or a difference of accuracies"
    return behind, "; ".join([words, *lacking])


def _compared(first: Number | None, second: Number | None, behind: _Behind, bootstrap: Bootstrap) -> Compared:
    alone = Compared(first, second)
    if first is None or second is None or first.value is None or second.value is None or first.unit != second.unit:
        return alone
    told = replace(alone, difference=second.value - first.value, over_seeds=_over_seeds(first, second, bootstrap))
    answers = behind.get((first.table, (first.row, first.column)))
    if answers is None:
        return _unpaired(told, first, second, level=bootstrap.confidence)
    if why := _unfit(answers, (first.value, second.value)):
        return _unpaired(replace(told, why=(why,)), first, second, level=bootstrap.confidence)
    one = intervals.paired_difference(answers[1], answers[0], bootstrap)
    return replace(told, way="paired", low=100 * one.low, high=100 * one.high)


OTHER_NUMBERS = "not paired: results.json and the records behind it do not give the same number"
OTHER_IMAGES = "not paired: one number of images is behind A and another behind B, or behind parts of them"
OTHER_LEVEL = "without an interval: those of A and B are not both of this level"


def _unfit(answers: tuple[Answers, Answers], values: tuple[float, float]) -> str | None:
    """Why answers say nothing of the difference of two cells, in percent; None where they do."""
    counted = (100 * intervals.total(one) for one in answers)
    if any(abs(one - value) > _ROUNDING for one, value in zip(counted, values, strict=True)):
        return OTHER_NUMBERS
    images = {term.correct.shape[1] for one in answers for term in one}
    return OTHER_IMAGES if len(images) > 1 else None


def _unpaired(told: Compared, first: Number, second: Number, *, level: float) -> Compared:
    """With the interval that follows from those of the cells, if these are of the level that is asked for."""
    here, there = _estimate(first), _estimate(second)
    if here is None or there is None:
        return told
    if not _is_of(first, level) or not _is_of(second, level):
        return replace(told, why=(*told.why, OTHER_LEVEL))
    one = intervals.independent_difference(there, here)
    return replace(told, way="unpaired", low=one.low, high=one.high)


def _is_of(cell: Number, level: float) -> bool:
    assert cell.interval is not None
    return cell.interval.level is not None and abs(cell.interval.level - level) < _NOTHING


def _estimate(cell: Number) -> Estimate | None:
    """The value with its interval; None of what has none."""
    if cell.value is None or cell.interval is None or cell.interval.level is None:
        return None
    return Estimate(cell.value, cell.interval.low, cell.interval.high, cell.n or 0)


def _over_seeds(first: Number, second: Number, bootstrap: Bootstrap) -> OverSeeds | None:
    here, there = first.over_seeds, second.over_seeds
    if here is None or there is None:
        return None
    values = tuple(there.values.values()), tuple(here.values.values())
    found = intervals.difference_of_means(*values, confidence=bootstrap.confidence)
    low, high = (None, None) if found is None else (found.low, found.high)
    return OverSeeds(here.mean, there.mean, (len(here.values), len(there.values)), low, high)


def _excludes_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > _NOTHING or high < -_NOTHING)


_NOTHING = 1e-9
"""A hundredth of a millionth of a point: what rounding leaves of 0."""
_ROUNDING = 1e-6
"""In percent: what the same count may differ by after it was written; one image in a million is a hundred times it."""
