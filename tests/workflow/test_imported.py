"""Models that come from files instead of trainings (docs/checkpoints.md)."""

from pathlib import Path

import pytest
import yaml

from deqpipe.workflow import vocabulary
from tests.workflow.conftest import DEMO, Workspace

FILE = "deq_trades_base.safetensors"


def overlay(workspace: Workspace, imported: dict[str, str], **values: object) -> tuple[str, ...]:
    """The demo with these models from files."""
    text = yaml.safe_dump({"imported": imported, **values})
    (workspace.folder / "imported.yaml").write_text(text)
    return (*DEMO, "imported.yaml")


def test_an_imported_model_is_not_trained_but_evaluated_like_the_others(workspace: Workspace) -> None:
    (workspace.folder / FILE).write_text("weights")
    plan, plain = workspace.plan(*overlay(workspace, {"deq_trades_base": FILE})), workspace.plan(*DEMO)
    assert plan == {**plain, "train_deq": 3, "use_imported": 1}


@pytest.mark.slow
def test_where_every_deq_comes_from_a_file_those_of_figure_6_alone_are_trained(workspace: Workspace) -> None:
    (workspace.folder / FILE).write_text("weights")
    plain = workspace.plan(*DEMO, workspace.overlay({"figures.jacobian": True}))
    plan = workspace.plan(*overlay(workspace, dict.fromkeys(vocabulary.DEQS, FILE), figures={"jacobian": True}))
    assert plan == {**plain, "train_deq": 2, "use_imported": 4}


@pytest.mark.slow
def test_a_table_of_imported_models_alone_needs_no_training(workspace: Workspace) -> None:
    (workspace.folder / FILE).write_text("weights")
    arguments = overlay(workspace, {"deq_trades_random_states": FILE})
    needed = {
        "prepare_data": 1, "use_imported": 1, "select_early_state": 1, "attack_grid": 1, "table8": 1, "write_config": 1,
    }  # fmt: skip
    trained = workspace.plan("results/demo/tables/table8.csv", *arguments)
    assert trained == {**needed, "pretrain": 1, "train_deq": 1}  # images are scored on the other TRADES model, too
    alone = overlay(workspace, {"deq_trades_random_states": FILE}, attack={"transfer": False})
    assert workspace.plan("results/demo/tables/table8.csv", *alone) == needed


def test_a_file_that_is_not_there_is_refused_in_one_line(workspace: Workspace) -> None:
    done = workspace.run("-n", "--configfile", *overlay(workspace, {"deq_trades_base": "gone.safetensors"})[1:])
    assert done.returncode != 0
    assert "deqpipe: config: imported.deq_trades_base is 'gone.safetensors', which is no file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(workspace.folder, "results", "demo").exists()
