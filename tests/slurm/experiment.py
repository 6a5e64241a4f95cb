"""A very small experiment in a copy of the workflow, run here or by SLURM, and a look at its jobs while they run."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deqpipe import config
from deqpipe.workflow import endings
from tests import tiny
from tests.faults.world import MICRO
from tests.slurm.cluster import Cluster, ClusterError, wait_until
from tests.workflow_files import ROOT, copy_workflow

NAME = "box"
RESULTS = f"results/{NAME}"
_EPOCH = re.compile(r"epoch (\d+)/")
_FIELD = re.compile(r"(?:^|\s)(JobId|JobState|Restarts|Reason|WorkDir|PreemptTime|Partition|BatchHost)=(\S+)")
_LOOKS = 0.1
"""Seconds between two looks at the processes."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is computed.

    Attributes:
        name: of it.
        changes: of tests/tiny.py's settings.
        targets: files; none: everything.
        trains: the command whose process is watched.
        logs: folder of that job's logs.
    """

    name: str
    changes: Mapping[str, Any]
    targets: tuple[str, ...] = ()
    trains: str = "pretrain"
    logs: str = f"logs/{NAME}/pretrain"


TRAINING = Experiment(
    "training",
    config.merge(MICRO, {"pretrain": {"steps": 630}, "training": {"epochs": 8}}),
    (f"{RESULTS}/models/deq_pretrain/seed0/best.safetensors",),
)
"""One training of fifteen seconds, in seven epochs: long enough to be disturbed on a fast machine."""
THREE = Experiment(
    "three",
    MICRO,
    tuple(
        f"{RESULTS}/models/{model}/seed0/best.safetensors"
        for model in ("deq_pretrain", "resnet18_pgd_at", "resnet18_trades")
    ),
)
"""Three trainings that wait for nothing but the images."""
TABLES = Experiment("tables", MICRO, tuple(f"{RESULTS}/tables/table{number}.csv" for number in (2, 6)))
"""Trainings, selections, grids, and evaluations that share a submission."""
WHOLE = Experiment("whole", MICRO)


def write(experiment: Experiment, folder: Path) -> None:
    """The workflow and its settings."""
    copy_workflow(folder)
    paths = {"pathvars": {name: f"{name}/{NAME}" for name in ("results", "logs", "state")}}
    (folder / "box.yaml").write_text(
        yaml.safe_dump(config.merge(config.merge(tiny.OVERLAY, experiment.changes), paths))
    )


def set_profile(folder: Path, cluster: Cluster, changes: Mapping[str, Any]) -> None:
    """Set in profiles/slurm what a user would set for this cluster, and changes of the case."""
    file = folder / "profiles" / "slurm" / "profile.yaml"
    profile = config.merge(yaml.safe_load(file.read_text()), {
        "slurm-init-seconds-before-status-checks": 2,
        "latency-wait": 10,
        "config": {"device": "cpu", "gpu_request": 1},
        "default-resources": {"slurm_partition": cluster.partition, "slurm_account": cluster.account},
    })  # fmt: skip
    file.write_text(yaml.safe_dump(config.merge(profile, changes)))


def run_here(experiment: Experiment, folder: Path) -> None:
    """The experiment without SLURM and undisturbed.

    Raises:
        ClusterError: it does not come to its end.
    """
    write(experiment, folder)
    line = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "box.yaml", "--", *experiment.targets]
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if subprocess.run(line, cwd=folder, stdout=log, stderr=log, env=environment, check=False).returncode != 0:
            raise ClusterError(f"the experiment fails without SLURM as well: {folder / 'log'}")


@dataclass(frozen=True)
class Job:
    """A job, as the controller knows it; attributes as `scontrol show job` calls them."""

    id: str
    state: str
    restarts: int
    reason: str
    node: str
    preempted: bool


@dataclass(frozen=True)
class Try:
    """A process of the training that has ended.

    Attributes:
        at: when, by `time.monotonic`.
        ending: as Snakemake's retries take it.
        epochs: that it has told of.
    """

    at: float
    ending: endings.Ending
    epochs: tuple[int, ...]

    @property
    def saved_after_sigterm(self) -> bool:
        """Whether it was told to leave, and left with what it had."""
        return self.ending.kind is endings.Kind.EARLY and self.ending.words.startswith("SIGTERM: ")


@dataclass(frozen=True, eq=False)
class Run:
    """Snakemake, started for an experiment in a folder.

    Attributes:
        experiment: that runs.
        folder: where.
        cluster: whose.
        process: Snakemake.
        log: of Snakemake.
        tries: processes of the training that have ended.
    """

    experiment: Experiment
    folder: Path
    cluster: Cluster
    process: subprocess.Popen[bytes]
    log: Path
    tries: list[Try] = field(default_factory=list)

    def jobs(self) -> list[Job]:
        """Its jobs, in the order of submission; also those of earlier runs in this folder."""
        return jobs_in(self.cluster, self.folder)

    def training(self, epochs: int, *, seconds: float = 300) -> Job:
        """The job that trains, once it has done so many epochs more than before.

        Raises:
            ClusterError: it has not after so many seconds, or Snakemake has ended.
        """
        before = max((epoch for done in self.tries for epoch in done.epochs), default=0)

        def far_enough() -> bool:
            if self.process.poll() is not None:
                raise ClusterError(f"Snakemake has ended with {self.process.returncode}: {last_line(self.log)!r}")
            return self.pid() is not None and max(self.epochs(), default=0) >= before + epochs

        wait_until(far_enough, seconds, f"the training does not get to epoch {before + epochs}")
        running = [job for job in self.jobs() if job.state == "RUNNING"]
        if not running:
            raise ClusterError("the training runs, but none of its jobs")
        return running[-1]

    def pid(self) -> int | None:
        """The process that trains; None: there is none."""
        return next(processes(self.experiment.trains, self.folder), None)

    def epochs(self) -> tuple[int, ...]:
        """That the last try has told of."""
        told = "".join(log.read_text(errors="replace") for log in self._newest())
        return tuple(map(int, _EPOCH.findall(told.rpartition(endings.HEADING)[2])))

    def told(self) -> int:
        """How many tries have a log."""
        return sum(log.read_text(errors="replace").count(endings.HEADING) for log in self._logs())

    def _newest(self) -> list[Path]:
        """The log that was written last, if there is one."""
        return sorted(self._logs(), key=lambda log: log.stat().st_mtime)[-1:]

    def _logs(self) -> list[Path]:
        return [path for path in (self.folder / self.experiment.logs).rglob("*") if path.is_file()]

    def ended(self, seconds: float) -> int:
        """The exit status of Snakemake.

        Raises:
            ClusterError: it goes on after so many seconds.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"Snakemake goes on after {seconds:g} s: {last_line(self.log)!r}") from None

    def text(self) -> str:
        """What Snakemake has said."""
        return self.log.read_text(errors="replace")

    def watch(self, over: threading.Event) -> None:
        """Note every process of the training, and what its log says as soon as it is gone."""
        known: int | None = None
        while not over.wait(_LOOKS):
            now = self.pid()
            if known is not None and now != known:
                at = time.monotonic()
                self.tries.append(Try(at, endings.read(self._newest(), since=0), self.epochs()))
            known = now


@contextmanager
def submitted(experiment: Experiment, folder: Path, cluster: Cluster, *options: str) -> Iterator[Run]:
    """Snakemake with the profile for SLURM; killed at the end if it goes on.

    Args:
        experiment: to run.
        folder: that was written for it.
        cluster: that runs it.
        options: of Snakemake besides.
    """
    number = len(list(folder.glob("snakemake*.log")))
    log = folder / f"snakemake{number}.log"
    profile = ["--profile", "profiles/slurm", "--configfile", "box.yaml"]
    line = [sys.executable, "-m", "tests.slurm.quick_polls", *profile, *options, "--", *experiment.targets]
    environment = {**cluster.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(line, cwd=folder, stdout=file, stderr=file, env=environment, start_new_session=True)
    run, over = Run(experiment, folder, cluster, process, log), threading.Event()
    watcher = threading.Thread(target=run.watch, args=(over,), daemon=True)
    watcher.start()
    try:
        yield run
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        over.set()
        watcher.join()


def jobs_in(cluster: Cluster, folder: Path) -> list[Job]:
    """The jobs that were submitted from a folder."""
    told = [dict(_FIELD.findall(line)) for line in cluster.call("scontrol", "-o", "show", "jobs").splitlines()]
    return [
        Job(
            job["JobId"], job["JobState"], int(job.get("Restarts", 0)), job.get("Reason", ""),
            job.get("BatchHost", ""), job.get("PreemptTime", "None") not in ("None", "Unknown"),
        )
        for job in told if job.get("WorkDir") == str(folder)
    ]  # fmt: skip


def processes(verb: str, folder: Path) -> Iterator[int]:
    """The `deqpipe` processes of a command that run in a folder."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            called = len(words) > 2 and words[1].endswith(b"/deqpipe") and words[2] == verb.encode()
            if called and os.readlink(entry / "cwd") == str(folder):
                yield int(entry.name)


def last_line(log: Path) -> str:
    """The last line with text in it."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
