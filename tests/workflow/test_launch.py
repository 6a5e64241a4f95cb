"""How a job's command is started on a cluster's node, and how long it may compute there."""

from pathlib import Path

import pytest

from deqpipe.workflow import launch
from deqpipe.workflow.budgets import budget_minutes

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `srun` that is there."""
    tool = tmp_path / "srun"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tool


def test_a_command_is_a_step_of_its_own_within_a_step_alone(srun: Path) -> None:
    assert launch.launcher({}, submitted=True) == ""
    assert launch.launcher({"SLURM_JOB_ID": "7"}, submitted=True) == "", "in a batch script the shell hears the signals"
    assert launch.launcher(STEP, submitted=True).startswith("srun --overlap ")
    assert launch.launcher(STEP, submitted=False) == "", "a whole workflow in one allocation"


def test_where_srun_is_missing_the_command_runs_all_the_same(srun: Path) -> None:
    srun.unlink()
    assert launch.launcher(STEP, submitted=True) == ""


@pytest.mark.parametrize("runtime", [1, 2, 7, 15, 16, 60, 240, 100_000])
def test_a_budget_leaves_time_to_save_and_most_of_it_to_compute(runtime: int) -> None:
    budget = budget_minutes(runtime)
    assert runtime / 2 < budget < runtime
    assert runtime - budget == pytest.approx(min(5, runtime / 3))


def test_long_time_limits_keep_five_minutes() -> None:
    assert launch.budget_options(240) == ["--time-budget-minutes", "235"]
    assert launch.budget_options(1) == ["--time-budget-minutes", "0.666667"]


@pytest.mark.parametrize("runtime", [None, 0, "<TBD>", True])
def test_without_a_time_limit_there_is_no_budget(runtime: object) -> None:
    assert launch.budget_options(runtime) == []
