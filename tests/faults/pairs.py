"""Two at once: the same job twice in one state folder, the same output twice, two workflows in one folder.

Of ten cases six start a job twice in one state folder, the second some moments after the first, which is killed in one
of three cases: one waits for the other, or takes over. Three have two jobs write one output, each with a state of its
own. One starts Snakemake twice: each ends well or is refused by Snakemake's lock of the folder, and started again it
has nothing to do. Results must be those of an undisturbed run, with no file beside them.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from deqpipe import config
from tests import tiny, workflow_files
from tests.faults import children, results
from tests.faults.cases import Bench, Case, Kind, Verdict, judged
from tests.faults.world import JOBS, MICRO, Undisturbed, World, undisturbed

_IN_ONE_STATE = ("pretrain", "train-deq", "train-feedforward", "attack-grid", "autoattack", "attack-sweep")
_ONE_OUTPUT = ("clean", "select-early-state", "attack-grid", "pretrain")
_OF, _STATES, _OUTPUTS = 10, 6, 3
_TARGET = "results/micro/models/deq_pretrain/seed0/best.safetensors"
_REFUSED = ("cannot be locked", "LockException")


@dataclass(frozen=True)
class Pairs:
    """What all cases share.

    Attributes:
        bench: where they run.
        world: of their jobs.
        known: a job that nothing happened to.
        alone: a workflow that nothing happened to.
    """

    bench: Bench
    world: World
    known: Callable[[str], Undisturbed]
    alone: Callable[[], Path]

    def __call__(self, number: int) -> Verdict:
        """Start two."""
        (turn, place), folder = divmod(number, _OF), self.bench.folder(number)
        if place < _STATES:
            verdict = self._one_state(_IN_ONE_STATE[(turn + place) % len(_IN_ONE_STATE)], number, folder)
        elif place < _STATES + _OUTPUTS:
            verdict = self._one_output(_ONE_OUTPUT[(turn + place) % len(_ONE_OUTPUT)], number, folder)
        else:
            verdict = self._two_workflows(number, folder)
        return self.bench.leave(folder, verdict)

    def _one_state(self, name: str, number: int, folder: Path) -> Verdict:
        known, draws, files = self.known(name), self.bench.draws(number), folder / "files"
        files.mkdir()
        line = JOBS[name].arguments(self.world, files)
        first = children.start(line, folder / "first.log")
        first.wait(draws.uniform(0, known.seconds))
        second = children.start(line, folder / "second.log")
        killed = draws.random() < 1 / 3 and first.wait(draws.uniform(0, known.seconds / 2)) is None
        if killed:
            first.send(signal.SIGKILL)
        row = f"{name}, in one state, one killed" if killed else f"{name}, in one state"
        statuses = (None if killed else 0, 0)
        wrong = self._both(name, {first: statuses[0], second: statuses[1]}, known.folder, files)
        return judged(row, wrong)

    def _one_output(self, name: str, number: int, folder: Path) -> Verdict:
        known, draws, files = self.known(name), self.bench.draws(number), folder / "files"
        files.mkdir()
        line = JOBS[name].arguments(self.world, files)
        other = [str(folder / "state") if argument == str(files / "state") else argument for argument in line]
        first = children.start(line, folder / "first.log")
        first.wait(draws.uniform(0, known.seconds / 3))
        second = children.start(other, folder / "second.log")
        return judged(f"{name}, to one output", self._both(name, {first: 0, second: 0}, known.folder, files))

    def _both(self, name: str, wanted: Mapping[children.Child, int | None], known: Path, files: Path) -> str | None:
        """What is wrong once both have ended; no status is wanted of one that was killed."""
        for child, status in wanted.items():
            ended = child.ended(self.bench.patience)
            if status is not None and ended != status:
                return f"{child.log.stem} ended with {ended}: {children.last_line(child.log)!r}"
        return results.difference(known, files, JOBS[name].outputs) or results.leftovers(known, files)

    def _two_workflows(self, number: int, folder: Path) -> Verdict:
        alone, draws = self.alone(), self.bench.draws(number)
        copy_workflow(folder / "files")
        first = _snakemake(folder / "files", folder / "first.log")
        time.sleep(draws.uniform(0, 8))
        second = _snakemake(folder / "files", folder / "second.log")
        wrong = self._ended(first, folder / "first.log") or self._ended(second, folder / "second.log")
        if wrong is None:
            third = _snakemake(folder / "files", folder / "third.log")
            wrong = self._ended(third, folder / "third.log", alone=True)
        models = "results/micro/models/deq_pretrain/seed0"
        names = tuple(f"{models}/{name}.safetensors" for name in ("best", "last", "handoff"))
        return judged("two workflows in one folder", wrong or results.difference(alone, folder / "files", names))

    def _ended(self, process: subprocess.Popen[bytes], log: Path, *, alone: bool = False) -> str | None:
        """What is wrong with how a workflow ended."""
        try:
            status = process.wait(self.bench.patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"{log.stem} took too long"
        refused = not alone and any(word in log.read_text(errors="replace") for word in _REFUSED)
        return None if status == 0 or refused else f"{log.stem} ended with {status}: {children.last_line(log)!r}"


def copy_workflow(folder: Path) -> None:
    """The workflow's files with micro settings, in a folder of their own."""
    workflow_files.copy_workflow(folder)
    paths = {"pathvars": {name: f"{name}/micro" for name in ("results", "logs", "state")}}
    overlay = config.merge(config.merge(tiny.OVERLAY, MICRO), paths)
    (folder / "micro.yaml").write_text(yaml.safe_dump(overlay))


def _snakemake(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "micro.yaml", "--", _TARGET]
    with log.open("wb") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(line, cwd=folder, stdout=file, stderr=subprocess.STDOUT, env=environment)


def _workflow_alone(folder: Path) -> Path:
    """A workflow that nothing happened to."""
    copy_workflow(folder)
    log = folder / "log"
    if _snakemake(folder, log).wait() != 0:
        raise RuntimeError(f"a workflow alone did not end well:\n{log.read_text()}")
    return folder


def _open(bench: Bench) -> Case:
    world = World(bench.scratch / "world")
    alone = functools.cache(functools.partial(_workflow_alone, bench.scratch / "alone"))
    return Pairs(bench, world, functools.cache(functools.partial(undisturbed, world)), alone)


KIND = Kind("pairs", "the same job, output or workflow twice at once", 60, _open)
