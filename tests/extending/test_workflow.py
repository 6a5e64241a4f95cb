"""All six examples in one experiment: planned by the real rules, computed, in tables, report and figures."""

import numpy as np
import pytest

from deqpipe.reporting.tables.table1 import OF_DEFENCE, OF_OWN
from deqpipe.results import records
from tests.extending import experiment
from tests.extending.experiment import Experiment

ROWS = ("TRADES dense DEQ", "TRADES dense DEQ + Sec. 3.2", "TRADES + mean of 3 states", "PGD-AT + mean of 3 states")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Everything made."""
    return experiment.run(tmp_path_factory.mktemp("shapes"), {})


def test_every_rule_of_a_users_pieces_ran(finished: Experiment) -> None:
    assert {"train_own", "attack_own", "table12", "report", *(f"figure{n}" for n in (2, 3, 4, 5))} <= finished.ran


def test_its_rows_and_its_column_stand_in_table_1(finished: Experiment) -> None:
    table = finished.cells(1)
    for row in ROWS:
        assert {"Clean", "PGD", "AA", "ALL", "PGD gain", "PGD, margin"} <= {
            column for name, column in table if name == row
        }, row
    deciding = {name for (name, column), cell in table.items() if column == "AA" and cell["here"]}
    assert {name for name, column in table if column == "PGD, margin"} == deciding


def test_a_gain_is_called_after_the_defence_that_has_it(finished: Experiment) -> None:
    """Sec. 3.2 stays Sec. 3.2 on a model of one's own."""
    named = {column: {row for row, name in finished.cells(1) if name == column} for column in (OF_DEFENCE, OF_OWN)}
    assert "TRADES dense DEQ + Sec. 3.2" in named[OF_DEFENCE]
    assert named[OF_OWN] >= {"TRADES + mean of 3 states", "PGD-AT + mean of 3 states"}
    assert not named[OF_DEFENCE] & named[OF_OWN]


def test_the_notes_say_that_the_grid_knows_of_no_defence(finished: Experiment) -> None:
    notes = (finished.workspace.folder / "results/tables/table1.md").read_text()
    assert "crafted without knowledge of Sec. 3.2 or of mean of 3 states." in notes


def test_its_rows_and_its_table_stand_in_the_report(finished: Experiment) -> None:
    page = finished.page
    assert "What attacks cost each decision." in page
    assert all(row in page for row in ("dense DEQ", "mean of 3 states", "damped_anderson", "random shapes"))


def test_its_table_holds_what_table_1_holds(finished: Experiment) -> None:
    own, first = finished.cells(12), finished.cells(1)
    for (row, column), cell in own.items():
        if column in ("Clean", "PGD"):
            assert float(cell["here"]) == pytest.approx(float(first[row, column]["here"]), abs=1e-3), row
    gap = own["TRADES dense DEQ", "Gap in points"]["here"]
    clean, attacked = (float(own["TRADES dense DEQ", name]["here"]) for name in ("Clean", "PGD"))
    assert float(gap) == pytest.approx(clean - attacked, abs=1e-3)


def test_a_defence_decides_by_the_mean_of_the_last_three_states_of_the_same_images(
    finished: Experiment,
) -> None:
    folder = finished.workspace.folder / "results/attacks/clean"
    base = "deq_trades_base"
    plain, own = (records.read(folder / name / "seed0.parquet") for name in (base, f"{base}_average"))
    of_plain = plain["defence"] == "plain"
    assert np.array_equal(own["predicted"][:, 0], plain["predicted"][of_plain][:, 0])  # the mean of one state
    assert np.allclose(own["residual"], plain["residual"][of_plain], equal_nan=True)


def test_nothing_is_left_to_do(finished: Experiment) -> None:
    assert finished.is_finished()
