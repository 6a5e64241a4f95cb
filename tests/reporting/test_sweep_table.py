"""Table 5 from records: against a slow version, controls, gains, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from deqpipe.analysis import sweep
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting.cells import Cell
from deqpipe.reporting.paper import published
from deqpipe.reporting.tables import table5, tables
from deqpipe.results import records
from deqpipe.workflow import gridpoints, vocabulary
from tests.reference.reporting import frame
from tests.reporting import fabricate


def cells(config: Config, results: Path) -> dict[tuple[str, str], Cell]:
    return {(cell.row, cell.column): cell for cell in tables.build(5, config, results).table.cells}


def slow(results: Path, *, seed: int = 0) -> dict[tuple[str, str], float]:
    state = json.loads((results / "select" / vocabulary.SWEEP_MODEL / f"seed{seed}.json").read_text())["entropy"][
        "state"
    ]
    rows = frame(results / "attacks" / "sweep" / vocabulary.SWEEP_MODEL / f"seed{seed}")
    right = [predicted[state - 1] == label for predicted, label in zip(rows["predicted"], rows["label"], strict=True)]
    means = rows.assign(right=right).groupby(["defence", "damping", "state", "steps"], observed=True)["right"].mean()
    values = {}
    for name, accuracy in (100 * means.groupby("defence", observed=True).min()).items():
        kind, rest = str(name).split("_every")
        every, _, steps = rest.partition("_steps")
        values[f"T_f = {every}", "restart only" if kind == "restart_only" else f"R = {steps}"] = float(accuracy)
    return values


def test_values_equal_a_slow_version(finished: Path, config: Config) -> None:
    here = {name: cell.here for name, cell in cells(config, finished).items()}
    assert len(here) == 3 * 4
    assert here == pytest.approx(slow(finished))


def test_the_whole_grid_can_be_asked_for(tmp_path: Path) -> None:
    config = fabricate.small({"entropy_sweep": {"points": "all"}})
    results = fabricate.tree(tmp_path, config)
    assert {name: cell.here for name, cell in cells(config, results).items()} == pytest.approx(slow(results))
    table = tables.build(5, config, results).table
    assert "minimum over the grid" in table.caption
    assert table.notes[0] == "Minimum over 17 attacks of the grid."


def test_the_papers_numbers_stand_beside_and_controls_have_none(finished: Path, config: Config) -> None:
    for (row, column), cell in cells(config, finished).items():
        assert cell.paper == published.value(5, row, column)
        assert (cell.paper is None) == (column in ("R = 0", "restart only"))


def test_controls_stand_left_and_are_never_bold(finished: Path, config: Config) -> None:
    (block,) = tables.build(5, config, finished).table.blocks
    assert block.columns == ("R = 0", "restart only", "R = 1", "R = 5")
    assert not any(shown.strong for line in block.lines for shown in line.shown[:2])
    assert any(shown.strong for line in block.lines for shown in line.shown[2:])


def test_the_gain_is_the_difference_of_two_cells_and_stands_in_their_notes(finished: Path, config: Config) -> None:
    swept, found = sweep.sweep(Tree(finished, config, 0)), cells(config, finished)
    for setting in swept.by_setting:
        row, column = table5.row_name(setting), table5.column_name(setting)
        zero, here = found[row, "R = 0"].here, found[row, column].here
        assert zero is not None
        assert here is not None
        gain = swept.gain(setting)
        assert 100 * gain.value == pytest.approx(here - zero)
        assert gain.low <= gain.value <= gain.high
        assert ("minus R = 0" in found[row, column].note) == bool(setting.input_steps)
    highest = max(cell.here or 0.0 for (_, column), cell in found.items() if column in ("R = 1", "R = 5"))
    named = {(f"T_f = {best.solver_steps}", f"R = {best.input_steps}") for best in swept.best}
    assert named == {key for key, cell in found.items() if key[1] in ("R = 1", "R = 5") and cell.here == highest}
    note = tables.build(5, config, finished).table.notes[2]
    assert note.startswith("Highest here, with the difference to R = 0")
    assert all(f"{row}, {column}: " in note for row, column in named)


def test_a_gain_is_over_the_r_0_of_the_same_t_f(results: Path, config: Config) -> None:
    """Where the solver is restarted these differ."""
    for path in Tree(results, config, 0).sweep(vocabulary.SWEEP_MODEL):
        found = records.read(path)
        columns: dict[str, np.ndarray] = {name: np.array(found[name]) for name in records.COLUMNS}
        wrong = columns["defence"] == "entropy_every4_steps0"
        columns["predicted"][wrong] = columns["label"][wrong, None] + 1
        fabricate.write(path, columns, config, "attack_sweep", vocabulary.SWEEP_MODEL, 0)
    swept = sweep.sweep(Tree(results, config, 0))
    setting = gridpoints.EntropySetting(4, 5)
    assert swept.gain(setting).value == pytest.approx(swept.by_setting[setting].right.mean(axis=1).min())


def test_notes_say_attacks_state_and_controls(finished: Path, config: Config) -> None:
    notes = tables.build(5, config, finished).table.notes
    points = sweep.sweep(Tree(finished, config, 0)).by_setting[gridpoints.EntropySetting(1, 0)].points
    assert len(points) == 2
    assert all(f"({point.state}, {point.steps}, {point.damping:g})" in notes[0] for point in points)
    assert "bounds that over the grid from above" in notes[0]
    assert "decide at state 3" in notes[1]
    assert "which is the undefended solve" in notes[3]
    assert "undefended solve" not in table5.controls(fabricate.config({"protocol": "release"}))


@pytest.mark.slow
def test_spread_over_seeds_stands_beside_the_first_seed(tmp_path: Path) -> None:
    config = fabricate.small({"seeds": [0, 1]})
    results = fabricate.tree(tmp_path, config)
    first, second = slow(results), slow(results, seed=1)
    for name, cell in cells(config, results).items():
        assert cell.spread == pytest.approx((min(first[name], second[name]), max(first[name], second[name])))
    Tree(results, config, 1).sweep(vocabulary.SWEEP_MODEL)[0].unlink()
    assert all(cell.spread is None for cell in cells(config, results).values())


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("defence", "entropy_every3_steps1", "hold the setting entropy_every3_steps1, which"),
        ("defence", "entropy_every1_steps1", "1 images stand twice"),
        ("image", 99, "hold image 99, but images 0 to 19 are evaluated"),
        ("crafted_on", "deq_trades_base", "holds images crafted on deq_trades_base"),
        ("predicted", records.NOT_COMPUTED, r"say nothing of state \d, which decides"),
    ],
)
def test_wrong_rows_are_refused(results: Path, config: Config, column: str, value: object, message: str) -> None:
    path = Tree(results, config, 0).sweep(vocabulary.SWEEP_MODEL)[0]
    found = records.read(path)
    columns: dict[str, np.ndarray] = {name: np.array(found[name]) for name in records.COLUMNS}
    columns[column][0] = value
    fabricate.write(path, columns, config, "attack_sweep", vocabulary.SWEEP_MODEL, 0)
    with pytest.raises(UserError, match=message):
        tables.build(5, config, results)


def test_missing_files_and_those_of_another_configuration_are_refused(results: Path, config: Config) -> None:
    with pytest.raises(UserError, match="but the configuration asks for"):
        tables.build(5, fabricate.small({"entropy_sweep": {"points": 3}}), results)
    Tree(results, config, 0).sweep(vocabulary.SWEEP_MODEL)[0].unlink()
    with pytest.raises(UserError, match="do not exist"):
        tables.build(5, config, results)
