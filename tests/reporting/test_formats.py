"""Tables as csv, Markdown, LaTeX and HTML."""

import csv
import io
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from deqpipe.reporting.cells import DASH, EMPTY, LEGEND, MINUS, Block, Cell, Line, Shown, Table, percent, show
from deqpipe.reporting.tables import formats
from deqpipe.statistics.intervals import Estimate

NASTY = "a_b & 50 % <i>$x$</i>"


def table(*lines: Line, cells: tuple[Cell, ...] = ()) -> Table:
    block = Block(("Training", "Method"), ("PGD",), lines)
    return Table(9, "Title.", "Caption.", (block,), cells, ("A note.",), ("A condition.",))


def plain(value: str = "1.0") -> Shown:
    return Shown(value)


def test_a_share_becomes_percent_with_its_interval() -> None:
    cell = percent("row", "PGD", Estimate(0.5, 0.25, 0.75, 48), paper=49.45, note="why")
    assert cell == Cell("row", "PGD", 50.0, 25.0, 75.0, 48, 49.45, note="why")


def test_few_images_bear_few_digits() -> None:
    few = show(Cell("r", "c", 51.234, 40.51, 61.9, 48, 49.45))
    assert (few.value, few.interval, few.paper) == ("51.2", f"41{DASH}62", "49.45")
    many = show(Cell("r", "c", 51.234, 50.51, 51.9, 10_000, 49.45))
    assert (many.value, many.interval) == ("51.23", f"50.5{DASH}51.9")


@pytest.mark.parametrize(
    ("value", "shown"), [(4.1667, "+4.2"), (-4.1667, f"{MINUS}4.2"), (0.0, "0.0"), (-0.01, "0.0"), (0.01, "0.0")]
)
def test_differences_carry_their_sign_and_zero_none(value: float, shown: str) -> None:
    assert show(Cell("r", "c", value, -8.3, 15.2, 48), signed=True).value == shown
    assert show(Cell("r", "c", value, -8.3, 0.2, 48), signed=True).interval == f"{MINUS}8 to 0"


def test_an_absent_value_shows_a_dash_and_still_the_papers_number() -> None:
    assert show(Cell("r", "c", paper=47.12)) == Shown(DASH, paper="47.12")


def test_csv_is_long_and_reads_back() -> None:
    cells = (
        Cell('row, with "quotes"', "PGD", 41.66666666, 30.0, 56.0, 48, 49.45, -7.78, "note"),
        Cell("r", "PGD", paper=1.1),
    )
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(table(cells=cells)))))
    names = ["table", "row", "column", "here", "low", "high", "n", "paper", "difference", "note"]
    assert list(rows[0]) == names
    assert rows[0]["row"] == 'row, with "quotes"'
    assert float(rows[0]["here"]) == pytest.approx(41.66666666, abs=1e-4)
    assert (rows[1]["here"], rows[1]["n"], rows[1]["paper"]) == ("", "", "1.1")


def test_markdown_columns_are_aligned_and_repeated_labels_left_out() -> None:
    text = formats.to_markdown(
        table(
            Line(("PGD-AT", "baseline"), (Shown("41.7", f"33{DASH}56", "49.45", "-7.78"),)),
            Line(("PGD-AT", "+ Sec. 3.2"), (Shown("50.0", strong=True),)),
            Line(("TRADES", "baseline"), (EMPTY,)),
        )
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    cells = [[part.strip() for part in row.strip("|").split("|")] for row in rows]
    assert cells[2:] == [
        ["PGD-AT", "baseline", f"41.7 [33{DASH}56] (49.45; Δ -7.78)"],
        ["", "+ Sec. 3.2", "**50.0**"],
        ["TRADES", "baseline", DASH],
    ]
    assert "- A note.\n- A condition." in text


def test_latex_escapes_text_and_closes_what_it_opens() -> None:
    text = formats.to_latex(table(Line(("PGD-AT", NASTY), (plain(f"{MINUS}1"),)), Line(("TRADES", "x"), (plain(),))))
    assert r"a\_b \& 50 \% \textless{}i\textgreater{}\$x\$\textless{}/i\textgreater{} & $-$1 \\" in text
    for name in ("table*", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    assert text.count(r"\midrule") == 2
    latex = formats.to_latex(table(Line(("lambda = 1, T_f", "K_a"), (plain(),))))
    assert latex.count(r"$\lambda$ = 1, $T_f$ & $K_a$ & 1.0") == 1
    assert "% A condition." in text


class _Tags(HTMLParser):
    """Refuses what is not nested."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_nested_and_escaped_with_one_heading_row_per_group() -> None:
    lines = (
        Line(("PGD-AT", NASTY), (Shown(NASTY, NASTY, NASTY, NASTY, NASTY, strong=True),)),
        Line(("PGD-AT", "b"), (EMPTY,)),
        Line(("TRADES", "b"), (EMPTY,)),
    )
    html = formats.to_html(table(*lines))
    tags = _Tags()
    tags.feed(html)
    assert not tags.open
    assert "i" not in tags.seen
    assert html.count('scope="rowgroup"') == 2
    assert tags.seen.count("tr") == 1 + 2 + 3


def test_how_to_read_a_cell_is_said_where_cells_have_parts() -> None:
    assert LEGEND not in formats.to_markdown(table(Line(("a", "b"), (plain(),))))
    assert LEGEND in formats.to_markdown(table(Line(("a", "b"), (Shown("1", interval="0 to 2"),))))


def test_names_of_folders_are_no_signs_of_markdown_and_no_formulas_of_spreadsheets() -> None:
    named = replace(table(Line(("PGD-AT", ""), (plain(),))), caption="Of the image folder *a*_b_`c`<d>$e$|K_a.")
    assert r"Of the image folder \*a\*\_b\_\`c\`\<d>\$e\$\|K_a." in formats.to_markdown(named)
    assert formats._field("=1+1") == "'=1+1"
    assert formats._field(-1.5) == "-1.5"
