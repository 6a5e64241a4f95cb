"""Jobs that end too early: which of them are started again, and what the run says of them at its end."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deqpipe.machine.faults import MAY_PASS
from deqpipe.workflow import endings
from deqpipe.workflow.endings import Kind
from tests import tiny
from tests.workflow.conftest import DEMO, ROOT, Workspace

TARGETS = [
    f"results/demo/models/{model}/seed0/best.safetensors"
    for model in ("deq_pretrain", "resnet18_pgd_at", "resnet18_trades")
]
# The trunk leaves early each time, one ResNet diverges, the other one is killed at the same place each time.
FATES = """
case "$*" in
  pretrain*) echo "12:00:00 time budget of 55 minutes: saved at step 22 of 63; start again to go on"; exit 75 ;;
  *resnet18_pgd_at/*) echo "deqpipe: loss is nan at step 4 of 6: lower the rate"; exit 1 ;;
  *resnet18_trades/*) echo "---- $(date +%N)"; echo "12:00:00 epoch 1/6"; kill -KILL $$ ;;
esac
"""


def test_only_what_may_come_further_is_retried_and_the_end_tells_all_three_apart(workspace: Workspace) -> None:
    (workspace.folder / "fate.sh").write_text(FATES)
    result = workspace.run(*DEMO, "--cores", "4", "--keep-going", "--retries", "4", *TARGETS)
    assert result.returncode == 1
    starts = [call for call in workspace.calls() if "--history" in call]
    assert [sum(f"/{model}/" in call for call in starts) for model in models()] == [5, 1, endings.SAME]
    log = "logs/demo/train_feedforward/resnet18_{}/seed0.log"
    kept = (workspace.folder / log.format("trades")).with_suffix(endings.TRIES).read_text()
    assert kept.count("train-feedforward runs") == endings.SAME, "of every try there is a log"
    assert (
        f"1 job {Kind.EARLY.value}\n"
        "    pretrain: time budget of 55 minutes: saved at step 22 of 63 (logs/demo/pretrain/deq_pretrain/seed0.log)\n"
        f"1 job {Kind.REFUSED.value}\n"
        f"    train_feedforward: loss is nan at step 4 of 6: lower the rate ({log.format('pgd_at')})\n"
        f"1 job {Kind.STUCK.value}\n"
        f"    train_feedforward: 12:00:00 epoch 1/6 ({log.format('trades')})\n"
    ) in result.stderr


@pytest.mark.slow
def test_a_run_that_only_budgets_ended_calls_nothing_a_failure(workspace: Workspace) -> None:
    (workspace.folder / "fate.sh").write_text(FATES)
    result = workspace.run(*DEMO, "--cores", "2", TARGETS[0], "--logger", "deqpipe")
    assert result.returncode == 1
    assert "Error in rule" not in result.stderr
    words = "pretrain: time budget of 55 minutes: saved at step 22 of 63"
    assert (
        f"{words}\nExiting because a job execution failed. Look above for error messages\n1 job {Kind.EARLY.value}\n"
        f"    {words} (logs/demo/pretrain/deq_pretrain/seed0.log)\n"
    ) in result.stderr


def models() -> Iterator[str]:
    return (target.split("/")[3] for target in TARGETS)


def test_what_is_read_from_logs_stands_once_in_the_package() -> None:
    files = {path.name: path.read_text() for path in [*ROOT.glob("deqpipe/**/*.py"), *ROOT.glob("rules/*.smk")]}
    assert [name for name, text in files.items() if endings.GO_ON in text] == ["endings.py"]
    assert [name for name, text in files.items() if f'"{endings.PROGRAM}: ' in text] == []


CLEAN = [word for name in ("spec", "data", "checkpoint", "output") for word in (f"--{name}", "missing")]


@pytest.mark.parametrize("arguments", [("clean", *CLEAN, "--device", "cpu"), ("clean", "--nonsense"), ("nonsense",)])
def test_a_mistake_is_told_from_what_the_command_itself_prints(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(*arguments) == 2
    ending = read(tmp_path, capsys.readouterr().err)
    assert ending.kind is Kind.REFUSED
    assert not ending.words.startswith("deqpipe")


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (
            "a line\n12:34:56 SIGTERM: saved at step 2 of 3; start again to go on\n",
            Kind.EARLY,
            "SIGTERM: saved at step 2 of 3",
        ),
        ("deqpipe: data x is gone\n\n \n", Kind.REFUSED, "data x is gone"),
        ("deqpipe: data x is gone\nKilled\n", Kind.BROKEN, "Killed"),
        ("Traceback (most recent call last):\n  x\nValueError: deqpipe: no\n", Kind.BROKEN, "ValueError: deqpipe: no"),
        ("12:34:56 epoch 1/6: loss 2.3\n12:3", Kind.BROKEN, "12:3"),
        ("deqpipe runs\n", Kind.BROKEN, "deqpipe runs"),
        (f"deqpipe: x: Input/output error; {MAY_PASS}\n", Kind.BROKEN, f"deqpipe: x: Input/output error; {MAY_PASS}"),
        ("x" * 200_000 + "\ndeqpipe pretrain: no\n", Kind.REFUSED, "no"),
        ("\xff\n", Kind.BROKEN, "\N{LATIN SMALL LETTER Y WITH DIAERESIS}"),
        ("", Kind.BROKEN, ""),
        (
            "12:34:56 SIGTERM: saved; start again to go on\nsrun: error: n1: task 0: Exited with exit code 75\n"
            "slurmstepd-n1: error: *** STEP 7.1 ON n1 CANCELLED ***\n",
            Kind.EARLY,
            "SIGTERM: saved",
        ),
    ],
)
def test_the_last_line_of_a_log_decides(text: str, kind: Kind, words: str, tmp_path: Path) -> None:
    ending = read(tmp_path, text)
    assert (ending.kind, ending.words) == (kind, words)


def read(folder: Path, text: str) -> endings.Ending:
    """How a job ended whose log has this text."""
    log = folder / "job.log"
    log.write_text(text)
    return endings.read([folder / "missing.log", str(log)], since=time.time() - 60)


def test_logs_of_tries_are_kept_once_each(tmp_path: Path) -> None:
    log, job = tmp_path / "seed0.log", Job([str(tmp_path / "seed0.log"), str(tmp_path / "missing.log")])
    watch = endings.Watch(since=0.0)
    for text in ("---- 1\na\n", "---- 2\na\n", "---- 2\na\n", ""):
        log.write_text(text)
        watch.keep_logs([Group([job])])
    assert (tmp_path / "seed0.tries.log").read_text() == "---- 1\na\n---- 2\na\n"
    assert not (tmp_path / "missing.tries.log").exists()
    (tmp_path / "silent.log").touch()
    endings.keep(tmp_path / "silent.log")
    assert not (tmp_path / "silent.tries.log").exists()


def test_bytes_that_are_no_text_are_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\xfe\x00deqpipe: \x80\n")
    assert endings.read([tmp_path / "log", tmp_path], since=0.0).kind is Kind.BROKEN


def test_a_log_of_another_run_says_nothing(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("deqpipe: data x is gone\n")
    os.utime(log, (1000.0, 1000.0))
    assert endings.read([log], since=999.0).kind is Kind.REFUSED
    assert endings.read([log], since=1001.0) == endings.Ending(Kind.BROKEN)


@dataclass(eq=False)
class Job:
    """What a scheduler knows of a job."""

    log: list[str] = field(default_factory=list)
    rule: str = "clean"
    attempt: int = 1
    restart_times: int = 2


@dataclass(eq=False)
class Group:
    """Jobs that are submitted as one."""

    jobs: list[Job]
    attempt: int = 1
    restart_times: int = 2


@dataclass
class Scheduler:
    """What is asked of Snakemake's, and of the executor that it has."""

    failed: list[Any] = field(default_factory=list)
    told: list[Any] = field(default_factory=list)

    def error_callback(self, job: Any) -> None:
        self.told.append(job)

    @property
    def _executor(self) -> "Scheduler":
        return self

    def report_job_error(self, info: Any, msg: str | None = None, **named: Any) -> None:
        self.error_callback(info.job)


def test_a_group_is_not_retried_if_one_of_its_jobs_would_fail_again(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("deqpipe: data x is gone\n")
    scheduler = Scheduler()
    endings.Watch(since=0.0).attach(scheduler)
    for logs, attempt in (([[], [str(tmp_path / "log")]], 3), ([[], []], 1)):
        group = Group([Job(log) for log in logs])
        scheduler.error_callback(group)
        assert (scheduler.told.pop(), group.attempt) == (group, attempt)


@pytest.mark.parametrize(
    ("tries", "stuck"),
    [
        (["12:00:00 ValueError: x", "13:00:00 ValueError: x", "14:00:00 ValueError: x"], True),
        (["KeyError: a", "ValueError: x", "ValueError: x"], False),
        (["12:00:00 epoch 1/6", "12:00:00 epoch 2/6", "12:00:00 epoch 3/6"], False),
        (["ValueError: x", "ValueError: x", "12:00:00 saved; start again to go on", "ValueError: x"], False),
        (["---- 2026-11-27 12:00:00 on n1"] * 3, False),
        (["", "---- 2026-11-27 12:00:00 on n1"] * (endings.MOST // 2), True),
        ([f"step {number}: out of memory" for number in range(endings.MOST)], True),
        ([*["a"] * 2, "saved; start again to go on"] * endings.MOST, False),
    ],
)
def test_a_job_that_breaks_off_with_the_same_words_again_and_again_is_given_up(
    tries: list[str], stuck: bool, tmp_path: Path
) -> None:
    scheduler, watch, job = Scheduler(), endings.Watch(since=0.0), Job([str(tmp_path / "log")], restart_times=50)
    watch.attach(scheduler)
    for words in tries:
        with (tmp_path / "log").open("a") as log:
            log.write(f"{words}\n")
        scheduler.error_callback(job)
    assert (job.attempt > job.restart_times) == stuck
    scheduler.failed.append(job)
    assert (Kind.STUCK.value in watch.summary(scheduler)) == stuck


def test_a_group_of_which_one_job_comes_further_is_not_given_up(tmp_path: Path) -> None:
    """The first one is over, the last one not begun."""
    (tmp_path / "over").write_text("12:00:00 1/1 slice0-999: plain 32.8%\n")
    jobs = [Job([str(tmp_path / name)]) for name in ("over", "now", "missing")]
    scheduler, watch, group = Scheduler(), endings.Watch(since=0.0), Group(jobs, restart_times=379)
    watch.attach(scheduler)
    for number in range(2 * endings.MOST):
        (tmp_path / "now").write_text(f"12:00:00 SIGTERM: saved {number}; start again to go on\n")
        scheduler.error_callback(group)
    assert group.attempt == 1
    for number in range(endings.MOST):
        assert group.attempt == 1, number
        (tmp_path / "now").write_text("Killed\n")
        scheduler.error_callback(group)
    assert group.attempt == 380


SBATCH = "SLURM sbatch failed. The error message was 'sbatch: error: {}'.\n    sbatch call:\n        sbatch -A x\n"


@pytest.mark.parametrize(
    ("message", "submitted", "repeats"),
    [
        (SBATCH.format("Invalid account or account/partition combination specified"), False, True),
        ("Job submission failed with exception: The given account x appears to be invalid.", False, True),
        (SBATCH.format("invalid partition specified: gpus"), False, True),
        (SBATCH.format("Requested node configuration is not available"), False, True),
        ("Error submitting jobscript (exit code 170): qsub: Unknown queue MSG=cannot locate queue", False, True),
        ("Error submitting jobscript (exit code 255): nope: No such queue. Job not submitted.", False, True),
        ("Error submitting jobscript (exit code 111): qsub: cannot connect to server", False, False),
        (SBATCH.format("Unable to contact slurm controller (connect failure)"), False, False),
        (SBATCH.format("Job violates accounting/QOS policy (job submit limit)"), False, False),
        ("SLURM-job '7' failed, its time limit is invalid", True, False),
        (None, False, False),
    ],
)
def test_a_job_that_a_cluster_will_never_take_is_not_retried(
    message: str | None, submitted: bool, repeats: bool
) -> None:
    scheduler, watch, job = Scheduler(), endings.Watch(since=0.0), Job()
    watch.attach(scheduler)
    scheduler.report_job_error(SimpleNamespace(job=job, external_jobid="7" if submitted else None), message)
    assert (scheduler.told, job.attempt) == ([job], 3 if repeats else 1)
    scheduler.failed.append(job)
    kind, told = watch.summary(scheduler).splitlines()
    assert kind == f"1 job {(Kind.REFUSED if repeats else Kind.BROKEN).value}"
    assert (
        told
        == f"    clean: {str(message).partition(chr(10))[0] if repeats else 'it did not begin, or its log is not here'}"
    )


class Bare:
    """A job without rule and without attempts that could be used up."""

    __slots__ = ("log",)

    def __init__(self, *log: str) -> None:
        self.log = log


def test_where_snakemake_is_otherwise_inside_jobs_are_reported_and_retried_as_ever(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("deqpipe: data x is gone\n")
    told: list[Any] = []
    job, scheduler = Bare(str(tmp_path / "log")), SimpleNamespace(error_callback=told.append)
    watch = endings.Watch(since=0.0)
    watch.attach(scheduler)
    scheduler.error_callback(job)
    assert told == [job]
    watch.attach(object())
    assert watch.summary(object()) == ""


def test_a_run_that_somebody_stopped_says_how_it_goes_on() -> None:
    assert "run the same command again" in endings.Watch(since=0.0).summary(Scheduler())


def test_many_jobs_are_summed_up(tmp_path: Path) -> None:
    watch = endings.Watch(since=0.0)
    summary = watch.summary(Scheduler(failed=[Job() for _ in range(12)])).splitlines()
    assert summary[0] == f"12 jobs {Kind.BROKEN.value}"
    assert summary[1:] == ["    clean: it did not begin, or its log is not here"] * 10 + ["    and 2 more"]
