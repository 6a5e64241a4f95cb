"""Verdicts on the paper's claims: from intervals alone, and never more than these say."""

import pytest

from deqpipe.analysis.decision import paper_decisions
from deqpipe.config import Config
from deqpipe.reporting.cells import Cell, OverSeeds
from deqpipe.reporting.report import claims
from deqpipe.reporting.report.claims import Claim
from deqpipe.reporting.report.survival import Sign, beyond
from tests.reporting import fabricate


def cell(low: float | None, high: float | None) -> Cell:
    return Cell("", "", low, low, high)


@pytest.fixture(scope="module")
def config() -> Config:
    return fabricate.small()


@pytest.mark.parametrize(
    ("signs", "verdict"),
    [
        ((1, 1), "shown"),
        ((1, 0), "open"),
        ((0, 0), "open"),
        ((1, -1), "contradicted"),
        ((0, -1), "contradicted"),
        ((1, None), "shown"),
        ((None, None), "not comparable"),
        ((), "not comparable"),
    ],
)
def test_a_claim_is_shown_only_if_every_comparison_shows_it(signs: tuple[Sign | None, ...], verdict: str) -> None:
    named = {f"pair {number}": sign for number, sign in enumerate(signs, start=1)}
    claim = claims.judge("Figure 3 (b)", claims.Evidence("so", named, "this with that"))
    assert claim.verdict == verdict
    assert claim.anchor == "figure3"
    if signs == (1, -1):
        assert claim.here == "1 of 2 show it (pair 1), 1 the opposite (pair 2)."
    if signs == (1, None):
        assert claim.here == "1 of 1 show it, 1 absent."


@pytest.mark.parametrize(
    ("shown", "here"),
    [(0, "0 of 9 show it."), (1, "1 of 9 show it (1)."), (5, "5 of 9 show it."), (8, "8 of 9 show it (all but 9)."),
     (9, "9 of 9 show it.")],
)  # fmt: skip
def test_a_claim_names_the_comparisons_that_show_it_where_they_are_few(shown: int, here: str) -> None:
    signs: dict[str, Sign | None] = {str(number): 1 if number <= shown else 0 for number in range(1, 10)}
    claim = claims.judge("Table 1", claims.Evidence("so", signs, "this with that"))
    assert claim.here == here
    assert claim.compared.startswith("Compared: this with that.")
    assert shown == 0 or f"Show it: {'; '.join(map(str, range(1, shown + 1)))}." in claim.compared


@pytest.mark.parametrize(
    ("one", "other", "sign"),
    [
        ((5.0, 6.0), (1.0, 2.0), 1),
        ((1.0, 2.0), (5.0, 6.0), -1),
        ((1.0, 5.0), (4.0, 9.0), 0),
        ((1.0, 2.0), (2.0, 3.0), 0),
        ((1.0, 2.0), (None, None), None),
    ],
)
def test_intervals_that_touch_leave_a_comparison_open(
    one: tuple[float, float], other: tuple[float | None, float | None], sign: Sign | None
) -> None:
    assert claims.above(cell(*one), cell(*other)) == sign
    assert claims.above(None, cell(1.0, 2.0)) is None


def test_a_bound_must_lie_outside_the_interval() -> None:
    assert [beyond(cell(*ends), 50.0) for ends in ((51.0, 60.0), (40.0, 49.0), (50.0, 60.0))] == [1, -1, 0]
    assert [claims.below(cell(*ends), 0.0) for ends in ((-2.0, -1.0), (1.0, 2.0), (-1.0, 0.0))] == [1, -1, 0]


def over(*values: float) -> Cell:
    """A number with a narrow interval about its first seed, which comes first of several."""
    return Cell("", "", values[0], values[0] - 1, values[0] + 1, over_seeds=OverSeeds.of(tuple(enumerate(values))))


def test_a_bound_must_lie_outside_the_values_of_all_seeds() -> None:
    assert [beyond(over(2.0, other), 0.0) for other in (3.0, -4.0)] == [1, 0]
    assert [claims.below(over(-2.0, other), 0.0) for other in (-3.0, 4.0)] == [1, 0]


def test_one_number_is_above_another_only_if_it_is_for_every_seed() -> None:
    low = over(50.0, 60.0)
    assert [claims.above(over(55.0, other), low) for other in (61.0, 59.0)] == [1, 0]
    assert [claims.above(low, over(55.0, other)) for other in (61.0, 59.0)] == [-1, 0]


def overview(number: int, cells: dict[tuple[str, str], tuple[float, float]], config: Config) -> Claim:
    made = [Cell(row, column, low, low, high) for (row, column), (low, high) in cells.items()]
    claim, *_ = claims.overview({number: made}, {}, config)
    return claim


TRADES = tuple(decision.row for decision in paper_decisions("trades"))
FOUR = ("PGD-AT baseline", "PGD-AT + Sec. 3.3", "TRADES baseline", "TRADES + Sec. 3.3")
LOW, HIGH = (1.0, 2.0), (60.0, 70.0)
# Per table, cells that show its claim; each is one of the two sides of a comparison.
SHOWING: dict[int, dict[tuple[str, str], tuple[float, float]]] = {
    1: {(row, "PGD gain"): LOW for row in ("PGD-AT + Sec. 3.2", "TRADES + Sec. 3.3")},
    2: {(decision.row, "DIFF"): LOW for decision in paper_decisions("pgd_at", "trades")},
    3: {(row, f"from {maker}"): LOW if (row in TRADES[:2]) == (maker == FOUR[2]) else HIGH
        for row in TRADES for maker in FOUR[2:]},
    4: {("PGD", "(3,5)"): (30.0, 35.0), ("APGD", "(3,5)"): LOW, ("SQUARE", "(3,5)"): HIGH},
    5: {(f"T_f = {every}", f"R = {steps}"): HIGH if every == 1 else LOW for every in (1, 4) for steps in (1, 5)},
    6: {(row, "MIN"): HIGH for row in FOUR},
    7: {(row, "MAX"): (-2.0, -1.0) for row in FOUR},
    8: {(f"lambda = {damping} PGD", f"i = {state}"): HIGH if damping == "1" else LOW
        for damping in ("1", "0.5") for state in (1, 2, 3, 4)},
    9: {(row, "images/s"): HIGH if "3.3" in row else LOW for row in FOUR},
    10: {(f"T_f = {every}", f"R = {steps}"): (100 * every / steps, 100 * every / steps + 1)
         for every in (1, 2, 4) for steps in (1, 5)},
}  # fmt: skip


@pytest.mark.parametrize("number", SHOWING)
def test_numbers_that_say_what_the_paper_says_show_its_claim(number: int, config: Config) -> None:
    assert overview(number, SHOWING[number], config).verdict == ("open" if number == 2 else "shown")


def test_what_could_not_come_out_otherwise_is_open_and_says_why(config: Config) -> None:
    claim = overview(2, SHOWING[2], config)
    assert claim.here == "8 of 8 show it. The opposite cannot come out."
    assert "At most open: INTER is a minimum" in claim.compared


@pytest.mark.parametrize("number", SHOWING)
def test_wide_intervals_leave_every_claim_open(number: int, config: Config) -> None:
    wide = {name: (-1000.0, 1000.0) for name in SHOWING[number]}
    assert overview(number, wide, config).verdict == "open"


@pytest.mark.parametrize("number", [number for number in SHOWING if number != 2])
def test_numbers_the_other_way_round_do_not_show_it(number: int, config: Config) -> None:
    turned = {name: (-high, -low) for name, (low, high) in SHOWING[number].items()}
    assert overview(number, turned, config).verdict == "contradicted"


@pytest.mark.parametrize("number", SHOWING)
def test_absent_numbers_are_not_comparable(number: int, config: Config) -> None:
    assert overview(number, {}, config).verdict == "not comparable"


def test_square_is_compared_with_pgd_on_its_own_images(config: Config) -> None:
    few = SHOWING[4] | {("PGD on Square's images", "(3,5)"): (80.0, 90.0)}
    assert overview(4, few, config).verdict == "contradicted"


def row(**values: str) -> dict[str, str]:
    return {"low": "1", "high": "2", **values}


def test_figures_are_judged_by_their_csv(config: Config) -> None:
    raised = row(quantity="prediction entropy: median of the paired difference (nats)", value="1.5")
    reduced = row(kind="entropy with minus without (nats): quantile 0.5", state="3", value="-1", low="-2", high="-0.5")
    before = row(kind="entropy with minus without (nats): quantile 0.5", state="1", value="9")
    curves = [row(row=name, epoch="3", accuracy="1", chosen="True") for name in FOUR]
    found = {claim.name: claim for claim in claims.overview({}, {2: [raised], 3: [reduced, before], 4: curves}, config)}
    assert {name: claim.verdict for name, claim in found.items()} == {
        "Figure 2": "shown", "Figure 3 (b)": "shown", "Figure 3 (c)": "not comparable", "Figure 4": "open",
    }  # fmt: skip
    assert "above in 0 of 1 epochs" in found["Figure 4"].compared


def test_an_absent_figure_has_a_line_without_a_verdict(config: Config) -> None:
    why = [{"note": "Absent: racing."}]
    found = claims.overview({}, {number: why for number in (2, 3, 5)} | {6: []}, config)
    assert {claim.verdict for claim in found} == {"not comparable"}
