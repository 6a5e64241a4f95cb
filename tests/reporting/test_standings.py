"""The small table at the top of the report: one row per method, and what becomes of its gain."""

import pytest

from deqpipe.reporting.cells import DASH, Cell, OverSeeds, Table
from deqpipe.reporting.report.standings import Standings, standings
from deqpipe.reporting.report.survival import Fate, Survival

BASE, METHOD = "TRADES baseline", "TRADES + Sec. 3.3"
UP, NONE, DOWN = (1.0, 9.0), (-5.0, 5.0), (-9.0, -1.0)
Ends = tuple[float, float]


def gain(ends: Ends | None, column: str = "", seeds: tuple[float, ...] = ()) -> Cell | None:
    middle = None if ends is None else sum(ends) / 2
    over = OverSeeds.of(tuple(enumerate(seeds)))
    return None if ends is None else Cell(METHOD, column, middle, *ends, n=24, over_seeds=over)


@pytest.mark.parametrize(
    ("left", "by_figure", "fall", "fate"),
    [
        (UP, UP, NONE, "holds"), (UP, NONE, NONE, "holds"), (UP, None, None, "holds"), (DOWN, UP, UP, "hurts"),
        (NONE, UP, UP, "lost"), (NONE, UP, NONE, "too few images"), (NONE, UP, None, "too few images"),
        (NONE, NONE, UP, "open"), (NONE, DOWN, DOWN, "open"), (NONE, None, None, "open"),
    ],
)  # fmt: skip
def test_intervals_decide_what_becomes_of_a_gain(
    left: Ends, by_figure: Ends | None, fall: Ends | None, fate: Fate
) -> None:
    under_union = gain(left)
    assert under_union is not None
    assert Survival(METHOD, under_union, gain(by_figure), gain(fall)).fate == fate


def test_a_gain_that_one_seed_does_not_have_holds_no_more() -> None:
    alike, apart = (gain(UP, seeds=seeds) for seeds in ((5.0, 4.0), (5.0, -1.0)))
    assert alike is not None
    assert apart is not None
    assert [Survival(METHOD, one).fate for one in (alike, apart)] == ["holds", "open"]


def table(number: int, *cells: Cell | None) -> Table:
    return Table(number, "", "", blocks=(), cells=tuple(cell for cell in cells if cell), notes=(), conditions=())


def keeps(column: str, row: str = METHOD, *, n: int, here: float = 50.0) -> Cell:
    return Cell(row, column, here, here - 10, here + 10, n=n)


FIRST = table(1, keeps("PGD", BASE, n=48), keeps("PGD", n=48, here=70.0), gain((10.0, 30.0), "PGD gain"))


def told(found: Standings) -> list[tuple[str, ...]]:
    return [
        (one.framework, one.method, one.by_figure.value, one.union.value, one.gain_by_figure.value, one.gain.value,
         one.gain.interval, one.verdict)
        for one in found.rows
    ]  # fmt: skip


def test_with_a_suite_every_number_is_of_its_images() -> None:
    gains = (gain(UP, "Gain by PGD"), gain(NONE, "Union gain"), gain(UP, "Gain: fall"))
    kept = (keeps(column, row, n=24, here=40.0) for column in ("PGD", "Union") for row in (BASE, METHOD))
    found = standings({1: FIRST, 11: table(11, *kept, *gains)})
    assert (found.images, found.union) == (24, True)
    assert told(found) == [
        ("TRADES", "baseline", "40.0", "40.0", DASH, DASH, "", "baseline"),
        ("TRADES", "+ Sec. 3.3", "40.0", "40.0", "+5.0", "0.0", "\N{MINUS SIGN}5 to +5", "lost"),
    ]


def test_without_a_suite_the_paper_s_figure_stands_alone() -> None:
    found = standings({1: FIRST})
    assert (found.images, found.union) == (48, False)
    assert told(found) == [
        ("TRADES", "baseline", "50.0", DASH, DASH, DASH, "", "baseline"),
        ("TRADES", "+ Sec. 3.3", "70.0", DASH, "+20.0", DASH, "", "shown"),
    ]


def test_without_tables_there_are_no_rows() -> None:
    assert standings({}).rows == ()
