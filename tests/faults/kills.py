"""SIGKILL at random moments and at the boundaries of writes: the job, started again, ends with the same bits.

Two of three cases kill at a boundary, of all those of all jobs in an order drawn from the seed (a full run meets each);
the third kills at random moments, up to three times. After every kill what is published must be whole; at the end
results must be those of an undisturbed run, with no file beside them.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults import children, results
from tests.faults.boundaries import Boundaries
from tests.faults.cases import Bench, Case, Kind, Verdict, judged
from tests.faults.world import JOBS, World, undisturbed

KILLED_JOBS = ("pretrain", "train-deq", "train-feedforward", "attack-grid", "autoattack", "attack-sweep")
_MOST_KILLS = 3


@dataclass(frozen=True)
class Known:
    """A job that may be killed.

    Attributes:
        folder: of an undisturbed run.
        seconds: that it took.
        boundaries: of its writes, in words.
    """

    folder: Path
    seconds: float
    boundaries: tuple[str, ...]


@dataclass(frozen=True)
class Kills:
    """What all cases share."""

    bench: Bench
    world: World
    jobs: Mapping[str, Known]
    order: tuple[tuple[str, int], ...]
    """The boundaries of all jobs, as they are met."""

    def __call__(self, number: int) -> Verdict:
        """Kill a job, and start it again until it ends."""
        names, (turn, place), folder = tuple(self.jobs), divmod(number, 3), self.bench.folder(number)
        if place == 2:
            name = names[turn % len(names)]
            row, (kills, wrong) = f"{name}, at random moments", self._at_random(name, folder, number)
        else:
            name, boundary = self.order[(2 * turn + place) % len(self.order)]
            row, (kills, wrong) = f"{name}, at a write boundary", self._at_boundary(name, folder, boundary)
        wrong = wrong or self._ended(name, folder)
        return self.bench.leave(folder, judged(row, wrong, faults=kills))

    def _at_boundary(self, name: str, folder: Path, boundary: int) -> tuple[int, str | None]:
        where = f"boundary {boundary} ({self.jobs[name].boundaries[boundary]})"
        status = self._start(name, folder, Boundaries(boundary)).ended(self.bench.patience)
        if status != children.KILLED:
            return 0, f"ended with {status} before {where}"
        wrong = self._not_whole(name, folder)
        return 1, None if wrong is None else f"killed at {where}: {wrong}"

    def _at_random(self, name: str, folder: Path, number: int) -> tuple[int, str | None]:
        draws, kills, moments = self.bench.draws(number), 0, list[str]()
        for _ in range(draws.randint(1, _MOST_KILLS)):
            child, seconds = self._start(name, folder), draws.uniform(0, self.jobs[name].seconds)
            if child.wait(seconds) is not None:
                break
            child.send(signal.SIGKILL)
            child.wait(60)
            kills += 1
            moments.append(f"{seconds:.3f} s")
            wrong = self._not_whole(name, folder)
            if wrong is not None:
                return kills, f"killed after {', then '.join(moments)}: {wrong}"
        return kills, None

    def _start(self, name: str, folder: Path, boundaries: Boundaries | None = None) -> children.Child:
        first = boundaries.install if boundaries else (lambda: None)
        (folder / "files").mkdir(exist_ok=True)
        return children.start(JOBS[name].arguments(self.world, folder / "files"), folder / "log", first=first)

    def _not_whole(self, name: str, folder: Path) -> str | None:
        """What is wrong with what is published already."""
        there = tuple(output for output in JOBS[name].outputs if (folder / "files" / output).exists())
        return results.difference(self.jobs[name].folder, folder / "files", there)

    def _ended(self, name: str, folder: Path) -> str | None:
        """What is wrong once the job was started again and was left alone."""
        child = self._start(name, folder)
        status = child.ended(self.bench.patience)
        if status != 0:
            return f"started again it ended with {status}: {children.last_line(child.log)}"
        known = self.jobs[name].folder
        return results.difference(known, folder / "files", JOBS[name].outputs) or results.leftovers(
            known, folder / "files"
        )


def _open(bench: Bench) -> Case:
    world = World(bench.scratch / "world")
    jobs = {name: _known(world, name) for name in bench.chosen(KILLED_JOBS)}
    every = [(name, boundary) for name, known in jobs.items() for boundary in range(len(known.boundaries))]
    print(f"  {len(every)} boundaries of writes", flush=True)
    return Kills(bench, world, jobs, tuple(bench.draws("boundaries").sample(every, len(every))))


def _known(world: World, name: str) -> Known:
    told = world.folder / f"{name} boundaries"
    found = undisturbed(world, name, first=Boundaries(told=told).install)
    return Known(found.folder, found.seconds, tuple(told.read_text().splitlines()))


KIND = Kind("kills", "SIGKILL at random moments and at write boundaries, then started again", 960, _open)
