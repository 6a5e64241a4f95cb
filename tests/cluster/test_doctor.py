"""What is wrong with a cluster's settings, on clusters of scripts."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deqpipe.cli import main
from deqpipe.cluster import doctor, profile, this_machine, trial_job
from deqpipe.cluster.check import Check, Verdict
from deqpipe.errors import UserError
from deqpipe.workflow import dry_run
from tests.cluster.conftest import put, request

SETTINGS = {
    "AccountingStorageType": "accounting_storage/slurmdbd", "KillWait": "30 sec", "MinJobAge": "300 sec",
    "PreemptMode": "OFF", "PreemptType": "preempt/none", "ProctrackType": "proctrack/cgroup", "SLURM_VERSION": "23.02",
}  # fmt: skip
PARTITION = {"PartitionName": "gpu", "Default": "YES", "GraceTime": "0", "MaxTime": "1-00:00:00", "State": "UP"}
PROFILE = {"executor": "slurm", "slurm-requeue": True}


@pytest.fixture
def cluster(commands: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster on which nothing is wrong, and a workflow of two jobs."""
    tell(commands)
    for name in ("squeue", "sinfo", "sacct"):
        put(commands, name, "exit 0")
    monkeypatch.setattr(profile, "requests", lambda *_: [request(), request("train_deq")])
    return commands


def tell(folder: Path, settings: Mapping[str, str] | None = None, partition: Mapping[str, str] | None = None) -> None:
    """Let the controller say this."""
    lines = "\n".join(f"{name:<23} = {value}" for name, value in (SETTINGS | dict(settings or {})).items())
    facts = " ".join(f"{name}={value}" for name, value in (PARTITION | dict(partition or {})).items())
    put(folder, "scontrol", f'case "$*" in *partition*) echo "{facts}" ;; *config*) echo "{lines}" ;; esac')


def examine(folder: Path, *, submit: bool = False, **values: Any) -> dict[str, Check]:
    """The checks of a profile by their names; of one that stands twice, the last."""
    path = folder / "profile" / "profile.yaml"  # not beside the commands: Snakemake takes values for files there
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(PROFILE | {name.replace("_", "-"): value for name, value in values.items()}))
    found = doctor.of_profile(str(path), [], submit=submit, wait_minutes=0.05)
    return {check.name: check for check in found}


def wrong(checks: Mapping[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if check.verdict is Verdict.WRONG]


def test_a_cluster_on_which_nothing_is_wrong_is_told_so(cluster: Path) -> None:
    checks = examine(cluster)
    assert wrong(checks) == []
    assert "all 2 jobs, of 1 kinds: account ours, partition gpu, --gpus=1" in checks["submission"].words
    assert checks["node"].verdict is Verdict.UNKNOWN  # nothing was submitted
    assert all("--test-only" in line for line in (cluster / "asked").read_text().splitlines())


def test_without_slurm_that_is_all_that_is_told(cluster: Path) -> None:
    (cluster / "sbatch").unlink()
    checks = examine(cluster)
    assert wrong(checks) == ["SLURM"]
    assert "sbatch cannot be found" in checks["SLURM"].words
    assert "status" not in checks


def test_a_controller_that_is_down_is_told_with_its_words(cluster: Path) -> None:
    put(cluster, "scontrol", "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact slurm controller" in examine(cluster)["SLURM"].words


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("allocation failure: Invalid account or account/partition combination specified", "account"),
        ("sbatch: error: invalid partition specified: gpu", "partition"),
        ("sbatch: error: Invalid generic resource (gres) specification", "GPU"),
        ("allocation failure: Requested reservation is invalid", "reservation"),
    ],
)
def test_what_sbatch_refuses_is_wrong_and_no_small_job_is_submitted(cluster: Path, words: str, name: str) -> None:
    put(cluster, "sbatch", f"echo '{words}' >&2; exit 1")
    checks = examine(cluster, submit=True)
    assert wrong(checks) == [name]
    assert checks["node"].verdict is Verdict.UNKNOWN


def test_without_accounting_sacct_is_wrong_and_squeue_is_right(cluster: Path) -> None:
    put(cluster, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    tell(cluster, {"AccountingStorageType": "accounting_storage/none"})
    checks = examine(cluster)
    assert wrong(checks) == ["status"]
    assert "wait for ever" in checks["status"].words
    assert "slurm-status-command: squeue" in checks["status"].advice
    assert wrong(examine(cluster, slurm_status_command="squeue")) == []


def test_with_sacct_a_cancelled_job_is_waited_for(cluster: Path) -> None:
    status = examine(cluster, slurm_status_command="sacct")["status"]
    assert status.verdict is Verdict.OK
    assert "cancelled by scancel is waited for without end" in status.words


def test_with_squeue_the_controller_must_remember_jobs_for_longer_than_snakemake_looks_away(cluster: Path) -> None:
    (cluster / "sacct").unlink()
    for age, expected in (("300 sec", []), ("60 sec", ["status"])):
        tell(cluster, {"MinJobAge": age})
        assert wrong(examine(cluster, slurm_status_command="squeue")) == expected


@pytest.mark.parametrize(("grace", "expected"), [("0", ["preemption"]), ("60", [])])
def test_a_job_that_is_cancelled_for_another_needs_time_to_leave_by_itself(
    cluster: Path, grace: str, expected: list[str]
) -> None:
    tell(cluster, {"PreemptType": "preempt/partition_prio"}, {"PreemptMode": "CANCEL", "GraceTime": grace})
    assert wrong(examine(cluster)) == expected


def test_where_the_controller_forgets_soon_sacct_is_judged_as_snakemake_takes_it(cluster: Path) -> None:
    tell(cluster, {"MinJobAge": "100 sec"})
    status = examine(cluster, slurm_status_command="squeue")["status"]
    assert (status.verdict, status.words.startswith("sacct (MinJobAge is below 120 s")) == (Verdict.OK, True)
    put(cluster, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert wrong(examine(cluster, slurm_status_command="squeue")) == ["status"]
    few = examine(cluster, slurm_status_command="squeue", slurm_init_seconds_before_status_checks=30)["status"]
    assert few.words.startswith("squeue")


def test_what_is_preempted_by_qos_the_partition_does_not_tell(cluster: Path) -> None:
    tell(cluster, {"PreemptType": "preempt/qos"}, {"PreemptMode": "OFF"})
    assert examine(cluster)["preemption"].verdict is Verdict.UNKNOWN
    tell(cluster, {"PreemptType": "preempt/partition_prio"}, {"PreemptMode": "OFF"})
    assert examine(cluster)["preemption"].words.endswith("no job is preempted there")


def test_of_a_workflow_without_requests_nothing_is_said_to_be_taken(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("cannot plan")

    monkeypatch.setattr(profile, "requests", refuse)
    checks = examine(cluster)
    assert (wrong(checks), "submission" in checks) == (["workflow"], False)


def test_a_rule_that_does_not_exist_is_wrong(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "rules", lambda: ("clean", "train_deq", "pretrain"))
    assert wrong(examine(cluster, set_resources={"pretrain": {"runtime": 20}})) == []
    checks = examine(cluster, set_resources={"claen": {"runtime": 20}})
    assert wrong(checks) == ["profile"]
    assert "rule claen, which does not exist; did you mean clean?" in checks["profile"].words


def test_a_job_that_is_requeued_for_another_must_ask_for_it(cluster: Path) -> None:
    tell(cluster, {"PreemptType": "preempt/partition_prio"}, {"PreemptMode": "REQUEUE"})
    assert wrong(examine(cluster)) == []
    assert wrong(examine(cluster, slurm_requeue=False)) == ["preemption"]


@pytest.mark.parametrize(("longest", "expected"), [("04:00:00", []), ("03:59:00", ["runtime"]), ("UNLIMITED", [])])
def test_with_a_limit_above_the_partitions_jobs_would_wait_for_ever(
    cluster: Path, longest: str, expected: list[str]
) -> None:
    tell(cluster, partition={"MaxTime": longest})
    assert wrong(examine(cluster)) == expected


def test_a_group_is_judged_as_it_is_submitted(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU at a time makes it serial: its runtimes add up, and of the rest it asks for the most."""
    jobs = [request(runtime=minutes, mem_mb=8000 + minutes) for minutes in (100, 30, 90, 20)]
    monkeypatch.setattr(profile, "requests", lambda *_: [*jobs, request("train_deq")])
    tell(cluster, partition={"MaxTime": "04:00:00"})
    shared: dict[str, Any] = {"groups": {"clean": "short"}, "resources": {"gpu": 1}}
    assert wrong(examine(cluster, **shared, group_components={"short": 3})) == []
    assert any(" -t 220 --mem 8100 " in line and "--gpus=1 " in line for line in asked_of_sbatch(cluster))
    checks = examine(cluster, **shared, group_components={"short": 4})
    assert "5 jobs of 2 rules in 2 submissions" in checks["workflow"].words
    tell(cluster, partition={"MaxTime": "03:59:00"})
    assert "(group short, train_deq)" in examine(cluster, **shared, group_components={"short": 4})["runtime"].words


def test_jobs_of_a_group_that_no_submission_serves_are_told(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "requests", lambda *_: [request(gres="gpu:a:1"), request("pgd", gres="gpu:b:1")])
    checks = examine(cluster, groups={"clean": "short", "pgd": "short"}, group_components={"short": 2})
    assert "group short" in checks["workflow"].words


def asked_of_sbatch(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def test_a_partition_that_is_closed_is_told(cluster: Path) -> None:
    tell(cluster, partition={"State": "DOWN"})
    assert "gpu is DOWN" in examine(cluster)["partition"].words


@pytest.mark.parametrize(("version", "expected"), [("20.02.1", ["signals"]), ("20.11.0", []), ("22.05.8", [])])
def test_signals_under_cgroups_need_steps_beside_each_other(cluster: Path, version: str, expected: list[str]) -> None:
    tell(cluster, {"SLURM_VERSION": version})
    assert wrong(examine(cluster)) == expected


def test_a_plugin_that_is_missing_is_told_with_what_installs_it(cluster: Path) -> None:
    check = examine(cluster, executor="flux")["executor"]
    assert (check.verdict, "pip install snakemake-executor-plugin-flux" in check.advice) == (Verdict.WRONG, True)


def test_a_profile_that_is_not_there_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--profile", "profiles/none"]) == 2
    assert "there is no profile profiles/none" in capsys.readouterr().err


@pytest.fixture
def queue(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster whose node is this machine: sbatch runs the script, scontrol tells how it ended."""
    (cluster / "folder").mkdir()
    monkeypatch.chdir(cluster / "folder")
    for name in ("hostname", "sleep", "sh"):
        put(cluster, name, f'exec /bin/{name} "$@"')
    monkeypatch.setattr(sys, "executable", str(cluster / "python"))
    put(cluster, "python", "exit 0")
    on_node(cluster)
    return cluster


def on_node(folder: Path, before: str = "") -> None:
    put(folder, "sbatch", f"""case "$*" in *--test-only*) exit 0 ;; esac
for word do script=$word; done
{before}
printf '%s' "$script" | /bin/sh
echo $? > {folder}/ended
echo 7""")  # fmt: skip
    state = f"read status < {folder}/ended; [ $status = 0 ] && state=COMPLETED || state=FAILED"
    told = 'echo "JobId=7 JobState=$state ExitCode=$status:0 BatchHost=node1"'
    tell(folder)
    put(folder, "scontrol.config", (folder / "scontrol").read_text().partition("\n")[2])
    put(folder, "scontrol", f'case "$*" in *" job "*) {state}; {told} ;; *) exec {folder}/scontrol.config "$@" ;; esac')


def test_a_small_job_says_that_its_node_sees_folder_and_python(queue: Path) -> None:
    checks = examine(queue, submit=True)
    assert wrong(checks) == []
    assert "ran on node1: it sees this folder and this Python" in checks["node"].words
    assert list((queue / "folder").iterdir()) == []


@pytest.mark.parametrize(
    ("python", "name"),
    [('case "$2" in *get_device*) exit 1 ;; esac', "CUDA"), ('case "$2" in *import*) exit 1 ;; esac', "Python"),
     ("exit 1", "Python")],
)  # fmt: skip
def test_what_the_node_lacks_is_told_by_its_name(queue: Path, python: str, name: str) -> None:
    put(queue, "python", python)
    checks = examine(queue, submit=True)
    assert wrong(checks) == [name]
    assert "node1" in checks[name].words


def test_a_folder_that_nodes_do_not_see_is_told(queue: Path) -> None:
    """The node has nothing of that name, or another folder."""
    script = f"script=$(printf '%s' \"$script\" | sed 's:cd {queue}/folder:cd {queue}/elsewhere:')"
    put(queue, "sed", 'exec /bin/sed "$@"')
    put(queue, "sleep", "exit 0")
    on_node(queue, script)
    assert "has no folder" in examine(queue, submit=True)["folder"].words
    (queue / "elsewhere").mkdir()
    checks = examine(queue, submit=True)
    assert wrong(checks) == ["folder"]
    assert "but not this one" in checks["folder"].words


def test_a_job_that_stays_in_the_queue_is_cancelled_after_a_while(queue: Path) -> None:
    put(queue, "scancel", f'echo "$*" > {queue}/cancelled')
    put(queue, "scontrol", "echo JobState=PENDING Reason=Priority")
    check = trial_job.check(request(), cuda=True, wait_minutes=0.001)
    assert (check.verdict, "PENDING Priority" in check.words) == (Verdict.UNKNOWN, True)
    assert (queue / "cancelled").read_text() == "7\n"


def test_a_controller_that_is_away_for_a_moment_has_not_ended_the_small_job(
    queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deqpipe.cluster.trial_job.time.sleep", lambda _: None)
    put(queue, "scontrol.there", (queue / "scontrol").read_text().partition("\n")[2])
    away = f'case "$*" in *" job "*) [ -e {queue}/asked_before ] || {{ echo > {queue}/asked_before; exit 1; }} ;; esac'
    put(queue, "scontrol", f'{away}; exec {queue}/scontrol.there "$@"')
    assert wrong(examine(queue, submit=True)) == []
    put(queue, "scancel", f'echo "$*" > {queue}/cancelled')
    put(queue, "scontrol", "exit 1")
    check = trial_job.check(request(), cuda=True, wait_minutes=0.001)
    assert (check.verdict, "does not tell its state" in check.words) == (Verdict.UNKNOWN, True)
    assert (queue / "cancelled").read_text() == "7\n"


PRINTED = """
Job stats:
job          count
---------  -------
all              1
report           1
train_deq        1
total            3

rule train_deq:
    input: results/a, results/b
    output: results/c
    threads: 4
    resources: mem_mb=16000, mem=16 GB, gpu=1, slurm_account=ours, slurm_extra='--signal=TERM@60, x', x=<TBD>
localrule report:
    output: results/d
rule all:
    input: results/c
"""


def test_what_jobs_ask_for_is_what_a_dry_run_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    put(tmp_path, "python", f"cat <<'END'{PRINTED}END")
    (found,) = profile.requests(profile.Profile(tmp_path / "profile.yaml", {"slurm-qos": "fast"}), [])
    assert (found.rule, found.threads, found.qos) == ("train_deq", 4, "fast")
    assert found.resources == {
        "mem_mb": 16000, "gpu": 1, "slurm_account": "ours", "slurm_extra": "'--signal=TERM@60, x'",
    }  # fmt: skip


def test_a_workflow_that_cannot_be_planned_is_told_with_snakemakes_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    put(tmp_path, "python", "echo 'WorkflowError:'; echo 'no such resource'; exit 1")
    with pytest.raises(UserError, match=r"cannot plan: WorkflowError: no such resource"):
        profile.requests(profile.Profile(tmp_path / "profile.yaml", {}), [])


def test_profiles_of_other_schedulers_are_looked_through_for_their_commands(commands: Path) -> None:
    put(commands, "qsub", "exit 0")
    submit = "qsub -A CHANGE_ME"
    checks = examine(commands, executor="cluster-generic", cluster_generic_submit_cmd=submit,
                     cluster_generic_status_cmd="nowhere/status.sh")  # fmt: skip
    assert checks["submit"].verdict is Verdict.OK
    assert {"status", "cancel", "profile"} <= set(wrong(checks))


def test_a_check_fits_a_screen() -> None:
    check = Check("submission", Verdict.WRONG, "word " * 60, "advice " * 30)
    assert max(map(len, check.lines())) <= 110
    assert check.lines()[0].startswith("WRONG    submission word")


def test_this_machine_is_told_in_a_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_machine, "_TORCH", "print('[\"2.11\", null, []]')")
    status = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert status == any(line.startswith("WRONG") for line in lines)
    assert len(lines) < 20
    assert {"Python", "torch", "GPUs", "cores", "memory", "results", "state"} <= {line.split()[1] for line in lines}


def test_gpus_that_torch_does_not_find_are_wrong(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(commands, "nvidia-smi", "echo 'GPU 0: H (UUID: GPU-a)'")
    monkeypatch.setattr(this_machine, "_TORCH", "print('[\"2.11\", null, []]')")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "GPUs" in wrong({check.name: check for check in this_machine.checks([])})


def test_cores_and_memory_that_a_cgroup_holds_back_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_machine, "_CGROUPS", tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1073741824\n")
    monkeypatch.setattr(this_machine, "_TORCH", "print('[\"2.11\", null, []]')")
    checks = {check.name: check for check in this_machine.checks([])}
    assert "may use 0.5 (cgroup)" in checks["cores"].words
    assert "a cgroup allows 1.0" in checks["memory"].words
    assert {"cores", "memory"} <= set(wrong(checks))
