"""What SLURM would be asked for: the plugin's own lines for the jobs of a dry run. Nothing is submitted."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.executors import dryrun
from snakemake_executor_plugin_slurm import submit_string, utils

from tests.workflow.conftest import ROOT, Workspace

PROFILE = ("--profile", "profiles/slurm")
COMPUTE = {
    "pretrain", "train_deq", "train_feedforward", "select_early_state", "attack_grid", "autoattack", "attack_top",
    "attack_in_loop", "attack_sweep", "attack_example", "time_training", "time_inference", "clean", "attack_pgd",
    "attack_suite", "attack_transferred", "attack_radius",
}  # fmt: skip
TIMING = ("timing/training/seed0.json", "timing/inference/deq_trades_random_states/seed0.json")


class Submissions:
    """Options of sbatch in a dry run by rule; of a group by the rules of all of its jobs, such as clean+clean."""

    def __init__(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace = workspace
        self.lines: dict[str, set[str]] = {}
        go_on = dryrun.Executor.run_job

        def note(executor: Any, job: Any) -> None:
            if job.is_group() or not (job.rule.norun or job.rule.name in executor.workflow._localrules):
                self._note(job)
            go_on(executor, job)

        monkeypatch.setattr(dryrun.Executor, "run_job", note)

    def _note(self, job: Any) -> None:
        told = {"run_uuid": "run", "slurm_logfile": "log", "comment_str": "comment", "workdir": None}
        account, partition = f"-A {job.resources.slurm_account}", f"-p {job.resources.slurm_partition}"
        params = told | {"account": account, "partition": partition}
        line = submit_string.get_submit_command(job, params) + utils.set_gres_string(job)
        rules = sorted(one.rule.name for one in job.jobs) if job.is_group() else [job.rule.name]
        self.lines.setdefault("+".join(rules), set()).add(" ".join(line.partition("--comment comment")[2].split()))

    def of(self, *arguments: str) -> dict[str, set[str]]:
        """What would be submitted for these targets and options."""
        self.lines.clear()
        self.workspace.dry_run(*PROFILE, *arguments)
        return dict(self.lines)


@pytest.fixture
def submissions(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Submissions:
    return Submissions(workspace, monkeypatch)


def set_profile(folder: Path, **changes: Any) -> None:
    """Change sections of the profile, as a user would."""
    file = folder / "profiles" / "slurm" / "profile.yaml"
    profile = yaml.safe_load(file.read_text())
    for name, values in changes.items():
        profile.setdefault(name.replace("_", "-"), {}).update(values)
    file.write_text(yaml.safe_dump(profile))


def asked(*rules: str) -> str:
    """What the profile says of a rule's job, or of some jobs one after the other."""
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "profile.yaml").read_text())
    said = [profile["default-resources"] | profile.get("set-resources", {}).get(rule, {}) for rule in rules]
    time, memory = sum(int(one["runtime"]) for one in said), max(int(one["mem_mb"]) for one in said)
    extra = f" {said[0]['slurm_extra'].strip(chr(39))}" if "slurm_extra" in said[0] else ""
    return f"-A ours -p gpu -t {time} --mem {memory} --cpus-per-task={said[0]['cpus_per_task']}{extra} --gpus=1"


def test_every_computing_job_asks_for_account_partition_time_memory_cores_and_a_gpu(submissions: Submissions) -> None:
    set_profile(submissions.workspace.folder, default_resources={"slurm_account": "ours"})
    few = submissions.workspace.overlay({"evaluation.images": 960})  # one job of each kind: there may be hundreds
    lines = submissions.of("--configfile", few)
    assert {rule for found in lines for rule in found.split("+")} == COMPUTE
    assert lines == {rules: {asked(*rules.split("+"))} for rules in lines}


def test_what_is_asked_for_does_not_depend_on_the_cores_of_the_machine_that_submits(submissions: Submissions) -> None:
    targets = [f"results/{name}" for name in TIMING]
    few = submissions.of("--cores", "2", *targets)
    assert set(few) == {"pretrain", "train_deq", "time_training", "time_inference"}
    assert submissions.of("--cores", "64", *targets) == few


@pytest.mark.parametrize(
    ("settings", "resources", "gpus"),
    [
        ({"device": "cpu"}, {}, ""),
        ({"device": "cpu", "gpu_request": 1}, {}, "--gpus=1"),
        ({"device": "cuda", "gpu_request": 0}, {"gres": "gpu:a100:1"}, "--gres=gpu:a100:1"),
    ],
)
def test_one_key_says_how_gpus_are_asked_for(
    submissions: Submissions, settings: dict[str, Any], resources: dict[str, Any], gpus: str
) -> None:
    set_profile(submissions.workspace.folder, config=settings, default_resources=resources)
    (line,) = submissions.of("results/models/deq_pretrain/seed0/best.safetensors")["pretrain"]
    assert " ".join(re.findall(r"--g\S+", line)) == gpus
