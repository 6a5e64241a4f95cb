"""A comparison as text for a terminal, as CSV, and as JSON."""

import csv
import io
import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from deqpipe.reporting.cells import MINUS
from deqpipe.reporting.comparison.cells import Compared, Comparison
from deqpipe.results.numbers import Number
from deqpipe.workflow.products import TABLES

WIDTH = 100
_FEW = 4
_COLUMNS = ("A", "B", "B minus A", "")


def text(comparison: Comparison) -> str:
    """What it amounts to, in plain words; then the cells of each table, side by side."""
    said = "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in sentences(comparison))
    tables = [_table(number, cells) for number, cells in _by_table(comparison.cells)]
    return "\n\n".join([said, *tables]) + "\n"


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """What a reader needs first: what differs in the settings, and which numbers differ by more than chance."""
    first, second = comparison.names
    return (
        f"A is {first}, B is {second}.",
        _settings(comparison),
        _cells(comparison),
        *_over_seeds(comparison),
        f"Intervals of {100 * comparison.level:g} % are {comparison.paired}. They say what other test images could "
        "change; that another training would give other numbers is not in them.",
        *_exceptions(comparison),
    )


def _exceptions(comparison: Comparison) -> Iterator[str]:
    """How many cells do not have the interval that they could have, by why."""
    for why, number in Counter(why for one in comparison.cells for why in one.why).items():
        yield f"{number} {'cell is' if number == 1 else 'cells are'} {why}."


def _settings(comparison: Comparison) -> str:
    if not comparison.settings:
        return "Settings: the same."
    listed = "; ".join(f"{one.key} {one.first} -> {one.second}" for one in comparison.settings)
    return f"Settings that differ (A -> B): {listed}."


def _cells(comparison: Comparison) -> str:
    judged = comparison.judged
    if not judged:
        return "No cell has a number with an interval in both."
    beyond = sorted((one for one in judged if one.beyond_chance), key=lambda one: -abs(one.difference or 0.0))
    said = f"Of {len(judged)} cells {_how_many(len(beyond))} more than chance would"
    if not beyond:
        return f"{said}."
    named = "; ".join(map(_named, beyond[:_FEW]))
    more = f"; and {len(beyond) - _FEW} more" if len(beyond) > _FEW else ""
    expected = (1 - comparison.level) * len(judged)
    return (
        f"{said}: {named}{more}. Where nothing differs at all, chance alone would give about {expected:.1f} such cells."
    )


def _how_many(number: int) -> str:
    return f"{number or 'none'} {'differs' if number == 1 else 'differ'}"


def _named(one: Compared) -> str:
    """A cell and its difference, and for whom it speaks."""
    cell, better = one.cell, {True: ", B better", False: ", A better", None: ""}[one.is_better]
    difference = f"{_number(one.difference or 0.0, one, sign='+')} {cell.unit.replace('%', 'points')}"
    return f"Table {cell.table}, {cell.row}, {cell.column} {difference}{better}"


def _over_seeds(comparison: Comparison) -> tuple[str, ...]:
    """How many means over seeds differ, where both runs have several."""
    several = [one.over_seeds for one in comparison.cells if one.over_seeds]
    if not several:
        return ()
    beyond = sum(one.beyond_chance for one in several)
    numbers = ", or ".join(f"{here} and {there}" for here, there in dict.fromkeys(one.seeds for one in several))
    return (
        f"Both have several seeds ({numbers}): of {len(several)} means over "
        f"seeds {_how_many(beyond)} by more than seeds do (Welch's t). Cells below are of the first seed; --csv and "
        "--json have the means.",
    )


def _by_table(cells: Sequence[Compared]) -> Iterator[tuple[int, list[Compared]]]:
    """The cells of each table that have a value in a run."""
    known = [one for one in cells if _has_value(one.first) or _has_value(one.second)]
    for number in sorted({one.cell.table for one in known}):
        yield number, [one for one in known if one.cell.table == number]


def _has_value(cell: Number | None) -> bool:
    return cell is not None and cell.value is not None


def _table(number: int, cells: Sequence[Compared]) -> str:
    """Rows of at most `WIDTH` characters: the name of a cell is shortened where it must be."""
    shown = [(*_sides(one), _difference(one), _mark(one)) for one in cells]
    widths = [max(len(row[index]) for row in (_COLUMNS, *shown)) for index in range(len(_COLUMNS))]
    room = WIDTH - sum(widths) - 2 * len(widths)
    title = TABLES[number].title if number in TABLES else ""
    lines = [f"Table {number}. {title}", _line("", _COLUMNS, widths, room)]
    above = ""
    for one, row in zip(cells, shown, strict=True):
        if one.cell.row != above:
            lines.append(textwrap.shorten(one.cell.row, WIDTH, placeholder="..."))
            above = one.cell.row
        lines.append(_line(f"  {one.cell.column}", row, widths, room))
    return "\n".join(lines)


def _line(name: str, row: Sequence[str], widths: Sequence[int], room: int) -> str:
    label = name if len(name) <= room else f"{name[: room - 3]}..."
    padded = (part.rjust(width) for part, width in zip(row, widths, strict=True))
    return "  ".join([label.ljust(room), *padded]).rstrip()


def _sides(one: Compared) -> tuple[str, str]:
    values = (None if cell is None else cell.value for cell in (one.first, one.second))
    first, second = ("-" if value is None else _number(value, one) for value in values)
    return first, second


def _difference(one: Compared) -> str:
    if one.difference is None:
        return "-"
    value = _number(one.difference, one, sign="+")
    if one.low is None or one.high is None:
        return value
    return f"{value} [{_number(one.low, one, sign='+')} to {_number(one.high, one, sign='+')}]"


def _mark(one: Compared) -> str:
    """How sure the difference is, in a word."""
    beyond = " *" if one.beyond_chance else "  "
    return f"{one.way if one.way != 'none' else ''}{beyond}".rstrip() if one.difference is not None else ""


def _number(value: float, one: Compared, *, sign: str = "") -> str:
    """As many digits as the unit bears: entropies are small."""
    digits = 1 if one.cell.unit in ("%", "points") else 3 if one.cell.unit == "nats" else 2
    return f"{value + 0.0:{sign}.{digits}f}".replace("-", MINUS)


def to_csv(comparison: Comparison) -> str:
    """One line per cell, unrounded."""
    rows = [_flat(one) for one in comparison.cells]
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=list(rows[0]) if rows else ["table"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def to_json(comparison: Comparison) -> str:
    """What it amounts to, the settings and every cell."""
    content = {
        "schema_version": "1.0",
        "a": comparison.names[0],
        "b": comparison.names[1],
        "summary": list(sentences(comparison)),
        "level": comparison.level,
        "settings": [asdict(one) for one in comparison.settings],
        "cells": [_flat(one) for one in comparison.cells],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _flat(one: Compared) -> dict[str, object]:
    cell, over = one.cell, one.over_seeds
    told: dict[str, object] = {"table": cell.table, "row": cell.row, "column": cell.column, "unit": cell.unit}
    told["higher_is_better"] = cell.higher_is_better
    for name, side in (("a", one.first), ("b", one.second)):
        interval = None if side is None else side.interval
        told[name] = None if side is None else side.value
        told |= {f"{name}_low": interval and interval.low, f"{name}_high": interval and interval.high}
        told[f"{name}_n"] = None if side is None else side.n
    told |= {"difference": one.difference, "low": one.low, "high": one.high, "interval": one.way}
    told |= {"beyond_chance": one.beyond_chance if one.way != "none" else None}
    told |= {"a_seeds_mean": over and over.first, "b_seeds_mean": over and over.second}
    told |= {"seeds_difference": over and over.second - over.first}
    return told | {"seeds_low": over and over.low, "seeds_high": over and over.high}
