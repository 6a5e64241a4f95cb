"""Each example in an experiment of its own; and all of them under the suite of attacks that know the decision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deqpipe.reporting.tables import table11
from tests.extending import experiment

pytestmark = pytest.mark.slow


class Alone(NamedTuple):
    """What an example adds to an experiment.

    Attributes:
        changes: sections of the overlay.
        rules: that run for it.
        rows: of Table 1.
        columns: of Table 1.
        text: on the page of the report.
    """

    changes: Mapping[str, Any] = {}
    rules: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    text: str = ""


DIGITS = {
    "data": {"source": "digits", "validation": 12, "augment": "none"},
    "pretrain": {"layers": 3, "steps": 16},
    "training": {
        "epochs": 3, "batch_size": 128, "learning_rate": 0.02, "unroll": {"steps": 2},
        "attack": {"steps": 2, "step_size_255": 10.0},
    },
    "resnet": {"layers": [1, 1, 1, 1], "training": {"epochs": 1, "batch_size": 128, "milestones": []}},
}  # fmt: skip
BROYDEN = {"name": "broyden", "steps": 4}
EXAMPLES = {
    "solver": Alone(
        {"solver": {"name": "damped_anderson", "memory": 3, "mixing": 0.8, "steps": 4}}, text="damped_anderson"
    ),
    "defence": Alone(
        rows=frozenset({"PGD-AT + mean of 3 states", "TRADES + mean of 3 states"}), text="mean of 3 states"
    ),
    "dynamics": Alone(
        rows=frozenset({"PGD-AT + two damped steps", "TRADES + two damped steps"}), text="two damped steps"
    ),
    "attack": Alone(rules=frozenset({"attack_own"}), columns=frozenset({"PGD, margin"}), text="PGD, margin"),
    "data": Alone({name: experiment.sections({})[name] for name in DIGITS}, text="random shapes"),
    "model": Alone(
        rules=frozenset({"train_own"}),
        rows=frozenset({"TRADES dense DEQ", "TRADES dense DEQ + Sec. 3.2"}),
        text="dense DEQ",
    ),
    "table": Alone(rules=frozenset({"table12"}), text="What attacks cost each decision."),
}


def added(name: str) -> dict[str, frozenset[str]]:
    return {kind: frozenset().union(*(getattr(one, kind) for other, one in EXAMPLES.items() if other != name))
            for kind in ("rules", "rows", "columns")}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_works_alone_and_brings_nothing_of_the_others(tmp_path: Path, name: str) -> None:
    example = EXAMPLES[name]
    changes = {**DIGITS, "solver": BROYDEN, **example.changes}
    finished = experiment.run(tmp_path, {"extensions": [str(experiment.HERE / f"{name}.py")], **changes})
    table, others = finished.cells(1), added(name)
    rows, columns = {row for row, _ in table}, {column for _, column in table}
    assert example.rules <= finished.ran
    assert example.rows <= rows
    assert example.columns <= columns
    assert example.text in finished.page
    assert not others["rules"] & finished.ran
    assert not others["rows"] & rows
    assert not others["columns"] & columns
    assert all(one.text not in finished.page for other, one in EXAMPLES.items() if other != name)
    assert finished.is_finished()


OF_32, OF_OWN = (columns.under_union for columns in (table11.OF_DEFENCE, table11.OF_OWN))
SUITE = {
    "enabled": True, "mode": "standard", "images": 12, "images_per_job": 12, "controls": False, "static": False,
    "iterations": 1, "restarts": 1, "targets": 1, "long": [2], "queries": 2, "decision_queries": 2,
    "radii": [0, 1, 2], "radius_images": 12,
}  # fmt: skip


def test_the_suite_attacks_decisions_of_ones_own(tmp_path: Path) -> None:
    finished = experiment.run(tmp_path, {"suite": SUITE})
    own = {"TRADES dense DEQ", "TRADES dense DEQ + Sec. 3.2", "TRADES + mean of 3 states", "PGD-AT + mean of 3 states"}
    assert {"figure7", "figure8", "table11"} <= finished.ran
    assert own <= finished.rows(11)
    union = {row: cell for (row, column), cell in finished.cells(11).items() if column == "Union"}
    assert all(union[row]["here"] for row in own)
    assert all("own attacks" in union[row]["note"] for row in own)
    gains = {column: {row for row, name in finished.cells(11) if name == column} for column in (OF_32, OF_OWN)}
    assert "TRADES dense DEQ + Sec. 3.2" in gains[OF_32]
    assert gains[OF_OWN] >= own - gains[OF_32] - {"TRADES dense DEQ"}
    for number in (7, 8):
        assert (finished.workspace.folder / f"results/figures/figure{number}.csv").stat().st_size
    assert finished.is_finished()
