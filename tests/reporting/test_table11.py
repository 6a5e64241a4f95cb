"""Table 11, Figures 7 and 8, and what the report makes of them; values are counted again in test_reference_tables."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqpipe.analysis import gains, union
from deqpipe.analysis.decision import Decision, paper_decisions
from deqpipe.analysis.evaluation import evaluate_all
from deqpipe.analysis.layout import Tree
from deqpipe.config import AttackSuiteConfig, Config
from deqpipe.errors import UserError
from deqpipe.reporting import closing
from deqpipe.reporting.cells import Cell, Table, by_name, show
from deqpipe.reporting.figures import figure8, figures, overview
from deqpipe.reporting.report import claims, standings, summary
from deqpipe.reporting.tables import screen, table11, tables
from deqpipe.reporting.tables.screen import Screen
from deqpipe.results import numbers, records
from deqpipe.statistics.intervals import Bootstrap, Term, paired_difference, pooled_difference
from deqpipe.workflow import equal_cost, products
from deqpipe.workflow.gridpoints import GridPoint
from tests.reporting import fabricate


@pytest.fixture(scope="module")
def table(finished: Path, config: Config) -> Table:
    return tables.build(11, config, finished).table


def longer(config: Config) -> str:
    return (
        f"undefended, N = {equal_cost.times_as_long(config.entropy, config.solver.steps) * config.solver.steps} steps"
    )


def test_rows_are_the_decisions_of_the_suite_and_what_explains_them_below(table: Table, config: Config) -> None:
    methods = [line.labels[-1] for line in table.blocks[0].lines]
    beside = ["control: R = 0", longer(config)]
    framework = ["no states", "baseline", "+ Sec. 3.2", *beside, "+ Sec. 3.3", "+ Secs. 3.2 & 3.3", *beside]
    assert methods == framework * 2
    assert [line.labels[-1] for line in table.blocks[-1].lines] == methods


def test_the_union_is_below_every_part_of_it(table: Table) -> None:
    cells = by_name(table.cells)
    for (row, column), cell in cells.items():
        if column in ("Clean", "PGD", "PGD per image", "AA", "Exact", "Queries"):
            assert (cells[row, "Union"].here or 0) <= (cell.here or 0)


def test_a_gain_leaves_out_what_one_of_the_two_did_not_face_and_says_so(table: Table) -> None:
    cells = by_name(table.cells)
    note = cells["TRADES + Sec. 3.2", "Sec. 3.2 over R = 0"].note
    assert note == "over TRADES + Sec. 3.2, control: R = 0, without AutoAttack, which one of them did not face"
    assert cells["TRADES + Sec. 3.2", "Sec. 3.2 under union"].note == "over TRADES baseline"
    assert any("did not face AutoAttack" in one for one in table.notes)


def test_a_longer_solve_stands_beside_sec_32_with_what_both_cost(table: Table, config: Config) -> None:
    cells = by_name(table.cells)
    gain = cells["TRADES + Secs. 3.2 & 3.3", "Sec. 3.2 over longer solve"]
    assert gain.note.startswith("over TRADES + Sec. 3.3, longer solve, without AutoAttack and grid")
    assert gain.low is not None
    assert ("TRADES baseline", "Sec. 3.2 over longer solve") not in cells
    assert ("TRADES baseline, longer solve", "Sec. 3.2 under union") not in cells
    (said,) = (one for one in table.notes if one.startswith(longer(config).capitalize().replace("n =", "N =")))
    assert f"a decision: {longer(config).split()[-2]}; with Sec. 3.2: " in said


FEW: dict[str, Any] = {
    "attack": {"grid": {"states": [2], "steps": [1], "damping": [1.0]}, "images_per_job": 20, "states_per_job": 4},
    "autoattack": {"images_per_job": 20}, "suite": {"images": 12, "images_per_job": 12, "radius_images": 12},
}  # fmt: skip
"""A tree that is made in a moment."""


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, Path, Config]:
    """The table of two seeds, and where its records are."""
    config = fabricate.small(FEW, {"seeds": [1, 0]})
    results = fabricate.tree(tmp_path_factory.mktemp("two"), config)
    return tables.build(11, config, results).table, results, config


def test_the_networks_of_all_seeds_together_stand_below_what_they_explain_and_every_seed_is_compared_with_them(
    of_two: tuple[Table, Path, Config],
) -> None:
    table, results, config = of_two
    methods = [line.labels[-1] for line in table.blocks[0].lines]
    together = "undefended, ensemble of 2 seeds"
    assert [methods[n - 1] for n, one in enumerate(methods) if one == together] == [longer(config)] * 4
    cells, (name, column) = by_name(table.cells), (DEFENDED, "Sec. 3.2 over ensemble")
    gain = cells[name, column]
    assert gain.note.startswith("over TRADES baseline, ensemble, without AutoAttack and grid, which one of them did")
    faces = [union.gather(Tree(results, config, seed)).by_decision for seed in config.seeds]
    pairs = [
        union.shared_difference(
            one[Decision("deq_trades_base", "entropy")], one[Decision("deq_trades_base", "ensemble")]
        )
        for one in faces
    ]
    assert (pairs[0][1] == pairs[1][1]).all(), "it is one decision"
    expected = [100 * (mine.mean() - theirs.mean()) for mine, theirs, _ in pairs]
    assert gain.here == pytest.approx(expected[0])
    assert gain.over_seeds is not None
    pooled = cells[name, f"{column}, seeds pooled"]
    assert pooled.here == pytest.approx(np.mean(expected))
    assert ("TRADES baseline, ensemble", "Union gain") not in cells


def test_a_note_says_what_the_decision_of_all_seeds_costs(of_two: tuple[Table, Path, Config]) -> None:
    (said,) = (one for one in of_two[0].notes if one.startswith("Undefended, ensemble of 2 seeds: "))
    state = fabricate.early(of_two[2], "plain")
    assert "of the networks of seeds 1, 0, each undefended" in said
    assert f"network by network: PGD-AT baseline {state} + {state} = {2 * state};" in said


def test_before_all_seeds_are_there_and_with_one_seed_nothing_is_said_of_them_together(
    of_two: tuple[Table, Path, Config], table: Table, tmp_path: Path
) -> None:
    _, results, config = of_two
    part = Path(shutil.copytree(results, tmp_path / "part"))
    shutil.rmtree(part / "attacks" / "ensemble")
    early = tables.build(11, config, part).table
    assert "Seeds without complete records: 0." in early.conditions
    for one in (early, table):
        assert not any("ensemble" in cell.row or "ensemble" in cell.column for cell in one.cells)
        assert not any("ensemble" in note for note in one.notes)
    assert "ensemble" not in table.caption


def test_the_table_fits_a_narrow_terminal_with_the_union_and_what_is_left(table: Table) -> None:
    lines = screen.brief(table, Screen(80, 40), foremost=products.TABLES[11].foremost).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40
    assert all(word in "\n".join(lines) for word in ("Union", "PGD", "under"))


def test_without_a_suite_there_is_no_table_and_no_figure_and_asking_says_why(finished: Path, tmp_path: Path) -> None:
    config = fabricate.small({"suite": {"enabled": False}})
    assert not any(one.wanted(config) for one in (products.TABLES[11], products.FIGURES[7], products.FIGURES[8]))
    with pytest.raises(UserError, match=r"suite\.enabled is false, but must be true"):
        tables.write(11, config, finished, output_stem=tmp_path / "table11")
    assert not list(tmp_path.iterdir())


def test_an_attack_that_fails_warns_in_the_table_and_where_a_run_ends(results: Path, config: Config) -> None:
    path = next((results / "attacks/suite/deq_trades_base/seed0").glob("plain_*.parquet"))
    found = records.read(path)
    columns = {**found.columns, "lost_gradient": np.ones(len(found), np.float32)}
    records.write(path, columns, provenance=found.provenance[0])
    table = tables.build(11, config, results).table
    (said,) = table.warnings
    assert said.startswith("Sanity check failed (lost gradients) on TRADES baseline: 100% of the steps of")
    assert table.notes[0] == said
    told = numbers.Numbers(
        summary=("One.",), warnings=(said, said), seeds=(0,), tables=(), cells=(), config={},
        made=numbers.Made(versions={}, code=(), devices=(), seconds=0, evaluations={}),
        origin=numbers.Origin(config="", spec="", revision=1),
    )  # fmt: skip
    numbers.write(results / numbers.NAME, told)
    first, *_ = closing.lines(results, columns=400)
    assert first == f"- WARNING: {said} 1 more failed: see the top of the report."


@pytest.mark.parametrize("number", [7, 8])
def test_figures_say_what_they_draw(finished: Path, config: Config, tmp_path: Path, number: int) -> None:
    figures.write(number, config, finished, output_stem=tmp_path / "figure")
    told = json.loads((tmp_path / "figure.json").read_text())
    rows = (tmp_path / "figure.csv").read_text().splitlines()
    deciding = [one.row for one in paper_decisions("pgd_at", "trades")]
    assert all(any(row.startswith(f"{one},") for row in rows) for one in deciding)
    assert all(one in told["alt"] for one in deciding)


def test_the_last_point_of_a_curve_over_cost_is_what_the_suite_leaves(finished: Path, config: Config) -> None:
    for decision in (Decision("deq_trades_base", "plain"), Decision("deq_trades_base", "entropy")):
        outcome = union.outcome(Tree(finished, config, 0), decision)
        curve = next(figure8._curves(outcome))
        attacked = outcome.right_under(outcome.attacking)  # noise is no attack
        assert curve.accuracy[-1] == pytest.approx(attacked.mean())
        assert (np.diff(curve.accuracy) <= 0).all()


def test_the_cost_of_a_point_of_the_grid_is_its_states_and_twice_its_unrolled_steps(config: Config) -> None:
    lead, steps = config.attack.unroll.lead_step, config.attack.pgd.steps
    assert figure8.point_cost(GridPoint(0.5, 3, 4), config) == steps * (3 + 2 * (4 + lead))


# Pooling


def test_pooled_gains_are_means_and_wider_where_trainings_differ() -> None:
    draws, bootstrap = np.random.default_rng(0), Bootstrap(resamples=500, confidence=0.95, seed=0)
    right = draws.random((1, 300)) < 0.5
    wrong = np.zeros_like(right)

    def seed(share: float) -> tuple[Term, Term]:
        return Term(right & (np.arange(300) < 300 * share)), Term(wrong, -1)

    same, apart = (
        pooled_difference([seed(one) for one in shares], bootstrap) for shares in ((0.5,) * 3, (0.2, 0.5, 0.8))
    )
    assert same.value == pytest.approx(right[0, :150].sum() / 300)
    assert apart.value == pytest.approx(np.mean([right[0, : int(300 * one)].sum() / 300 for one in (0.2, 0.5, 0.8)]))
    assert apart.high - apart.low > 1.5 * (same.high - same.low)
    with pytest.raises(ValueError, match="one training"):
        pooled_difference([seed(0.5)], bootstrap)


# The parts of a gain


def test_the_parts_of_a_gain_add_up_with_and_without_restarts(finished: Path, config: Config) -> None:
    tree = Tree(finished, config, 0)
    found = evaluate_all(tree, ("deq_trades_base", "deq_trades_random_states"), elsewhere=gains.states_needed(tree))
    released = fabricate.small({"entropy": {"resolve": "quasi_newton"}})
    for decision in (one.decision for one in found.values() if one.decision.defence == "entropy"):
        plain = gains.of_defence(decision, found, config, tree.bootstrap)
        again = gains.of_defence(decision, found, released, tree.bootstrap)
        assert plain is not None
        assert again is not None
        assert plain.restarts is None
        assert again.restarts is not None
        assert plain.whole.value == pytest.approx(plain.state.value + plain.descent.value)
        assert again.whole.value == pytest.approx(again.state.value + again.restarts.value + again.descent.value)


# Claims, summary, picture

DEFENDED = "TRADES + Sec. 3.2"


Ends = tuple[float, float, float]
"""Value and interval."""


def with_union(*, by_figure: Ends, left: Ends, fall: Ends) -> dict[int, tuple[Cell, ...]]:
    """Cells in which Sec. 3.2 gains in Table 1, on other images, and in Table 11 as a test says."""
    alone = [Cell(DEFENDED, column, 12.0, 5.0, 19.0, 10_000) for column in ("PGD gain", "3.2: descent")]
    columns = (table11.OVER_BASELINE, table11.OVER_CONTROL)
    gains = [
        Cell(DEFENDED, column, *ends, 1000)
        for gain in columns
        for column, ends in ((gain.by_figure, by_figure), (gain.under_union, left), (gain.fall, fall))
    ]
    return {1: tuple(alone), 11: tuple(gains)}


SHOWN, OPEN, LOSS = (9.0, 4.0, 14.0), (1.0, -4.0, 6.0), (-9.0, -14.0, -4.0)


@pytest.mark.parametrize(
    ("by_figure", "left", "fall", "verdict", "first"),
    [
        (SHOWN, SHOWN, SHOWN, "shown", ""),  # it fell, and what is left is a gain all the same
        (SHOWN, OPEN, SHOWN, "open", f"Lost under the union of all attacks: {DEFENDED}. "),
        (SHOWN, OPEN, OPEN, "open",
         f"Too few images to tell whether it survives the union of all attacks: {DEFENDED}. "),
        (OPEN, OPEN, SHOWN, "open", ""),
        (OPEN, LOSS, SHOWN, "contradicted", ""),
    ],
)  # fmt: skip
def test_a_gain_is_lost_only_where_its_fall_on_the_same_images_is_shown(
    config: Config, by_figure: Ends, left: Ends, fall: Ends, verdict: str, first: str
) -> None:
    """It was called lost wherever fewer images made its interval wider than that of Table 1."""
    found = {
        one.name: one for one in claims.overview(with_union(by_figure=by_figure, left=left, fall=fall), {}, config)
    }
    for name in ("Table 1", "Table 1 (Sec. 3.2)"):
        assert found[name].verdict == verdict
        assert found[name].here.startswith(f"{first}{int(verdict == 'shown')} of 1 show it")
        assert "under the union of all attacks (Table 11, 1,000 images)" in found[name].compared


def test_the_fall_of_a_gain_is_paired_and_that_of_the_same_images(table: Table, finished: Path, config: Config) -> None:
    """Its interval is that of one sum of four terms, which other images or a fall taken off apart would not give."""
    tree, cells = Tree(finished, config, 0), by_name(table.cells)
    faces = union.gather(tree).by_decision
    one, other = (faces[Decision("deq_trades_base", name)] for name in ("entropy", "plain"))
    assert one.grid is not None
    assert other.grid is not None
    here, there, _ = union.shared_difference(one, other)
    terms = (Term(one.grid), Term(other.grid, -1), Term(here[None], -1), Term(there[None]))
    expected = paired_difference(terms, (), tree.bootstrap)
    gain = table11.OF_DEFENCE
    fall = cells[DEFENDED, gain.fall]
    assert (fall.here, fall.low, fall.high) == pytest.approx(
        [100 * end for end in (expected.value, expected.low, expected.high)]
    )
    assert fall.n == cells[DEFENDED, gain.by_figure].n == cells[DEFENDED, gain.under_union].n == len(here)


def test_what_only_explains_a_gain_is_never_printed_bold_and_has_no_gain(table: Table, config: Config) -> None:
    """A longer solve was."""
    rival = "TRADES + Sec. 3.3, longer solve"
    cells = dict(by_name(table.cells))
    best = max(cells[one.row, "Union"].here or 0 for one in paper_decisions("pgd_at", "trades"))
    for kept in (best, 99.0):
        cells[rival, "Union"] = replace(cells[rival, "Union"], here=kept)
        first, *_ = table11.blocks(cells, config)
        at = first.columns.index("Union")
        bold = [line.labels[-1] for line in first.lines if line.shown[at].strong]
        assert bold
        assert longer(config) not in bold
    assert not any(row == rival and column in (*table11.FALLS, "Union gain") for row, column in cells)


def test_what_each_attack_turned_is_counted_in_the_csv_and_not_in_a_note(table: Table) -> None:
    """A note of 3,000 characters held it."""
    assert max(map(len, table.notes)) < 1500
    turned = [cell for cell in table.cells if cell.column.startswith(table11.TURNED)]
    assert {"turned by exact_margin", "turned by square"} <= {cell.column for cell in turned}
    assert all(cell.here is not None and cell.n is not None and cell.here <= cell.n for cell in turned)
    assert not any(table11.TURNED in column for block in table.blocks for column in block.columns)


def test_one_target_is_one_class(table: Table, config: Config) -> None:
    assert not any("1 classes" in note for note in table.notes)
    asked = config.suite
    assert isinstance(asked, AttackSuiteConfig)
    one, two = (config.model_copy(update={"suite": asked.model_copy(update={"targets": n})}) for n in (1, 2))
    assert "(targeted losses: one class)" in table11._budget(one)
    assert "(targeted losses: 2 classes)" in table11._budget(two)


def test_without_a_union_a_claim_says_what_it_rests_on() -> None:
    first = with_union(by_figure=SHOWN, left=SHOWN, fall=SHOWN)[1]
    found, _ = claims.overview({1: first}, {}, fabricate.small({"suite": {"enabled": False}}))
    assert found.verdict == "shown"
    assert "the paper's figure, as there is no union (suite.enabled: false)" in found.compared


def test_the_summary_has_both_figures_and_what_is_left(table: Table, finished: Path, config: Config) -> None:
    written = {1: tables.build(1, config, finished).table, 11: table}
    said = summary.sentences(written, config)
    assert len(said) == 5
    cells = by_name(table.cells)
    best = max((one.row for one in paper_decisions("pgd_at", "trades")), key=lambda row: cells[row, "Union"].here or 0)
    assert f"the most robust DEQ is {best}, right on {summary.value(cells[best, 'Union'])}, by the paper's" in said[0]
    after = cells[DEFENDED, "Sec. 3.2 under union"]
    assert "under the union its gain over the same weights undefended" in said[1]
    assert "; by the paper's figure it is " in said[1]
    assert said[2].startswith("Sec. 3.3")
    assert said[3].startswith("The descent of Sec. 3.2 alone: under the union its gain over its own control")
    pooled = replace(after, column="Sec. 3.2 under union, seeds pooled", here=33.0, low=30.0, high=36.0)
    again = summary.sentences({**written, 11: replace(table, cells=(*table.cells, pooled))}, config)
    assert f"holds for {DEFENDED}, +33.0 points (+30 to +36)" in again[1]


def test_every_number_of_the_summary_is_of_the_suites_images(table: Table, finished: Path, config: Config) -> None:
    """One sentence had a gain of Table 1's images, another the same gain of the suite's: they contradicted each
    other."""
    other = tables.build(1, config, finished).table
    moved = replace(other, cells=tuple(replace(cell, here=77.7, low=77.6, high=77.8) for cell in other.cells))
    assert summary.sentences({1: other, 11: table}, config) == summary.sentences({1: moved, 11: table}, config)
    assert standings.standings({1: other, 11: table}) == standings.standings({1: moved, 11: table})
    cells = by_name(table.cells)
    whole, descent = (
        [cells[one.row, gain.by_figure].here or 0.0 for one in paper_decisions("pgd_at", "trades") if "3.2" in one.row]
        for gain in (table11.OF_DEFENCE, table11.OVER_CONTROL)
    )
    rest = sorted(one - other for one, other in zip(whole, descent, strict=True))
    ends = dict.fromkeys(show(Cell("", "", end), signed=True).value for end in (rest[0], rest[-1]))
    said = summary.sentences({11: table}, config)[3]
    assert said.endswith(f"another early state makes the rest of Sec. 3.2's gain, {' to '.join(ends)} points.")


def test_the_picture_has_the_union_in_place_of_the_worst_case(table: Table, finished: Path, config: Config) -> None:
    first = tables.build(1, config, finished).table
    with_it, without = overview.shown({1: first, 11: table}), overview.shown({1: first})
    assert [one.column for one in overview.series(with_it)] == ["Clean", "PGD", "AA", "Union"]
    assert [one.column for one in overview.series(without)] == ["Clean", "PGD", "AA", "ALL per image"]
    assert with_it["TRADES baseline", "PGD"].here == by_name(table.cells)["TRADES baseline", "PGD"].here
    assert with_it["TRADES baseline", "PGD"].paper == without["TRADES baseline", "PGD"].paper is not None
    assert len({cell.n for cell in with_it.values()}) == 1
