"""A table as data, and how it looks as csv, Markdown, LaTeX and HTML."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from html import escape

from deqpipe.statistics.intervals import Estimate

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


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
        spread: lowest and highest value over seeds, where there are several.
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
    spread: tuple[float, float] | None = None


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
    """

    number: int
    title: str
    caption: str
    blocks: tuple[Block, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    conditions: tuple[str, ...]


EMPTY = Shown(DASH)
LEGEND = "value [interval] (paper; Δ difference) {over seeds}"


def percent(row: str, column: str, estimate: Estimate, *, paper: float | None = None, note: str = "") -> Cell:
    """A cell that holds a share or a difference of shares, in percent or points."""
    value, low, high = (100 * number for number in (estimate.value, estimate.low, estimate.high))
    return Cell(row, column, value, low, high, estimate.n, paper, note=note)


def number(row: str, column: str, estimate: Estimate, *, paper: float | None = None, note: str = "") -> Cell:
    """A cell that holds no share, in the unit of the estimate."""
    return Cell(row, column, estimate.value, estimate.low, estimate.high, estimate.n, paper, note=note)


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


def to_csv(table: Table) -> str:
    """Long form: one line per cell, unrounded to six digits."""
    names = [field.name for field in fields(Cell) if field.name != "spread"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", *names])
    for cell in table.cells:
        noted = replace(cell, note=_note(cell))
        writer.writerow([table.number, *(_field(getattr(noted, name)) for name in names)])
    return text.getvalue()


def _note(cell: Cell) -> str:
    if cell.spread is None:
        return cell.note
    over = f"over seeds {_field(cell.spread[0])} to {_field(cell.spread[1])}"
    return f"{cell.note}; {over}" if cell.note else over


def _field(value: str | int | float | None) -> str:
    if value is None:
        return ""
    return f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)


def to_markdown(table: Table) -> str:
    """Headline, caption, blocks with aligned columns, notes."""
    parts = [f"**Table {table.number}. {table.title}** {_caption(table)}"]
    parts += [
        _aligned([*block.stub, *block.columns], _body(block, _markdown), len(block.stub)) for block in table.blocks
    ]
    parts += ["\n".join(f"- {note}" for note in (*table.notes, *table.conditions))]
    return "\n\n".join(parts) + "\n"


def _caption(table: Table) -> str:
    """The caption, with how to read a cell where cells have parts."""
    cells = [shown for block in table.blocks for line in block.lines for shown in line.shown]
    return f"{table.caption} Cells: {LEGEND}." if any(_extras(shown) for shown in cells) else table.caption


def _body(block: Block, form: Callable[[Shown], str]) -> list[list[str]]:
    """Cells as text; a label that repeats the one above is left out, as in the paper."""
    rows, above = [], tuple("" for _ in block.stub)
    for line in block.lines:
        labels = [
            "" if line.labels[: index + 1] == above[: index + 1] else label for index, label in enumerate(line.labels)
        ]
        rows.append([*labels, *(form(shown) for shown in line.shown)])
        above = line.labels
    return rows


def _markdown(shown: Shown) -> str:
    value = f"**{shown.value}**" if shown.strong else shown.value
    return " ".join([value, *_extras(shown)])


def _extras(shown: Shown) -> list[str]:
    paper = "; Δ ".join(part for part in (shown.paper, shown.difference) if part)
    pairs = ((shown.interval, "[{}]"), (paper, "({})"), (shown.spread, "{{{}}}"))
    return [form.format(part) for part, form in pairs if part]


def _aligned(heading: Sequence[str], rows: Sequence[Sequence[str]], stub: int) -> str:
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]

    def line(row: Sequence[str]) -> str:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = [("-" * width) if index < stub else ("-" * (width - 1) + ":") for index, width in enumerate(widths)]
    return "\n".join([line(heading), line(rule), *map(line, rows)])


def to_latex(table: Table) -> str:
    """A `table` environment for booktabs; the notes stand as comments above it."""
    comments = [f"% {note}" for note in (*table.notes, *table.conditions)]
    caption = _tex(f"{table.title} {_caption(table)}")
    lines = [
        *comments,
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{table.number}}}",
    ]
    for index, block in enumerate(table.blocks):
        lines += [r"\par\medskip"] if index else []
        lines += _tabular(block)
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _tabular(block: Block) -> list[str]:
    columns = "l" * len(block.stub) + "r" * len(block.columns)
    heading = " & ".join(_tex(text) for text in (*block.stub, *block.columns))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rf"{heading} \\", r"\midrule"]
    for index, (line, row) in enumerate(zip(block.lines, _body(block, _latex), strict=True)):
        if index and line.labels[0] != block.lines[index - 1].labels[0]:
            lines.append(r"\midrule")
        labels, shown = row[: len(line.labels)], row[len(line.labels) :]
        lines.append(rf"{' & '.join([*map(_tex, labels), *shown])} \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _latex(shown: Shown) -> str:
    value = _tex(shown.value)
    value = rf"\textbf{{{value}}}" if shown.strong else value
    extras = " ".join(_tex(extra) for extra in _extras(shown))
    return rf"{value} {{\scriptsize {extras}}}" if extras else value


_TEX = {
    "\\": r"\textbackslash{}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MINUS: "$-$", DASH: "--", "Δ": r"$\Delta$",
}  # fmt: skip


def _tex(text: str) -> str:
    escaped = "".join(_TEX.get(character, character) for character in text)
    return escaped.replace(r"K\_a", "$K_a$").replace(r"T\_f", "$T_f$").replace("lambda", r"$\lambda$")


def to_html(table: Table) -> str:
    """The blocks as HTML tables, without caption and notes."""
    return "\n".join(_html_block(block) for block in table.blocks)


def _html_block(block: Block) -> str:
    stub = f'<th scope="col">{escape(block.stub[-1] or block.stub[0])}</th>'
    columns = "".join(f'<th scope="col" class="number">{escape(text)}</th>' for text in block.columns)
    grouped = len(block.stub) > 1 and len({line.labels[0] for line in block.lines}) > 1
    rows: list[str] = []
    for index, line in enumerate(block.lines):
        if grouped and (index == 0 or line.labels[0] != block.lines[index - 1].labels[0]):
            width = 1 + len(block.columns)
            rows.append(f'<tr class="group"><th scope="rowgroup" colspan="{width}">{escape(line.labels[0])}</th></tr>')
        rows.append(_html_row(line, line.labels[1:-1] if grouped else line.labels[:-1], block.columns))
    opening = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(_region(block))}">'
    head = f"<thead><tr>{stub}{columns}</tr></thead>"
    return f'{opening}<table class="stack">\n{head}\n<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>'


def _region(block: Block) -> str:
    """What the scrollable box around a block is called to those who do not see it."""
    return f"{block.stub[-1] or block.stub[0] or 'Rows'} by {', '.join(block.columns)}"


def _html_row(line: Line, below: Sequence[str], columns: Sequence[str]) -> str:
    """One stub cell: the last label, with others in small print below. Cells name their column for narrow screens."""
    more = f'<span class="interval">{escape(", ".join(below))}</span>' if below else ""
    cells = "".join(
        f'<td class="number" data-label="{escape(column)}">{_html(shown)}</td>'
        for column, shown in zip(columns, line.shown, strict=True)
    )
    return f'<tr><th scope="row">{escape(line.labels[-1])}{more}</th>{cells}</tr>'


def _html(shown: Shown) -> str:
    tag = "strong" if shown.strong else "span"
    parts = [f'<{tag} class="value">{escape(shown.value)}</{tag}>']
    named = (
        ("interval", "", shown.interval),
        ("paper", "paper ", shown.paper),
        ("paper", "Δ ", shown.difference),
        ("interval", "seeds ", shown.spread),
    )
    breakable = '</span> to <span class="whole">'
    parts += [
        f'<span class="{kind}">{prefix}<span class="whole">{escape(text).replace(" to ", breakable)}</span></span>'
        for kind, prefix, text in named
        if text
    ]
    return "".join(parts)
