"""The paper's numbers, read twice and checked against each other."""

import csv
from pathlib import Path

import pytest

from deqpipe.reporting.paper import published

# A second reading of the paper, column by column where published.py goes row by row; not generated from it.
SECOND_READING = Path(__file__).parents[1] / "golden" / "published.csv"
DIGITS = {7: 4, 9: 1, 10: 1}


def printed(number: published.Published) -> str:
    if number.row.endswith("K_a"):
        return f"{number.value:.0f}"
    return f"{number.value:.{DIGITS.get(number.table, 2)}f}"


def test_numbers_equal_a_second_reading_of_the_paper() -> None:
    with SECOND_READING.open(encoding="utf-8", newline="") as file:
        second = {(int(r["table"]), r["row"], r["column"]): r["printed"] for r in csv.DictReader(file)}
    first = {(n.table, n.row, n.column): printed(n) for n in published.NUMBERS}
    assert first == second


def test_every_cell_stands_once() -> None:
    cells = [(n.table, n.row, n.column) for n in published.NUMBERS]
    assert len(cells) == len(set(cells))
    counts = {table: sum(n.table == table for n in published.NUMBERS) for table in range(1, 11)}
    assert counts == {1: 43, 2: 24, 3: 16, 4: 21, 5: 16, 6: 12, 7: 12, 8: 32, 9: 4, 10: 17}


@pytest.mark.parametrize("framework", ["PGD-AT", "TRADES"])
@pytest.mark.parametrize("method", published.METHODS)
def test_tables_agree_where_the_paper_repeats_a_number(framework: str, method: str) -> None:
    row = f"{framework} {method}"
    inter, final = published.value(2, row, "INTER"), published.value(2, row, "FINAL")
    assert inter is not None
    assert final is not None
    assert published.value(1, row, "PGD") == inter
    assert published.value(2, row, "DIFF") == pytest.approx(final - inter)
    if framework == "TRADES":
        assert published.value(3, row, f"from {row}") == inter


def test_the_best_number_is_the_same_in_tables_1_4_5_and_8() -> None:
    cells = (
        (1, "TRADES + Secs. 3.2 & 3.3", "PGD"), (4, "PGD", "(3,5)"), (5, "T_f = 2", "R = 10"),
        (8, "lambda = 0.5 PGD", "i = 3"),
    )  # fmt: skip
    assert {published.value(*cell) for cell in cells} == {55.18}


def test_all_is_the_minimum_of_pgd_and_autoattack() -> None:
    for row in {number.row for number in published.NUMBERS if number.table == 1}:
        attacks = [value for name in ("PGD", "AA") if (value := published.value(1, row, name)) is not None]
        assert published.value(1, row, "ALL") == min(attacks)


def test_a_cell_that_the_paper_lacks_has_no_number() -> None:
    assert published.value(1, "TRADES ResNet", "PGD") is None
    assert published.value(1, "TRADES baseline", "gain") is None
