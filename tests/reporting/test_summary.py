"""The summary: five sentences at most, whatever tables there are, and no more than the intervals say."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from deqpipe.analysis.decision import controls, paper_decisions
from deqpipe.config import Config
from deqpipe.reporting.cells import MINUS, Cell, OverSeeds, Table
from deqpipe.reporting.report import further, summary
from deqpipe.reporting.report.remarks import told
from tests.reporting import fabricate

Numbers = Mapping[tuple[str, str], tuple[float, float, float]]
"""Value and interval, by row and column."""
NOTHING: Numbers = MappingProxyType({})
BEST, BASE, DEFENDED = "TRADES + Sec. 3.3", "TRADES baseline", "TRADES + Secs. 3.2 & 3.3"
CONTROL = f"{DEFENDED}, control: R = 0"


@pytest.fixture(scope="module")
def config() -> Config:
    return fabricate.small()


def table(number: int, numbers: Numbers, **more: Any) -> Table:
    cells = [Cell(*name, *values, n=24, **more) for name, values in numbers.items()]
    return Table(number, "", "", blocks=(), cells=tuple(cells), notes=(), conditions=())


def robustness(changes: Numbers = NOTHING) -> dict[tuple[str, str], tuple[float, float, float]]:
    """A Table 1 in which nothing differs, but for what a test changes."""
    rows = [one.row for one in paper_decisions("pgd_at", "trades")]
    numbers = {(row, column): (50.0, 40.0, 60.0) for row in rows for column in ("Clean", "PGD", "ALL per image")}
    numbers |= {(row, "PGD gain"): (0.0, -5.0, 5.0) for row in rows if "baseline" not in row}
    for control in controls(fabricate.small()):
        numbers |= {(control.row, "PGD"): (50.0, 40.0, 60.0), (control.row, "method's gain"): (0.0, -5.0, 5.0)}
    return numbers | dict(changes)


def said(config: Config, changes: Numbers = NOTHING, **more: Any) -> tuple[str, ...]:
    return summary.sentences({1: table(1, robustness(changes), **more)}, config)


def test_every_table_together_makes_five_sentences(config: Config) -> None:
    rows = [one.row for one in paper_decisions("pgd_at", "trades")]
    second = table(2, {(row, "DIFF"): (10.0, 5.0, 15.0) for row in rows})
    third = table(3, {(row, f"from {row}, in the loop minus blind"): (0.0, -1.0, 1.0) for row in rows})
    found = summary.sentences({1: table(1, robustness()), 2: second, 3: third}, config)
    assert len(found) == 5
    assert [one.partition(" ")[0] for one in found] == ["Sec.", "Sec.", "Most", "Attacks", "Attacks"]
    assert all(one.endswith(".") and "<" not in one for one in found)


def test_absent_tables_and_numbers_leave_their_sentences_out(config: Config) -> None:
    assert summary.sentences({}, config) == ()
    assert summary.sentences({1: table(1, {}), 2: table(2, {}), 3: table(3, {})}, config) == ()
    baselines = {(row, "PGD"): (50.0, 40.0, 60.0) for row in (one.row for one in paper_decisions("pgd_at", "trades"))}
    (alone,) = summary.sentences({1: table(1, baselines)}, config)
    assert alone.startswith("Most robust DEQ here: PGD-AT baseline, right on 50.0 % (40")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (2.0, 12.0, f"it helps TRADES, +7.0 points (+2 to +12); is open for PGD-AT, 0.0 points ({MINUS}5 to +5)"),
        (0.0, 14.0, f"it is open for PGD-AT, 0.0 points ({MINUS}5 to +5) and TRADES, +7.0 points (0 to +14)"),
        (-12.0, -2.0, f"it hurts TRADES, {MINUS}7.0 points ({MINUS}12 to {MINUS}2); is open for"),
    ],
)
def test_the_first_sentence_says_whether_section_3_3_helps_and_no_more_than_its_interval(
    config: Config, low: float, high: float, words: str
) -> None:
    first, *_ = said(config, {(BEST, "PGD gain"): ((low + high) / 2, low, high)})
    assert first.startswith("Sec. 3.3")
    assert words in first
    assert "95 % intervals over 24 images, one training each" in first


def test_several_seeds_stand_beside_the_interval(config: Config) -> None:
    first, *_ = said(config, over_seeds=OverSeeds.of(((0, 1.0), (1, 3.0))))
    assert "seeds +1.0 to +3.0)" in first
    assert "one training each" not in first


@pytest.mark.parametrize(
    ("others", "outcome"), [((1.0, 3.0), "helps"), ((-4.0, -3.0), "is open for"), ((0.0, 3.0), "is open for")]
)
def test_a_gain_helps_only_if_all_seeds_say_so(others: tuple[float, float], outcome: str) -> None:
    seeds = OverSeeds.of(tuple(enumerate((2.0, *others))))
    assert summary.Comparison("TRADES", Cell("", "", 2.0, 0.5, 3.5, over_seeds=seeds)).outcome == outcome
    lost = OverSeeds.of(tuple(enumerate((-2.0, *(-value for value in others)))))
    worse = summary.Comparison("TRADES", Cell("", "", -2.0, -3.5, -0.5, over_seeds=lost))
    assert worse.outcome == outcome.replace("helps", "hurts")


def test_a_gain_of_section_3_2_stands_beside_its_own_control(config: Config) -> None:
    """Not beside another model's, and not beside the baseline, whose gain here is another."""
    changes = {(DEFENDED, "PGD gain"): (30.0, 20.0, 40.0), (CONTROL, "method's gain"): (9.0, 4.0, 14.0)}
    _, second, *_ = said(config, changes)
    assert (
        f"without descent, R = 0) it helps {DEFENDED}, +9.0 points (+4 to +14); is open for PGD-AT + Sec. 3.2" in second
    )
    assert "+30.0" not in second
    assert "the attacks do not know the descent" in second


def test_without_controls_section_3_2_stands_beside_the_baseline_and_says_so() -> None:
    config = fabricate.small({"entropy": {"controls": False}})
    numbers = {name: value for name, value in robustness().items() if "control" not in name[0]}
    _, second, *_ = summary.sentences({1: table(1, numbers)}, config)
    assert "against the baseline it is open for PGD-AT" in second
    assert "entropy.controls: false" in second


@pytest.mark.parametrize(
    ("best", "beside"),
    [
        (DEFENDED, ", its own control without descent (R = 0) on 62.5 % (50"),
        (BEST, f", {BASE} on 50.0 % (40"),
        (BASE, ", adversarial training alone"),
    ],
)
def test_the_most_robust_stands_beside_its_own_control(config: Config, best: str, beside: str) -> None:
    """A decision with Sec. 3.2 was headed as a gain where its control had as much."""
    changes = {(best, "PGD"): (62.5, 50.0, 75.0), (CONTROL, "PGD"): (62.5, 50.0, 75.0)}
    _, _, third = said(config, changes)
    assert third.startswith(f"Most robust DEQ here: {best}, right on 62.5 %")
    assert beside in third
    assert "image by image it withstands every attack of the grid and AutoAttack on 50.0 %" in third


@pytest.mark.parametrize(
    ("rival", "kept", "named"),
    [(CONTROL, 60.0, True), (f"{BEST}, longer solve", 60.0, True), (CONTROL, 50.0, False), (CONTROL, 40.0, False)],
)
def test_rivals_that_keep_more_than_the_most_robust_are_named(
    config: Config, rival: str, kept: float, named: bool
) -> None:
    """Only decisions of the paper were compared, as if nothing else withstood more."""
    numbers = {(BEST, column): (50.0, 40.0, 60.0) for column in ("PGD", "Union")}
    numbers |= {(rival, "Union"): (kept, kept - 10, kept + 10)}
    numbers |= {(BASE, "PGD"): (45.0, 35.0, 55.0), (BASE, "Union"): (45.0, 35.0, 55.0)}
    first, *_ = summary.sentences({11: table(11, numbers)}, config)
    assert f"the most robust DEQ is {BEST}, right on 50.0 %" in first
    told = "; rivals that only explain a gain, and faced fewer attacks, keep more: "
    assert (f"{told}{rival} {kept:.1f} % (" in first) == named
    assert (told in first) == named


@pytest.mark.parametrize(
    ("union", "words"),
    [
        (
            (9.0, 4.0, 14.0),
            f"holds for {DEFENDED}, +9.0 points (+4 to +14); is open for PGD-AT + Sec. 3.2 (0.0 points)",
        ),
        ((-9.0, -14.0, -4.0), f"is a loss for {DEFENDED}, {MINUS}9.0 points"),
        ((1.0, -4.0, 6.0), f"is lost for {DEFENDED} (+1.0 points); is open for PGD-AT + Sec. 3.2 (0.0 points)"),
    ],
)
def test_a_sentence_says_what_becomes_of_a_gain_and_names_decisions_only_where_they_differ(
    config: Config, union: tuple[float, float, float], words: str
) -> None:
    open_for = (0.0, -5.0, 5.0)
    numbers = {("PGD-AT + Sec. 3.2", "Sec. 3.2 under union"): open_for, (DEFENDED, "Sec. 3.2 under union"): union}
    numbers |= {(DEFENDED, column): (10.0, 5.0, 15.0) for column in ("Sec. 3.2 by PGD", "Sec. 3.2: fall")}
    numbers |= {(BEST, column): (50.0, 40.0, 60.0) for column in ("PGD", "Union")}
    _, said, *_ = summary.sentences({11: table(11, numbers)}, config)
    assert words in said
    assert said.endswith("; by the paper's figure it is +10.0 points.")
    alike = numbers | {(DEFENDED, "Sec. 3.2 under union"): (2.0, -5.0, 9.0), (DEFENDED, "Sec. 3.2 by PGD"): open_for}
    _, said, *_ = summary.sentences({11: table(11, alike)}, config)
    assert "is open for all 2 decisions (0.0 to +2.0 points); by" in said


@pytest.mark.parametrize(
    ("high", "words"),
    [(-1.0, "stronger than blind ones for TRADES + Sec. 3.2, so blind"), (1.0, "not shown to be stronger")],
)
def test_whether_seeing_the_defence_helps_is_said_with_its_decisions(config: Config, high: float, words: str) -> None:
    rows = {"TRADES + Sec. 3.2": (-2.0, -3.0, high), DEFENDED: (0.0, -1.0, 1.0)}
    third = table(3, {(row, f"from {row}, in the loop minus blind"): value for row, value in rows.items()})
    (found,) = summary.sentences({3: third}, config)
    assert words in found


def test_decisions_for_which_intermediate_states_help_are_named(config: Config) -> None:
    rows = [one.row for one in paper_decisions("pgd_at", "trades")]
    second = table(2, {(row, "DIFF"): (10.0, 5.0 if row == BEST else 0.0, 15.0) for row in rows})
    (found,) = summary.sentences({2: second}, config)
    assert f"for 1 of 8 decisions the interval excludes 0 ({BEST})." in found
    assert "a minimum over attacks of which that is one, so never above it" in found


def test_more_is_said_below_of_restarts_and_price() -> None:
    config = fabricate.small({"entropy": {"input_steps": 5}, "entropy_sweep": {"points": "all"}})
    row, numbers = "T_f = 2", robustness() | {("pretrained trunk", "PGD-7, final state"): (3.0, 1.0, 9.0)}
    for network in ("PGD-AT ResNet", "TRADES ResNet"):
        numbers[network, "PGD"] = (75.0, 60.0, 80.0)
    fifth = {(row, "restart only"): (90.0, 88.0, 92.0), (row, "R = 5"): (50.0, 40.0, 60.0)}
    fifth[row, "R = 0"] = (50.0, 40.0, 60.0)
    tenth = {(row, "R = 0 over R = 5"): (3.5, 3.0, 4.0)}
    found = " ".join(further.sentences({1: table(1, numbers), 5: table(5, fifth), 10: table(10, tenth)}, config))
    assert "Its restarts alone do better than the whole defence." in found
    assert "inference takes 3.5 times as long as without" in found
    assert "never trained against attacks, keeps 3.0 %" in found


def test_a_note_is_said_once_and_three_are_shown() -> None:
    shared, long = "Data: digits.", "word " * 80
    notes = ("one", long, "two", "three", "four")
    first, second = told([(notes, (shared, "own condition")), (("two", "five"), (shared,))], [shared])
    assert first.shown == ("one", "two", "three")
    assert first.folded == (long, "four", "own condition")
    assert (second.shown, second.folded) == (("five",), ())


def test_an_own_edit_of_a_cell_reaches_the_summary(config: Config) -> None:
    """No number of the sentences stands anywhere but in the table."""
    made = table(1, robustness())
    cells = tuple(
        replace(cell, here=51.5, low=41.0, high=61.0) if (cell.row, cell.column) == (BEST, "PGD") else cell
        for cell in made.cells
    )
    assert f"{BEST}, right on 51.5 % (41" in " ".join(summary.sentences({1: replace(made, cells=cells)}, config))
