"""SIGTERM, SIGINT, SIGHUP and time budgets at random moments: how long a job takes to leave, and what it leaves.

Once a job holds the lock of its state it must save and leave with status 75, and the last line of its log must say how
to go on; before that there is nothing to save, and it may end by the signal. Started again it must end with the results
of an undisturbed run. With --large the jobs are of MDEQ-Large, at batch 96 on a CPU: how long one takes to leave is all
that is looked at then.
"""

import functools
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from deqpipe.compute.evaluations import Counter
from deqpipe.counts import Evaluations
from deqpipe.machine.stopping import EXIT_UNFINISHED
from tests.faults import children, large, results
from tests.faults.cases import Bench, Case, Kind, Verdict, judged, skipped
from tests.faults.world import JOBS, Undisturbed, World, accepts, prepare, undisturbed

STOPPED_JOBS = (
    "pretrain", "train-deq", "train-feedforward", "select-early-state", "clean", "attack-grid", "attack-pgd",
    "autoattack", "attack-top", "attack-in-loop", "attack-sweep", "attack-example", "time-training", "time-inference",
    "predict",
)  # fmt: skip
LARGE_JOBS = tuple(name for name in STOPPED_JOBS if name != "attack-example")
"""That one crafts a batch of the grid again, and asks for the records of all of it."""
WAYS: tuple[signal.Signals | None, ...] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, None)
"""None: a time budget."""
_BUDGET = "--time-budget-minutes"
_ANSWER_SECONDS = 30.0
_MOMENT = 0.1  # seconds
_WITHOUT_GRADIENTS = ("clean", "time-inference", "train-feedforward", "attack-pgd")
"""Jobs at the large size that take none, or of a network without f, whose backward pass is left nowhere."""
_LONGEST_DELAY = 20.0  # at the size of the paper's model, from the first call of a network to the signal


@dataclass(frozen=True)
class Left:
    """How a job left that was asked to.

    Attributes:
        status: its exit status; None: it did not leave in time.
        seconds: from the signal, or the end of the budget.
        held: whether it held the lock of its state then.
        asked: whether it was still there to be asked.
    """

    status: int | None
    seconds: float
    held: bool
    asked: bool = True


@dataclass(frozen=True)
class Signals:
    """Cases at micro size: all that is promised is looked at."""

    bench: Bench
    world: World
    names: tuple[str, ...]
    known: Callable[[str], Undisturbed]

    def __call__(self, number: int) -> Verdict:
        """Ask a job to leave, and start it again."""
        name, turn = self.names[number % len(self.names)], number // len(self.names)
        way, draws = WAYS[turn % len(WAYS)], self.bench.draws(number)
        asked = "budget" if way is None else way.name
        if way is None and not accepts(JOBS[name].arguments(self.world, Path())[0], _BUDGET):
            return skipped(name, "has no budget")
        folder, moment = self.bench.folder(number), draws.uniform(0, self.known(name).seconds)
        (folder / "files").mkdir()
        line = JOBS[name].arguments(self.world, folder / "files")
        left = self._asked(line, folder, moment, way)
        wrong = self._wrong(left, folder) or self._ended(name, folder)
        told = None if wrong is None else f"{asked} after {moment:.3f} s: {wrong}"
        seconds = left.seconds if left.asked else None
        return self.bench.leave(folder, judged(name, told, faults=int(left.asked), seconds=seconds))

    def _asked(self, line: list[str], folder: Path, moment: float, way: signal.Signals | None) -> Left:
        budget = [] if way is not None else [_BUDGET, repr(max(moment, 0.001) / 60)]
        child = children.start([*line, *budget], folder / "log")
        status = child.wait(moment)
        if status is not None:
            return Left(status, 0.0, held=False, asked=False)
        held, since = _holds(child, folder), time.monotonic()
        if way is not None:
            child.send(way)
        status = child.ended(self.bench.patience)
        return Left(status, time.monotonic() - since, held=held or way is None)

    def _wrong(self, left: Left, folder: Path) -> str | None:
        """What is wrong with how it left."""
        line = children.last_line(folder / "log")
        if left.status is None:
            return f"it did not leave within {self.bench.patience:g} s"
        if left.seconds > _ANSWER_SECONDS:
            return f"it took {left.seconds:.1f} s to leave"
        if left.status == EXIT_UNFINISHED:
            return None if "start again to go on" in line else f"its last line does not say how to go on: {line!r}"
        if left.status == 2 and "allow more time" in line:
            return None  # a budget in which nothing can be done
        if left.status > 0 or (left.status < 0 and left.held):
            return f"it left with status {left.status}: {line!r}"
        return None

    def _ended(self, name: str, folder: Path) -> str | None:
        """What is wrong once it was started again."""
        child = children.start(JOBS[name].arguments(self.world, folder / "files"), folder / "log")
        status = child.ended(self.bench.patience)
        if status != 0:
            return f"started again it ended with {status}: {children.last_line(child.log)!r}"
        known, job = self.known(name).folder, JOBS[name]
        compared = () if job.timed else job.outputs
        return results.difference(known, folder / "files", compared) or results.leftovers(known, folder / "files")


def _holds(child: children.Child, folder: Path) -> bool:
    """Whether a process holds a lock in a folder, and had a moment since to see to its signals."""
    return any(
        _pid(path) == child.pid and time.time() - path.stat().st_mtime > _MOMENT for path in folder.rglob("lock")
    )


def _pid(lock: Path) -> int | None:
    try:
        entry = json.loads(lock.read_text())
    except (OSError, ValueError):
        return None
    return entry.get("pid") if isinstance(entry, dict) else None


@dataclass(frozen=True)
class LargeSignals:
    """Cases at the size of the paper's model: seconds to leave.

    Jobs are asked at a random moment of their first seconds, and those that take gradients in their first backward
    pass, too, which is the longest thing that they wait for.
    """

    bench: Bench
    world: World
    names: tuple[str, ...]

    def __call__(self, number: int) -> Verdict:
        """Ask a job to leave some seconds after a network was called first, or a gradient arrived first."""
        name, turn = self.names[number % len(self.names)], number // len(self.names)
        way, backward = WAYS[turn % 3], turn % 2 == 1
        if backward and name in _WITHOUT_GRADIENTS:
            return skipped(f"{name}, large", "takes no gradients")
        row = f"{name}, large, {'in a backward pass' if backward else 'forward'}"
        folder, delay = self.bench.folder(number), self.bench.draws(number).random()
        (folder / "files").mkdir()
        prepare(self.world, name)
        line = JOBS[name].arguments(self.world, folder / "files")
        begun = folder / "begun"
        note = _note_first_gradient if backward else _note_first_call
        child = children.start(line, folder / "log", first=functools.partial(note, begun))
        status = None
        while status is None and not begun.exists():
            status = child.wait(0.1)
        if status is None:
            status = child.wait(delay * (1.0 if backward else _LONGEST_DELAY))
        if status is not None:
            told = f"it ended with {status} before it was asked: {children.last_line(child.log)!r}"
            return self.bench.leave(folder, judged(row, told if status else None, faults=0))
        since = time.monotonic()
        assert way is not None
        child.send(way)
        status, seconds = child.ended(self.bench.patience), time.monotonic() - since
        line_of_log = children.last_line(child.log)
        told = f"{way.name}, after {delay:.2f} of the delay: left with {status} after {seconds:.1f} s: {line_of_log!r}"
        left = (EXIT_UNFINISHED, -way) if name == "predict" else (EXIT_UNFINISHED,)  # that one has nothing to keep
        wrong = told if status not in left or seconds > _ANSWER_SECONDS else None
        return self.bench.leave(folder, judged(row, wrong, seconds=seconds))


def _note_first_call(begun: Path) -> None:
    """Make a file when a network is called first in this process, which is a child."""

    def note(module: nn.Module, inputs: object) -> None:
        begun.touch()

    register_module_forward_pre_hook(note)


def _note_first_gradient(begun: Path) -> None:
    """Make a file when a gradient arrives first at a value of f."""
    arrived = Counter._arrived

    def note(counter: Counter, evaluations: Evaluations) -> None:
        begun.touch()
        arrived(counter, evaluations)

    Counter._arrived = note  # type: ignore[method-assign, assignment]  # of a process that ends soon


def _open(bench: Bench) -> Case:
    names = bench.chosen(LARGE_JOBS if bench.large else STOPPED_JOBS)
    if not bench.large:
        world = World(bench.scratch / "world")
        return Signals(bench, world, names, functools.cache(functools.partial(undisturbed, world)))
    preparing = large.preparing(bench.scratch)
    for needed in dict.fromkeys(needed for name in names for needed in JOBS[name].needs):
        undisturbed(preparing, needed, timed=False)
    whole = large.world(bench.scratch, bench.batch)
    if whole.trunk.exists():
        large.go_on_from(whole.trunk, bench.batch, bench.scratch)
    return LargeSignals(bench, whole, names)


KIND = Kind("signals", "SIGTERM, SIGINT, SIGHUP and time budgets at random moments", 180, _open)
