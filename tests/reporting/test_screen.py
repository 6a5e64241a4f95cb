"""Tables on a terminal."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqpipe.errors import DamagedFileError, UserError
from deqpipe.reporting import closing
from deqpipe.reporting.cells import DASH, EMPTY, Block, Cell, Line, Shown, Table
from deqpipe.reporting.tables import screen
from deqpipe.reporting.tables.screen import Screen
from deqpipe.results import numbers
from deqpipe.results.numbers import Made, Numbers, Origin

NAMES = ("Clean", "PGD", "AA", "PGD gain")
FULL = Shown("54.2", f"41{DASH}68", "49.45")


def block(*methods: str, columns: tuple[str, ...] = NAMES) -> Block:
    lines = tuple(Line(("TRADES", "small DEQ", method), (FULL,) * len(columns)) for method in methods)
    return Block(("Training", "Model", "Method"), columns, lines)


def table(*blocks: Block) -> Table:
    cells = (Cell("r", "c", 54.2, 41.0, 68.0, 48),)
    return Table(1, "Robustness.", "Accuracy (%) of digits. PGD: a minimum.", blocks, cells, ("A note.",), ("Data.",))


def test_columns_that_matter_least_are_left_out_where_the_terminal_is_narrow_and_a_line_says_which() -> None:
    text = screen.brief(table(block("baseline")), Screen(60), foremost=("PGD", "PGD gain"))
    heading, *_ = text.split("\n----")
    assert heading.splitlines()[-1].split() == ["PGD", "PGD", "gain"]
    assert "Left out here: columns Clean, AA; the paper's numbers; 2 notes." in text.replace("\n", " ")


def test_columns_that_are_all_alike_continue_below() -> None:
    text = screen.brief(table(block("baseline")), Screen(60))
    assert text.count("small DEQ: baseline") == 2
    assert "columns" not in text


def test_the_papers_numbers_follow_where_there_is_room() -> None:
    wide, narrow = (screen.brief(table(block("baseline")), Screen(columns)) for columns in (130, 90))
    assert f"54.2 [41{DASH}68] (49.45)" in wide
    assert "value [interval] (paper), n = 48" in wide
    assert "49.45" not in narrow
    assert "value [interval], n = 48" in narrow


def test_rows_that_hold_numbers_of_the_paper_alone_are_left_out_with_them() -> None:
    published = Line(("TRADES", "large DEQ", "theirs"), (Shown(DASH, paper="50.00"),) * 4)
    rows = block("baseline")
    one = table(replace(rows, lines=(published, *rows.lines)))
    assert "theirs" in screen.brief(one, Screen(130))
    assert "theirs" not in screen.brief(one, Screen(90))


def test_blocks_that_do_not_fit_the_height_are_left_out_and_counted() -> None:
    two = table(block("baseline"), block("control 1", "control 2"))
    assert "control 2" in screen.brief(two, Screen(100))
    short = screen.brief(two, Screen(100, 13))
    assert "control 2" not in short
    assert "2 rows (control 1 ...)" in short
    assert len(short.splitlines()) <= 13


def test_what_columns_are_is_said_where_there_is_room() -> None:
    long, short = (screen.brief(table(block("baseline")), Screen(60, lines)) for lines in (40, 8))
    assert "PGD: a minimum." in long
    assert "PGD: a minimum." not in short
    assert "what the columns are" in short


def test_all_of_a_table_has_every_number_and_note() -> None:
    text = screen.whole(table(block("baseline"), block("control")), Screen(60))
    assert text.count("(49.45)") == 8
    assert text.endswith("- A note.\n- Data.")
    assert max(map(len, text.splitlines())) <= 60


def test_cells_that_stand_out_are_bold_on_terminals_that_know_it() -> None:
    strong = Block(("",), ("R = 0",), (Line(("T_f = 1",), (Shown("1.0", strong=True),)), Line(("T_f = 2",), (EMPTY,))))
    assert "\x1b[1m1.0\x1b[0m" in screen.brief(table(strong), Screen(80, bold=True))
    assert "\x1b" not in screen.brief(table(strong), Screen(80))


@given(
    st.integers(40, 160), st.lists(st.sampled_from(["a", "b" * 20, "+ Sec. 3.2"]), min_size=1, max_size=3, unique=True)
)
def test_no_line_is_longer_than_the_terminal_is_wide(columns: int, methods: list[str]) -> None:
    for text in (
        screen.brief(table(block(*methods)), Screen(columns)),
        screen.whole(table(block(*methods)), Screen(columns)),
    ):
        widest = (
            2 + len("small DEQ: ") + 20 + 2 + len(f"54.2 [41{DASH}68] (49.45)")
        )  # one label and one cell always stand
        assert max(map(len, text.splitlines())) <= max(columns, widest)


def results(folder: Path) -> Path:
    """A results.json with four sentences and no cells."""
    made = Made(versions={}, code=(), devices=(), seconds=0.0, evaluations={})
    told = ("One.", "Two.", "Three.", "Four.")
    origin = Origin(config="", spec="", revision=1)
    file = folder / numbers.NAME
    numbers.write(file, Numbers(summary=told, seeds=(0,), tables=(), cells=(), config={}, made=made, origin=origin))
    return file


def test_a_run_ends_with_three_sentences_and_the_path_of_the_report(tmp_path: Path) -> None:
    assert closing.lines(tmp_path, columns=80) == []
    results(tmp_path)
    (tmp_path / "report.html").touch()
    assert closing.lines(tmp_path, columns=80) == ["- One.", "- Two.", "- Three.", f"Report: {tmp_path}/report.html"]


@pytest.mark.parametrize("content", ["", "[]", '{"summary": ["One."]}'])
def test_a_results_file_that_is_none_has_no_sentences(tmp_path: Path, content: str) -> None:
    (tmp_path / numbers.NAME).write_text(content)
    with pytest.raises(UserError, match=r"results\.json"):
        closing.lines(tmp_path, columns=80)


def test_a_sentence_that_changed_after_it_was_written_is_not_said(tmp_path: Path) -> None:
    file = results(tmp_path)
    file.write_text(file.read_text().replace("One.", "Two."))
    with pytest.raises(DamagedFileError, match=r"results\.json is damaged"):
        closing.lines(tmp_path, columns=80)


def test_sentences_of_another_version_are_not_said(tmp_path: Path) -> None:
    file = results(tmp_path)
    file.write_text(file.read_text().replace('"1.1"', '"2.0"'))
    with pytest.raises(UserError, match=r"has schema_version '2.0', but this deqpipe reads 1.1"):
        closing.lines(tmp_path, columns=80)
