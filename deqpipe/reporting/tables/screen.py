"""A table on a terminal: as many columns and rows as it holds, and a line on what is left out.

Values stand with their intervals always. Where there is room, the paper's numbers follow; where there is not, columns
continue below, or, in tables that say which of theirs matter most (`Definition.foremost`), the others are left out.
"""

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from deqpipe.reporting.cells import DASH, Block, Line, Shown, Table

T = TypeVar("T")
GAP = "  "
INDENT = "  "
_AROUND = ("", "", "what is left out", "what is left out")
"""Lines of a screen beside title, caption and rows."""


@dataclass(frozen=True)
class Screen:
    """What is printed on.

    Attributes:
        columns: characters of a line.
        lines: of the screen; None: as many as it takes.
        bold: whether it knows bold letters, for the cells that stand out.
    """

    columns: int
    lines: int | None = None
    bold: bool = False


@dataclass(frozen=True)
class _Form:
    """What is printed of a cell.

    Attributes:
        of: its text.
        whole: whether nothing of it is left out.
    """

    of: Callable[[Shown], str]
    whole: bool = False


def _short(shown: Shown) -> str:
    return f"{shown.value} [{shown.interval}]" if shown.interval else shown.value


def _long(shown: Shown) -> str:
    paper = "; Δ ".join(part for part in (shown.paper, shown.difference) if part)
    spread = f" {{{shown.spread}}}" if shown.spread else ""
    return f"{_short(shown)}{f' ({paper})' if paper else ''}{spread}"


_SHORT, _LONG = _Form(_short), _Form(_long, whole=True)


def brief(table: Table, screen: Screen, *, foremost: Sequence[str] = ()) -> str:
    """A table on one screen: title, what is counted, rows, and a line on what was left out.

    Args:
        table: as it was written.
        screen: its first rows are printed even where it has fewer lines.
        foremost: columns that matter most, first the most important; none: all are alike.
    """
    form = _form(table, screen)
    blocks = [_foremost(_numbered(block, form), foremost, form, screen.columns) for block in table.blocks]
    bodies = [_body(block, form, screen) for block in blocks]
    room = math.inf if screen.lines is None else screen.lines - len(bodies[0]) - len(_AROUND)
    full = len(head := _head(table, form, screen.columns, table.caption)) <= room
    head = head if full else _head(table, form, screen.columns, _first_sentence(table.caption))
    shown = _that_fit(bodies, room - len(head))
    left = _left_out(table, blocks, shown, form, captioned=full)
    parts = ["\n".join(part) for part in (head, *(bodies[number] for number in shown))]
    return "\n\n".join([*parts, *([_folded(left, screen.columns)] if left else [])])


def whole(table: Table, screen: Screen) -> str:
    """All of a table: caption, every column of every row with the paper's number, notes and conditions."""
    head = "\n".join(_head(table, _LONG, screen.columns, table.caption))
    bodies = ["\n".join(_body(block, _LONG, screen)) for block in table.blocks]
    notes = (f"- {note}" for note in (*table.notes, *table.conditions))
    folded = (textwrap.fill(note, screen.columns, subsequent_indent=INDENT, break_on_hyphens=False) for note in notes)
    return "\n\n".join([head, *bodies, "\n".join(folded)])


def _form(table: Table, screen: Screen) -> _Form:
    """The paper's numbers as well, if all columns fit beside each other with them."""
    fits = all(_width(block, _LONG) <= screen.columns for block in table.blocks)
    return _LONG if fits else _SHORT


def _numbered(block: Block, form: _Form) -> Block:
    """A block without the rows that hold nothing but numbers of the paper, where these are left out."""
    if form.whole:
        return block
    return replace(block, lines=tuple(line for line in block.lines if not _is_papers(line)))


def _is_papers(line: Line) -> bool:
    return any(shown.paper for shown in line.shown) and all(shown.value == DASH for shown in line.shown)


def _head(table: Table, form: _Form, columns: int, caption: str) -> list[str]:
    """Title; what is counted, on how many images; how to read a cell."""
    images = {cell.n for cell in table.cells if cell.n is not None and cell.here is not None}
    counted = f", n = {images.pop():,}" if len(images) == 1 else ""
    parts = _shown(table)
    named = (
        Shown("value", "interval", "paper", "difference", "over seeds") if form.whole else Shown("value", "interval")
    )
    there = {
        name: text for name, text in vars(named).items() if name == "value" or any(getattr(one, name) for one in parts)
    }
    legend = f" Cells: {_long(Shown(**there))}{counted}." if len(there) > 1 else ""
    said = (f"Table {table.number}. {table.title}", f"{caption}{legend}")
    return [line for part in said for line in _folded(part, columns).splitlines()]


def _shown(table: Table) -> list[Shown]:
    return [shown for block in table.blocks for line in block.lines for shown in line.shown]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[\w)%]\.) (?=[A-Z])", text, maxsplit=1)[0]


def _foremost(block: Block, foremost: Sequence[str], form: _Form, columns: int) -> Block:
    """A block without the columns that matter least, as far as it is too wide; in the order in which they stand."""
    if not any(name in block.columns for name in foremost):
        return block
    ranked = sorted(block.columns, key=lambda name: foremost.index(name) if name in foremost else len(foremost))
    for count in range(len(ranked), 1, -1):
        kept = _with(block, [name in ranked[:count] for name in block.columns])
        if _width(kept, form) <= columns:
            return kept
    return _with(block, [name == ranked[0] for name in block.columns])


def _with(block: Block, kept: Sequence[bool]) -> Block:
    def chosen(values: Sequence[T]) -> tuple[T, ...]:
        return tuple(value for value, keep in zip(values, kept, strict=True) if keep)

    lines = tuple(replace(line, shown=chosen(line.shown)) for line in block.lines)
    return replace(block, columns=chosen(block.columns), lines=lines)


def _width(block: Block, form: _Form) -> int:
    return _stub_width(block) + sum(len(GAP) + width for width in _widths(block, form))


def _widths(block: Block, form: _Form) -> list[int]:
    """Of every column: its cells, and the longest word above them."""
    return [
        max(*(len(word) for word in name.split()), *(len(form.of(line.shown[at])) for line in block.lines))
        for at, name in enumerate(block.columns)
    ]


def _stub_width(block: Block) -> int:
    return max(len(label) for label in (*_labels(block), *(line.labels[0] for line in block.lines)))


def _labels(block: Block) -> list[str]:
    """A row's labels within its group in one; what the row above has as well is not said again."""
    texts, above = [], tuple[str, ...]()
    for line in block.lines:
        inner = line.labels[1:]
        said = inner[-1:] if inner[:-1] == above[1:-1] and line.labels[:1] == above[:1] else inner
        texts.append(f"{INDENT}{': '.join(filter(None, said))}" if inner else line.labels[0])
        above = line.labels
    return texts


def _body(block: Block, form: _Form, screen: Screen) -> list[str]:
    """The lines of a block; columns that do not fit beside each other continue below."""
    lines, widths, start = list[str](), _widths(block, form), 0
    while start < len(widths):
        room, stop = screen.columns - _stub_width(block), start
        while stop < len(widths) and (stop == start or len(GAP) + widths[stop] <= room):
            room -= len(GAP) + widths[stop]
            stop += 1
        part = _with(block, [start <= at < stop for at in range(len(widths))])
        lines += [*([""] if lines else []), *_rows(part, form, widths[start:stop], bold=screen.bold)]
        start = stop
    return lines


def _rows(block: Block, form: _Form, widths: Sequence[int], *, bold: bool) -> list[str]:
    stub = _stub_width(block)
    lines, group = _heading(block, widths), None
    for line, label in zip(block.lines, _labels(block), strict=True):
        if len(line.labels) > 1 and line.labels[0] != group:
            group = line.labels[0]
            lines.append(group)
        cells = (_cell(shown, form, width, bold=bold) for shown, width in zip(line.shown, widths, strict=True))
        lines.append(GAP.join([label.ljust(stub), *cells]).rstrip())
    return lines


def _cell(shown: Shown, form: _Form, width: int, *, bold: bool) -> str:
    text = form.of(shown)
    blank = " " * (width - len(text))
    return f"{blank}\x1b[1m{text}\x1b[0m" if bold and shown.strong else blank + text


def _heading(block: Block, widths: Sequence[int]) -> list[str]:
    """The names of columns, folded to their width, above a rule."""
    names = [
        textwrap.wrap(name, width, break_on_hyphens=False) for name, width in zip(block.columns, widths, strict=True)
    ]
    high = max(map(len, names))
    rows = zip(*([""] * (high - len(words)) + words for words in names), strict=True)
    blank = " " * _stub_width(block)
    heading = [
        GAP.join([blank, *(word.rjust(width) for word, width in zip(row, widths, strict=True))]).rstrip()
        for row in rows
    ]
    return [*heading, "-" * (len(blank) + sum(len(GAP) + width for width in widths))]


def _that_fit(bodies: Sequence[Sequence[str]], room: int | float) -> list[int]:
    """The first block, and every further one that there is room for."""
    shown = [0]
    for number, body in enumerate(bodies[1:], start=1):
        if 1 + len(body) <= room:
            shown.append(number)
            room -= 1 + len(body)
    return shown


def _left_out(table: Table, blocks: Sequence[Block], shown: Sequence[int], form: _Form, *, captioned: bool) -> str:
    """What of the table is not on the screen, in a sentence."""
    wanting = [name for number in shown for name in table.blocks[number].columns if name not in blocks[number].columns]
    rows = [line for number, block in enumerate(blocks) if number not in shown for line in block.lines]
    cells = _shown(table)
    said = [] if captioned else ["what the columns are"]
    said += [f"columns {', '.join(dict.fromkeys(wanting))}"] if wanting else []
    said += [_of_rows(rows)] if rows else []
    if not form.whole:
        said += ["the paper's numbers"] if any(cell.paper for cell in cells) else []
        said += ["the spread over seeds"] if any(cell.spread for cell in cells) else []
    notes = len(table.notes) + len(table.conditions)
    said += [f"{notes} notes"] if notes else []
    return f"Left out here: {'; '.join(said)}." if said else ""


def _of_rows(lines: Sequence[Line]) -> str:
    """Rows by their labels, as far as few words say it."""
    names = list(dict.fromkeys(line.labels[-1] for line in lines))
    return f"{len(lines)} {'row' if len(lines) == 1 else 'rows'} ({names[0]}{' ...' if len(names) > 1 else ''})"


def _folded(text: str, columns: int) -> str:
    return textwrap.fill(text, columns, break_on_hyphens=False)
