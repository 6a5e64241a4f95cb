"""Table 3 from records: against a slow version, the same images twice, what is absent, what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Cell
from deqpipe.reporting.paper import published
from deqpipe.reporting.tables import tables
from deqpipe.results import records
from deqpipe.workflow import stages, vocabulary
from tests.reference.reporting import METHODS, frame
from tests.reporting import fabricate

ROWS = {
    f"TRADES {method}": (f"deq_trades_{training}", defence)
    for (training, defence), method in METHODS.items()
}  # fmt: skip
DEFENDED = {"TRADES + Sec. 3.2": "deq_trades_base", "TRADES + Secs. 3.2 & 3.3": "deq_trades_random_states"}


def cells(config: Config, results: Path) -> dict[tuple[str, str], Cell]:
    return {(cell.row, cell.column): cell for cell in tables.build(3, config, results).table.cells}


def accuracies(rows: pd.DataFrame, results: Path, model: str, defence: str, *, seed: int) -> dict[Any, float]:
    """Accuracy (%) per point, one row after another."""
    state = json.loads((results / "select" / model / f"seed{seed}.json").read_text())[defence]["state"]
    right: dict[Any, list[bool]] = {}
    for row in rows[(rows["model"] == model) & (rows["defence"] == defence)].to_dict("records"):
        right.setdefault((row["damping"], row["state"], row["steps"]), []).append(
            row["predicted"][state - 1] == row["label"]
        )
    return {point: 100 * sum(found) / len(found) for point, found in right.items()}


def slow(results: Path, *, seed: int = 0) -> dict[tuple[str, str], float]:
    values = {}
    for row, (model, defence) in ROWS.items():
        for column, (crafter, _) in ROWS.items():
            grid = frame(results / "attacks" / "grid" / crafter / f"seed{seed}")
            values[row, f"from {column}"] = min(accuracies(grid, results, model, defence, seed=seed).values())
        for column, crafter in DEFENDED.items():
            name = f"from {column}"
            grid, looped = (frame(results / "attacks" / kind / crafter / f"seed{seed}") for kind in ("grid", "in_loop"))
            seen = accuracies(looped, results, model, defence, seed=seed)
            blind = accuracies(grid, results, model, defence, seed=seed)
            unseen = min(blind[point] for point in seen)
            values[row, f"{name}, in the loop"] = min(seen.values())
            values[row, f"{name}, same points blind"] = unseen
            values[row, f"{name}, in the loop minus blind"] = min(seen.values()) - unseen
    return values


def rewrite(path: Path, config: Config, stage: stages.StageName, model: str, changed: Mapping[str, Any]) -> None:
    """Change the last row of a file, which another model judged."""
    found = records.read(path)
    columns: dict[str, np.ndarray] = {name: np.array(found[name]) for name in records.COLUMNS}
    for name, value in changed.items():
        columns[name][-1] = value
    fabricate.write(path, columns, config, stage, model, 0)


def test_values_equal_a_slow_version(finished: Path, config: Config) -> None:
    here = {name: cell.here for name, cell in cells(config, finished).items()}
    assert here == pytest.approx(slow(finished))


def test_the_papers_numbers_stand_in_the_four_by_four_and_nowhere_else(finished: Path, config: Config) -> None:
    found = cells(config, finished)
    beside = {name: cell.paper for name, cell in found.items() if cell.paper is not None}
    assert beside == {(one.row, one.column): one.value for one in published.NUMBERS if one.table == 3}
    assert all(cell.difference is None for cell in found.values())


def test_a_comparable_run_is_compared_in_the_four_by_four(
    finished: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "comparable", lambda _: True)
    compared = [cell for cell in cells(config, finished).values() if cell.difference is not None]
    assert len(compared) == 16


def test_columns_of_one_model_are_the_same_images_and_the_table_says_so(finished: Path, config: Config) -> None:
    found = cells(config, finished)
    for row in ROWS:
        for plain, defended in (("baseline", "+ Sec. 3.2"), ("+ Sec. 3.3", "+ Secs. 3.2 & 3.3")):
            one, other = found[row, f"from TRADES {plain}"], found[row, f"from TRADES {defended}"]
            assert (one.here, one.low, one.high) == (other.here, other.low, other.high)
            assert other.note == f"{one.note}; the images of column from TRADES {plain}"
    assert "are the same images" in tables.build(3, config, finished).table.notes[0]


def test_every_number_lies_in_its_interval(finished: Path, config: Config) -> None:
    for cell in cells(config, finished).values():
        assert cell.here is not None
        assert cell.low is not None
        assert cell.high is not None
        assert cell.low <= cell.here <= cell.high
        assert cell.n == config.evaluation.images


def test_the_lowest_number_of_each_row_is_bold_but_no_difference(finished: Path, config: Config) -> None:
    main, looped = tables.build(3, config, finished).table.blocks
    for line in (*main.lines, *looped.lines):
        columns = main.columns if line in main.lines else looped.columns
        minima = {float(one.value) for one, name in zip(line.shown, columns, strict=True) if "minus" not in name}
        bold = {one.value for one in line.shown if one.strong}
        assert {float(value) for value in bold} == {min(minima)}
        assert not any(one.strong for one, name in zip(line.shown, columns, strict=True) if "minus" in name)


@pytest.mark.slow
def test_without_transfer_the_other_models_cells_are_absent_with_the_reason(tmp_path: Path) -> None:
    config = fabricate.small({"attack": {"transfer": False}})
    table = tables.build(3, config, fabricate.tree(tmp_path, config)).table
    absent = [cell for cell in table.cells if cell.here is None]
    assert len(absent) == 8 + 8
    assert all("attack.transfer is false" in cell.note for cell in absent)
    assert sum("Dashes: attack.transfer is false" in note for note in table.notes) == 1
    expected = sum(cell.here is not None and cell.column.endswith("in the loop") for cell in table.cells)
    assert expected == 8


def test_origin_names_every_file(finished: Path, config: Config) -> None:
    paths = {one.path for one in tables.build(3, config, finished).origin.inputs}
    tree = Tree(finished, config, 0)
    for model in vocabulary.TRADES:
        expected = (*tree.attacked(model), *tree.in_loop(model), tree.select(model))
        assert {str(path.relative_to(finished)) for path in expected} <= paths


@pytest.mark.slow
def test_spread_over_seeds_stands_beside_the_first_seed(tmp_path: Path) -> None:
    config = fabricate.small({"seeds": [0, 1]})
    results = fabricate.tree(tmp_path, config)
    first, second = slow(results), slow(results, seed=1)
    for name, cell in cells(config, results).items():
        assert cell.here == pytest.approx(first[name])
        assert cell.spread == pytest.approx((min(first[name], second[name]), max(first[name], second[name])))
    Tree(results, config, 1).in_loop(vocabulary.SWEEP_MODEL)[0].unlink()
    assert all(cell.spread is None for cell in cells(config, results).values())


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("in_loop", {"crafted_on": "deq_pgd_at_base"}, "holds images crafted on deq_pgd_at_base, but must on"),
        ("in_loop", {"image": 99}, "hold image 99, but images 0 to 19 are evaluated"),
        ("in_loop", {"label": 99}, "give one image different labels"),
        ("in_loop", {"steps": 7}, "hold the attack state\\d_steps7"),
        ("in_loop", {"defence": "entropy_zero_steps"}, "lack 1 of"),
        ("grid", {"model": "deq_pgd_at_base"}, "lack 1 of"),
    ],
)
def test_wrong_rows_are_refused(
    results: Path, config: Config, kind: str, changed: Mapping[str, Any], message: str
) -> None:
    tree, model = Tree(results, config, 0), "deq_trades_base"
    stage: stages.StageName = "attack_in_loop" if kind == "in_loop" else "attack_grid"
    path = (tree.in_loop(model) if kind == "in_loop" else tree.attacked(model))[0]
    rewrite(path, config, stage, model, changed)
    with pytest.raises(UserError, match=message):
        tables.build(3, config, results)


def test_missing_files_and_those_of_another_configuration_are_refused(results: Path, config: Config) -> None:
    other = fabricate.small({"attack": {"in_loop_points": 3}})
    with pytest.raises(UserError, match="but the configuration asks for"):
        tables.build(3, other, results)
    Tree(results, config, 0).in_loop("deq_trades_base")[0].unlink()
    with pytest.raises(UserError, match="do not exist"):
        tables.build(3, config, results)


def test_too_few_points_in_the_loop_are_refused(results: Path, config: Config) -> None:
    for path in Tree(results, config, 0).in_loop("deq_trades_base"):
        found = records.read(path)
        kept = found.where(found["state"] != 1)
        fabricate.write(path, kept.columns, config, "attack_in_loop", "deq_trades_base", 0)
    with pytest.raises(UserError, match=r"hold \d attacks of the grid, but must hold 4"):
        tables.build(3, config, results)
