"""The trial run for one GPU: its jobs, its size, its first steps on a CPU, and what is left when its time is over."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import first_images
from deqpipe import config, trial
from deqpipe.planning import arithmetic, cost
from deqpipe.planning.cost import Images
from deqpipe.reporting import conditions
from deqpipe.results import checkpoint
from deqpipe.workflow import dry_run
from tests.reporting import fabricate
from tests.workflow.conftest import ROOT, Workspace, copy_workflow, environment

TRIAL = ("--configfile", "config/gpu-trial.yaml")
REAL_DEQPIPE = f'#!/bin/sh\nexec {sys.executable} -m deqpipe.cli "$@"\n'


def photographs(folder: Path, *, train: int = 4000, test: int = 1000) -> Path:
    """An image folder of two classes, 32x32 pixels, in colours that nobody chose; eight different ones a class."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for name in ("heavy", "light"):
            (folder / split / name).mkdir(parents=True)
            files = [folder / split / name / f"{number:04}.png" for number in range(count)]
            for file in files[:8]:
                Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
            for number, file in enumerate(files[8:]):
                os.link(files[number % 8], file)
    return folder


SUITE = {"attack_suite", "attack_transferred", "attack_radius", "table11", "figure7", "figure8"}


def test_the_trial_has_every_rule_of_the_workflow_but_the_suite(workspace: Workspace, tmp_path: Path) -> None:
    overlay = workspace.overlay({"data.root": str(photographs(tmp_path / "photos"))})
    jobs = workspace.plan(*TRIAL, overlay)
    every = workspace.plan("--configfile", "config/demo.yaml")
    assert set(every) - set(jobs) == SUITE
    assert sum(jobs.values()) == 63
    assert (jobs["train_deq"], jobs["attack_grid"], jobs["autoattack"]) == (4, 4, 10)


def test_the_trial_is_of_the_size_that_its_comment_says(workspace: Workspace, tmp_path: Path) -> None:
    settings = config.load([ROOT / "config.yaml", ROOT / "config" / "gpu-trial.yaml"])
    images = Images(train=7500, validation=500, test=2000, shape=(3, 32, 32), classes=10)
    overlay = workspace.overlay({"data.root": str(photographs(tmp_path / "photos"))})
    jobs = dry_run.parse_jobs(workspace.dry_run(*TRIAL, overlay))
    trained = sum(found(job, settings, images) for job in jobs if cost.trains(job.rule))
    evaluated = sum(found(job, settings, images) for job in jobs if not cost.trains(job.rule))
    assert trained == pytest.approx(12.8e6, rel=0.05)
    assert evaluated == pytest.approx(20.9e6, rel=0.05)
    assert arithmetic.operations_of_f(settings, images) == pytest.approx(0.066e9, rel=0.01)
    assert sum(cost.uses_device(job.rule) for job in jobs) == 42


def found(job: dry_run.PlannedJob, settings: config.Config, images: Images) -> float:
    """Evaluations of f of a job, gradients counted as such."""
    return float(cost.job(job.rule, job.wildcards, settings, images).evaluations.total)


@pytest.mark.slow
def test_the_first_steps_of_the_trial_run_on_a_cpu(tmp_path: Path) -> None:
    python = environment(tmp_path / "environment", REAL_DEQPIPE)
    workspace = copy_workflow(tmp_path / "workspace", python)
    settings = {
        "data.root": str(photographs(tmp_path / "tiny photographs", train=8, test=4)), "data.validation": 4,
        "evaluation.images": 8,
        "pretrain.steps": 2, "training.batch_size": 4, "device": "cpu",
    }  # fmt: skip
    target = "results/gpu-trial/models/deq_pretrain/seed0/best.safetensors"
    result = workspace.run(target, *TRIAL, workspace.overlay(settings), environment={"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    told = checkpoint.read_metadata(workspace.folder / target)
    assert told["step"] == 2
    assert told["architecture"]["image_shape"] == [3, 32, 32]
    assert told["architecture"]["model"]["channels"] == [16, 32, 64]


def test_tables_call_the_data_by_the_folders_name() -> None:
    settings = config.load([ROOT / "config.yaml", ROOT / "config" / "gpu-trial.yaml"])
    said = conditions.setup(settings, seed=0)[0]
    assert said == "Data: the image folder CIFAR-10 (JPEG), the first 1,000 test images; seed 0."


def command(workspace: Workspace, *arguments: str, seconds: str = "0") -> subprocess.CompletedProcess[str]:
    """`deqpipe trial` as `make` calls it, whose jobs take so long and only write files."""
    return subprocess.run(
        [workspace.python, "-m", "deqpipe.cli", "trial", *TRIAL, "--configfile", "overlay.yaml", *arguments],
        cwd=workspace.folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(workspace.python.parent), "FAKE_SECONDS": seconds},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_trial_that_ends_in_time_names_the_report(workspace: Workspace, tmp_path: Path) -> None:
    workspace.overlay({"data.root": str(photographs(tmp_path / "photos"))})
    result = command(workspace, "--seconds", "300", "--gpu-jobs", "4")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "Report: results/gpu-trial/report.html"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "first"),
    [pytest.param(None, "Stopped after 8 seconds", marks=pytest.mark.slow), (1, "Snakemake ended with status 1")],
)
def test_a_trial_that_does_not_end_says_what_can_be_made_of_its_results(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int | None,
    first: str,
) -> None:
    settings = fabricate.small()
    results = fabricate.tree(workspace.folder / settings.pathvars.results, settings)
    shutil.rmtree(results / "attacks" / "autoattack" / "resnet18_trades")
    (workspace.folder / "mine.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setattr(trial, "run_within", lambda seconds, line: status)
    assert trial.trial([Path("mine.yaml")], seconds=8.0, gpu_jobs=1) == (status or 0)
    said, *lines = capsys.readouterr().out.splitlines()
    assert said == f"{first}: the same command goes on. Of what there is:"
    assert lines[0].startswith("table 1: not yet: records ")
    assert "autoattack/resnet18_trades" in lines[0]
    names = [*(f"table {number}" for number in range(2, 11)), *(f"figure {number}" for number in range(2, 7))]
    assert lines[1:] == [f"{name}: written" for name in names]
    assert not (results / "tables" / "table1.csv").exists()
    assert (results / "tables" / "table2.csv").exists()
    assert (results / "figures" / "figure3.png").exists()


def test_a_folder_without_images_is_told_in_one_line(workspace: Workspace) -> None:
    workspace.overlay({"data.root": "nowhere"})
    result = command(workspace)
    assert result.returncode == 2
    assert result.stderr.startswith("deqpipe: config: data.root is 'nowhere', but must hold train/<class>/*")
    assert result.stderr.count("\n") == 1


# A parent that starts a child and waits; the child takes a moment to save when it is interrupted.
FAMILY = """
import signal, subprocess, sys, time
if len(sys.argv) == 3:
    signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.5), open(sys.argv[1], "w").write("saved"), sys.exit()))
    time.sleep(60)
child = subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"])
time.sleep(60)
"""


def test_a_command_whose_time_is_over_and_all_that_it_started_are_interrupted_and_waited_for(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    started = time.monotonic()
    assert trial.run_within(2.0, [sys.executable, str(tmp_path / "family.py"), str(tmp_path / "saved")]) is None
    assert (tmp_path / "saved").read_text() == "saved"
    assert time.monotonic() - started < 30


def test_a_command_that_ends_in_time_tells_its_status() -> None:
    assert trial.run_within(60.0, [sys.executable, "-c", "raise SystemExit(3)"]) == 3


@pytest.mark.slow
def test_a_trial_that_is_terminated_ends_what_it_started(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    line = [sys.executable, str(tmp_path / "family.py"), str(tmp_path / "saved")]
    script = f"from deqpipe import trial; trial.run_within(60, {line!r})"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    time.sleep(2.5)
    process.terminate()
    assert process.wait(30) != 0
    assert (tmp_path / "saved").read_text() == "saved"


def test_the_first_images_of_every_class_are_copied(tmp_path: Path) -> None:
    source = photographs(tmp_path / "all", train=4, test=2)
    (source / "train" / ".hidden").mkdir()
    line = [str(source), str(tmp_path / "part"), "--train", "3", "--test", "9"]
    assert first_images.main(line) == 0
    assert sorted(os.listdir(tmp_path / "part/train")) == ["heavy", "light"]
    assert sorted(os.listdir(tmp_path / "part/train/heavy")) == ["0000.png", "0001.png", "0002.png"]
    assert len(os.listdir(tmp_path / "part/test/light")) == 2
