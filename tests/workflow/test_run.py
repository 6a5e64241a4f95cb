"""Whole runs of the workflow, with jobs that take no time."""

import subprocess
from pathlib import Path

import pytest

from tests.sampling import one_in
from tests.workflow.conftest import DEMO, ROOT, Workspace, copy_workflow


def test_a_second_run_does_nothing_and_says_so(finished_copy: Workspace) -> None:
    calls = finished_copy.calls()
    result = finished_copy.run(*DEMO)
    assert result.returncode == 0
    assert "Nothing to be done" in result.stderr
    assert finished_copy.calls() == calls


def test_every_job_leaves_a_log_and_a_benchmark(finished: Workspace) -> None:
    logs = {path.relative_to(finished.folder / "logs/demo") for path in finished.folder.glob("logs/demo/**/*.log")}
    benchmarks = finished.folder / "logs/demo/benchmark"
    timed = {path.relative_to(benchmarks).with_suffix(".log") for path in benchmarks.glob("**/*.tsv")}
    assert logs == timed
    assert len(logs) == len(finished.calls()) == 96


def test_nothing_is_written_outside_the_folders_of_the_config(finished: Workspace) -> None:
    copied = {path.name for path in ROOT.iterdir()} - {"results", "logs", "state"}
    written = {path.name for path in finished.folder.iterdir()} - copied - {"calls.txt", ".snakemake"}
    assert {name for name in written if not name.startswith("overlay")} <= {"results", "logs", "state"}
    assert {path.name for path in (finished.folder / "results").iterdir()} == {"demo"}


def test_commands_get_each_option_that_they_need(finished: Workspace) -> None:
    # of each verb the call with the most options: AutoAttack on a ResNet has no --strongest
    verbs = {call.split()[0]: call for call in sorted(finished.calls(), key=len)}
    everywhere = ("--spec", "--threads 1", "--device auto", "--data results/demo/data/dataset.safetensors")
    evaluation = (*everywhere, "--checkpoint results/demo/models/", "--batch-size 480", "--output results/demo/")
    training = (*everywhere, "--state state/demo/", "--best", "--last", "--history")
    part = ("--images 0-47", "--state state/demo/")
    ranked = ("--strongest results/demo/strongest/deq_",)
    reporting = ("--config results/demo/config.yaml", "--results results/demo")
    expected = {
        "prepare-data": ("--spec", "--output results/demo/data/dataset.safetensors"),
        "pretrain": (*training, "--handoff results/demo/models/deq_pretrain/seed0/handoff.safetensors"),
        "train-deq": (*training, "--trunk results/demo/models/deq_pretrain/seed0/handoff.safetensors"),
        "train-feedforward": training,
        "select-early-state": evaluation,
        "clean": evaluation,
        "attack-grid": (*evaluation, "--states 1-8", "--images 0-47", "--state state/demo/attack_grid/"),
        "attack-pgd": evaluation,
        "autoattack": (*evaluation, *part, *ranked),
        "attack-top": (*evaluation, *part, *ranked),
        "attack-in-loop": (*evaluation, *part, *ranked, "--other results/demo/models/deq_trades_"),
        "attack-sweep": (*evaluation, *part, *ranked),
        "attack-example": (
            *evaluation,
            "--select",
            "--clean",
            "--grid results/demo/attacks/grid/deq_pgd_at_base/seed0 ",
        ),
        "attack-suite": (*evaluation, "--images 0-19", "--state state/demo/attack_suite/"),
        "attack-radius": (*evaluation, "--images 0-19", "--state state/demo/attack_radius/"),
        "attack-transferred": (*evaluation, "--saved", "--own", "--state state/demo/attack_transferred/"),
        "time-training": (*everywhere, "--trunk", "--output results/demo/timing/training/seed0.json"),
        "time-inference": (*everywhere, "--checkpoint", "--output results/demo/timing/inference/"),
        "strongest": ("--model deq_", "--seed 0", '--configuration {"', "--results results/demo", "--output"),
        "write-config": ("--spec", "--output results/demo/config.yaml"),
        "table": (*reporting, "--output-stem results/demo/tables/"),
        "figure": (*reporting, "--output-stem results/demo/figures/"),
        "report": (*reporting, "--output results/demo/report.html"),
    }
    assert set(verbs) == set(expected)
    for verb, options in expected.items():
        assert [option for option in options if option not in verbs[verb]] == [], verb


def test_paths_with_spaces_and_semicolons_are_data(tmp_path: Path, python: Path) -> None:
    """Folders of results, logs and state, and the folder of the workflow itself."""
    workspace = copy_workflow(tmp_path / "my work; touch caught", python)
    folders = {f"pathvars.{name}": f"{name} of mine; touch caught" for name in ("results", "logs", "state")}
    result = workspace.run("train_all", *DEMO, workspace.overlay(folders), "--cores", "2")
    assert result.returncode == 0, result.stderr
    models = workspace.folder / "results of mine; touch caught" / "models"
    assert len(list(models.glob("*/seed0/best.safetensors"))) == 7
    assert list(tmp_path.glob("**/caught")) == []


def test_the_workflow_finds_its_own_deqpipe_first(workspace: Workspace, tmp_path: Path) -> None:
    """Another `deqpipe` on PATH must not be taken: nobody need activate an environment."""
    other = tmp_path / "bin" / "deqpipe"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    environment = {"PATH": f"{other.parent}:/usr/bin:/bin"}
    result = workspace.run("prepare_data", *DEMO, environment=environment)
    assert result.returncode == 0, result.stderr


def test_a_failed_job_shows_its_log(workspace: Workspace, python: Path) -> None:
    broken = python.parent.parent / "broken" / "deqpipe"
    (workspace.folder / "rules/data.smk").write_text(
        (workspace.folder / "rules/data.smk").read_text().replace("deqpipe prepare-data", f"{broken} prepare-data")
    )
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'the disk is full'\nexit 1\n")
    broken.chmod(0o755)
    result = workspace.run("prepare_data", *DEMO)
    assert result.returncode == 1
    assert "the disk is full" in result.stderr
    assert not (workspace.folder / "results/demo/data/dataset.safetensors").exists()


@pytest.mark.parametrize("terminal", one_in(2, [False, True], first=1))
def test_the_progress_bar_follows_all_jobs(workspace: Workspace, terminal: bool) -> None:
    arguments = [str(workspace.python), "-m", "snakemake", "--logger", "deqpipe", *DEMO]
    command = ["script", "-qec", " ".join(arguments), "/dev/null"] if terminal else arguments
    result = subprocess.run(
        command,
        cwd=workspace.folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(workspace.python.parent), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    printed = result.stdout + result.stderr
    assert "100 %   97 of 97 jobs" in printed
    assert "rule pretrain:" not in printed
    assert ("\x1b[K" in printed) == terminal
    if not terminal:
        assert len(printed.splitlines()) < 15
