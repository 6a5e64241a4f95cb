"""AutoAttack in Tables 1 and 4: every mode against a slow version, what is said of it, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqpipe.analysis import autoattack_outcomes
from deqpipe.analysis.autoattack_outcomes import AutoAttackOutcome
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.evaluation import Evaluation, evaluate_all
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import phrases
from deqpipe.reporting.paper import published
from deqpipe.reporting.tables import table1, table4, tables
from deqpipe.results import records
from deqpipe.statistics import intervals
from deqpipe.workflow import gridpoints, products, vocabulary
from tests.reference import reporting as slow
from tests.reporting import fabricate

DECISION = Decision("deq_trades_random_states", "entropy")
Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def individual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A tree where every attack met every image, and what fooled no surrogate stayed clean."""
    config = fabricate.small({"autoattack": {"mode": "individual", "keep": "success"}})
    return config, fabricate.tree(tmp_path_factory.mktemp("individual"), config)


def evaluation(results: Path, config: Config, decision: Decision = DECISION) -> Evaluation:
    return evaluate_all(Tree(results, config, 0), [decision.model])[decision]


def outcome(results: Path, config: Config, decision: Decision = DECISION) -> AutoAttackOutcome:
    return autoattack_outcomes.outcome(Tree(results, config, 0), evaluation(results, config, decision))


def rewrite(results: Path, config: Config, change: Callable[[Columns], Columns], *, shard: int = 0) -> None:
    """Change the rows of one file of AutoAttack."""
    path = Tree(results, config, 0).autoattack(DECISION)[shard]
    found = records.read(path)
    columns = change({name: np.array(found[name]) for name in records.COLUMNS})
    fabricate.write(path, columns, config, "autoattack", DECISION.model, 0, defence=DECISION.defence)


def of(columns: Columns, attack: str) -> np.ndarray:
    return np.flatnonzero(columns["attack"] == attack)


def taking(columns: Columns, rows: Any) -> Columns:
    return {name: column[rows] for name, column in columns.items()}


def test_individual_mode_equals_a_slow_version(individual: tuple[Config, Path]) -> None:
    config, results = individual
    found = {(cell.row, cell.column): cell for cell in tables.build(1, config, results).table.cells}
    expected = slow.table1(results, seed=0, pgd_steps=config.attack.pgd.steps, mode="individual")
    assert {name: cell.here for name, cell in found.items() if cell.here is not None} == pytest.approx(expected)


def test_in_individual_mode_square_counts_only_where_it_met_every_image(individual: tuple[Config, Path]) -> None:
    config, results = individual
    found = outcome(results, config)
    assert list(found.alone) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert len(found.rows) == 3
    assert "Square is left out of it" in phrases.mode(config)
    whole = fabricate.small({"autoattack": {"mode": "individual", "square_images": 20}})
    assert "left out" not in phrases.mode(whole)


def test_square_alone_on_some_images_makes_no_individual_accuracy(tmp_path: Path) -> None:
    """Of APGD-T and Square, the former is left out where there are three classes: no config tells beforehand."""
    config = fabricate.small({"autoattack": {"mode": "individual"}})
    alone = config.autoattack.model_copy(update={"attacks": ("square",)})
    config = config.model_copy(update={"autoattack": alone})
    results = fabricate.tree(tmp_path, config)
    with pytest.raises(UserError, match="must name one beside square"):
        outcome(results, config)


def test_in_standard_mode_survivors_are_right_under_everything_that_they_met(finished: Path, config: Config) -> None:
    found = outcome(finished, config)
    answers, n = slow.autoattack(finished, DECISION.model, DECISION.defence, seed=0)
    assert found.survived.tolist() == slow.library(answers, n, mode="standard")[1]
    assert found.rows.tolist() == [found.survived.tolist()]
    assert {name: len(one.images) for name, one in found.alone.items()} == {
        name: len(answers[name]) for name in config.autoattack.attacks
    }
    assert found.alone["fab_t"].untouched == found.alone["fab_t"].right.sum()
    assert found.flags == {"it seems to be a dynamic defense!": 2}
    assert found.jobs == 2


def test_all_takes_its_minimum_inside_each_resample(finished: Path, config: Config) -> None:
    gathered = table1.gather(Tree(finished, config, 0))
    (cell,) = [
        one for one in table1.cells(gathered, Tree(finished, config, 0))
        if (one.row, one.column) == (DECISION.row, "ALL")
    ]  # fmt: skip
    rows = np.stack([*gathered.evaluations[DECISION].right, gathered.outcomes[DECISION].survived])
    expected = intervals.minimum(rows, Tree(finished, config, 0).bootstrap)
    assert (cell.here, cell.low, cell.high) == pytest.approx(
        (100 * expected.value, 100 * expected.low, 100 * expected.high)
    )


def test_the_published_row_keeps_the_papers_four_numbers(finished: Path, config: Config) -> None:
    main = tables.build(1, config, finished).table.blocks[0]
    assert main.columns == ("Clean", "PGD", "AA", "ALL", "PGD per image", "ALL per image", "PGD gain")
    (line,) = [line for line in main.lines if line.labels[-1] == "Yang et al. (2022)"]
    assert [shown.paper for shown in line.shown] == ["79.67", "47.12", "48.37", "47.12", "", "", ""]


def test_table_1_says_how_autoattack_was_run_and_why_cells_are_empty(finished: Path, config: Config) -> None:
    notes = " ".join(tables.build(1, config, finished).table.notes)
    for phrase in (
        "APGD-CE 6 steps from 1 random start", "towards each of up to 2 wrong classes", "Square 30 queries",
        "on the first 12 images only", "Mode standard", "image of highest loss", '"it seems to be a dynamic defense!"',
        "(2 of 2 jobs)", "AA and ALL are absent from control rows and the trunk", "a baseline has no gain over itself",
        "APGD-CE minus PGD at the same point",
    ):  # fmt: skip
        assert phrase in notes
    assert "AA is higher than PGD" not in notes


def test_a_weak_autoattack_is_explained(results: Path, config: Config) -> None:
    def withstood(columns: Columns) -> Columns:
        clean = taking(columns, of(columns, "clean"))
        right = np.repeat(clean["label"][:, None], clean["predicted"].shape[1], axis=1)
        point = taking(columns, of(columns, "apgd_ce")[:1])
        parts = [clean | {"predicted": right}]
        for attack in config.autoattack.attacks:
            images = clean["image"] < (config.autoattack.square_images if attack == "square" else 99)
            same = {name: np.repeat(point[name], images.sum()) for name in ("state", "steps", "damping", "crafted_on")}
            named = {"attack": np.full(images.sum(), attack), "predicted": right[images]}
            parts.append(taking(clean, images) | same | named)
        return {name: np.concatenate([part[name] for part in parts if len(part["image"])]) for name in columns}

    for shard in (0, 1):
        rewrite(results, config, withstood, shard=shard)
    table = tables.build(1, config, results).table
    here = {(cell.row, cell.column): cell for cell in table.cells}
    assert here[DECISION.row, "AA"].here == 100
    assert here[DECISION.row, "ALL"].here == here[DECISION.row, "PGD"].here
    assert here[DECISION.row, "ALL"].note == "PGD is lower"
    assert any(note.startswith(f"AA is higher than PGD for {DECISION.row}: AutoAttack") for note in table.notes)


def first_of(attack: str, /, **values: object) -> Callable[[Columns], Columns]:
    def change(columns: Columns) -> Columns:
        for name, value in values.items():
            columns[name][of(columns, attack)[0]] = value
        return columns

    return change


def without_first(attack: str) -> Callable[[Columns], Columns]:
    return lambda columns: taking(columns, np.delete(np.arange(len(columns["image"])), of(columns, attack)[0]))


def doubled(attack: str) -> Callable[[Columns], Columns]:
    return lambda columns: taking(columns, np.append(np.arange(len(columns["image"])), of(columns, attack)[0]))


def decided_elsewhere(columns: Columns) -> Columns:
    """As if the state before had decided when the attacks were run."""
    columns["predicted"] = np.roll(columns["predicted"], -1, axis=1)
    return columns


def still_attacked(columns: Columns) -> Columns:
    """APGD-CE turns an image that APGD-T attacks nevertheless."""
    image = columns["image"][of(columns, "apgd_t")[0]]
    row = of(columns, "apgd_ce")[columns["image"][of(columns, "apgd_ce")] == image][0]
    columns["predicted"][row] = (columns["label"][row] + 1) % 10
    return columns


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_first("clean"), r"on clean images lack 1 of 20 images, the first of them 0"),
        (without_first("apgd_ce"), r"under APGD-CE lack 1 of \d+ images"),
        (without_first("square"), r"under Square lack 1 of \d+ images"),
        (doubled("apgd_t"), r"1 images stand twice"),
        (still_attacked, r"under APGD-T hold image \d+, which is not among the \d+ images"),
        (first_of("apgd_t", state=4), r"hold an attack at state4_.*, but the strongest point is state2_steps3"),
        (first_of("apgd_ce", attack="pgd"), r"hold the attack pgd at state2_.*, which is not asked for"),
        (first_of("fab_t", crafted_on="deq_trades_base"), r"images crafted on deq_trades_base, but must be of"),
        (first_of("clean", defence="plain"), r"with defence plain to images crafted on no model"),
        (first_of("apgd_ce", label=77), r"give image \d+ different labels"),
        (decided_elsewhere, r"say nothing of state \d, which decides; run the workflow again"),
    ],
)  # fmt: skip
def test_bad_records_are_refused_in_one_line(
    results: Path, config: Config, change: Callable[[Columns], Columns], said: str
) -> None:
    rewrite(results, config, change)
    with pytest.raises(UserError, match=said) as told:
        outcome(results, config)
    assert "\n" not in str(told.value)


def test_records_of_another_decision_are_refused(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    tree.autoattack(Decision(DECISION.model, "plain"))[0].replace(tree.autoattack(DECISION)[0])
    with pytest.raises(UserError, match=r"was made by spec .* run the workflow again"):
        outcome(results, config)


def test_an_attack_that_too_few_classes_left_out_is_not_missed(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    for path in tree.autoattack(DECISION):
        found = records.read(path)
        columns = {name: np.array(found[name]) for name in records.COLUMNS}
        kept = np.isin(columns["attack"], ("clean", "apgd_ce"))
        right = columns["attack"] != "clean"
        columns["predicted"][right] = (columns["label"][right, None] + 1) % 10
        fabricate.write(path, taking(columns, kept), config, "autoattack", DECISION.model, 0,
                        defence=DECISION.defence, flags=["APGD-T is left out: it needs 4 classes"])  # fmt: skip
    assert list(outcome(results, config).alone) == ["apgd_ce"]


@pytest.mark.slow
def test_a_seed_without_autoattack_is_no_complete_one(tmp_path: Path) -> None:
    config = fabricate.small({"seeds": [0, 1]})
    results = fabricate.tree(tmp_path, config)
    tree = Tree(results, config, 1)
    assert tree.complete(products.TABLES[1].needs(config))
    assert tree.complete(products.TABLES[4].needs(config))
    tree.autoattack(Decision("resnet18_trades", "plain"))[0].unlink()
    tree.top(vocabulary.SWEEP_MODEL)[1].unlink()
    assert not tree.complete(products.TABLES[1].needs(config))
    assert not tree.complete(products.TABLES[4].needs(config))


def test_table_4_has_the_strongest_points_first_and_square_beside_pgd_on_its_images(
    finished: Path, config: Config
) -> None:
    table = tables.build(4, config, finished).table
    (block,) = table.blocks
    points = [
        point for point in fabricate.ranked(config, vocabulary.SWEEP_MODEL, 0, "entropy") if point.damping == 0.5
    ][:3]
    assert block.columns == tuple(f"({point.state},{point.steps})" for point in points)
    assert [line.labels for line in block.lines] == [
        ("all 20", "PGD"), ("all 20", "APGD"), ("first 12", "PGD"), ("first 12", "APGD"), ("first 12", "SQUARE"),
    ]  # fmt: skip


def test_table_4_has_three_rows_where_square_met_every_image(tmp_path: Path) -> None:
    config = fabricate.small({"autoattack": {"square_images": 500}})
    results = fabricate.tree(tmp_path, config)
    table = tables.build(4, config, results).table
    assert [line.labels for line in table.blocks[0].lines] == [("all 20", kind) for kind in ("PGD", "APGD", "SQUARE")]
    expected = slow.table4(results, seed=0, count=3)
    assert {(cell.row, cell.column): cell.here for cell in table.cells} == pytest.approx(expected)


def test_the_papers_numbers_stand_beside_the_same_points() -> None:
    assert published.value(4, table4.PGD, table4.column_name(gridpoints.GridPoint(0.5, 3, 5))) == 55.18
    assert published.value(4, table4.SQUARE, table4.column_name(gridpoints.GridPoint(0.5, 6, 5))) == 66.75


@pytest.mark.parametrize(("attack", "reversal"), [("apgd_ce", "APGD minus PGD"), ("square", "SQUARE minus APGD")])
def test_reversals_are_named_from_the_numbers(results: Path, config: Config, attack: str, reversal: str) -> None:
    """An APGD that turns nothing is weaker than PGD; a Square that turns everything is stronger than APGD."""
    tree = Tree(results, config, 0)
    (point, *_) = [
        point for point in fabricate.ranked(config, vocabulary.SWEEP_MODEL, 0, "entropy") if point.damping == 0.5
    ]
    for path in tree.top(vocabulary.SWEEP_MODEL):
        found = records.read(path)
        columns = {name: np.array(found[name]) for name in records.COLUMNS}
        rows = (columns["attack"] == attack) & (columns["state"] == point.state) & (columns["steps"] == point.steps)
        shift = 0 if attack == "apgd_ce" else 1
        columns["predicted"][rows] = (columns["label"][rows, None] + shift) % 10
        fabricate.write(path, columns, config, "attack_top", vocabulary.SWEEP_MODEL, 0)
    (note,) = [note for note in tables.build(4, config, results).table.notes if note.startswith(reversal)]
    named = re.search(r"Reversed beyond the interval at (.*), within it at (.*)\.$", note)
    assert named is not None
    assert table4.column_name(point) in named[1]


def test_top_records_of_another_point_or_without_an_image_are_refused(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    path = tree.top(vocabulary.SWEEP_MODEL)[0]
    whole = records.read(path)
    for change, said in (
        (first_of("apgd_ce", damping=1.0), r"hold the attack apgd_ce at .*damping1.0, which is not asked for"),
        (without_first("square"), r"under Square at state\d.* lack 1 of 12 images"),
        (first_of("square", attack="fab_t"), r"hold the attack fab_t"),
    ):
        columns = change({name: np.array(whole[name]) for name in records.COLUMNS})
        fabricate.write(path, columns, config, "attack_top", vocabulary.SWEEP_MODEL, 0)
        with pytest.raises(UserError, match=said):
            table4.gather(tree)


@pytest.mark.slow
def test_a_spread_is_over_the_seeds_that_have_the_point(tmp_path: Path) -> None:
    config = fabricate.small({"seeds": [0, 1], "autoattack": {"top_points": 2}})
    results = fabricate.tree(tmp_path, config)
    seeds = [slow.table4(results, seed=seed, count=2) for seed in (0, 1)]
    found = tables.build(4, config, results).table
    for cell in found.cells:
        values = [seed[cell.row, cell.column] for seed in seeds if (cell.row, cell.column) in seed]
        assert cell.spread == (pytest.approx((min(values), max(values))) if len(values) == 2 else None)
    assert any("Each seed ranks its own points" in note for note in found.notes)


def test_with_racing_columns_per_image_are_absent_with_the_reason(config: Config) -> None:
    raced = fabricate.small({"racing": {"enabled": True, "images": 10, "confidence": 0.99}})
    assert not phrases.every_attack_on_every_image(raced)
    assert phrases.every_attack_on_every_image(config)
    assert phrases.every_attack_on_every_image(
        fabricate.small({"racing": {"enabled": True, "images": 20, "confidence": 0.99}})
    )
    assert "Columns per image are absent" in table1._absent(raced)
    assert table1._columns(table1.COLUMNS, raced) == ("Clean", "PGD", "AA", "ALL", "PGD gain")
