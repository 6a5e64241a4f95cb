"""How a table looks as csv, Markdown, LaTeX and HTML."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from html import escape

from deqpipe.reporting.cells import DASH, LEGEND, MINUS, Block, Cell, Line, Shown, Table, no_formula

_SIGNS = re.compile(r"[\\*`<$|]|(?<!\w)_|_(?!\w)")  # an underscore within a word, such as K_a, is none


def to_csv(table: Table) -> str:
    """Long form: one line per cell, unrounded to six digits; with what every seed gives, where there are several."""
    seeds = sorted({seed for cell in table.cells if cell.over_seeds for seed, _ in cell.over_seeds.values})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    over = [*(f"seed_{seed}" for seed in seeds), *(f"seeds_{name}" for name in _OVER_SEEDS)] if seeds else []
    writer.writerow(["table", *_OF_CELL, *over])
    for cell in table.cells:
        own = [getattr(cell, name) for name in _OF_CELL]
        writer.writerow([table.number, *map(_field, [*own, *(_over_seeds(cell, seeds) if seeds else [])])])
    return text.getvalue()


_OF_CELL = ("row", "column", "here", "low", "high", "n", "paper", "difference", "note")
_OVER_SEEDS = ("mean", "deviation", "lowest", "highest")


def _over_seeds(cell: Cell, seeds: Sequence[int]) -> list[float | None]:
    """The value of every seed, and what they come to; nothing where the cell has not got two."""
    over = cell.over_seeds
    if over is None:
        return [None] * (len(seeds) + len(_OVER_SEEDS))
    values = dict(over.values)
    return [*map(values.get, seeds), *(getattr(over, name) for name in _OVER_SEEDS)]


def _field(value: str | int | float | None) -> str:
    if value is None:
        return ""
    return f"{value + 0.0:.6g}" if isinstance(value, float) else no_formula(str(value))


def to_markdown(table: Table) -> str:
    """Headline, caption, blocks with aligned columns, notes."""
    parts = [f"**Table {table.number}. {table.title}** {_literal(_caption(table))}"]
    parts += [
        _aligned([*block.stub, *block.columns], _body(block, _markdown), len(block.stub)) for block in table.blocks
    ]
    parts += ["\n".join(f"- {_literal(note)}" for note in (*table.notes, *table.conditions))]
    return "\n\n".join(parts) + "\n"


def _literal(text: str) -> str:
    """Words in which the names of folders stand: what Markdown would take for its own signs is escaped."""
    return _SIGNS.sub(r"\\\g<0>", text)


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
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
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
