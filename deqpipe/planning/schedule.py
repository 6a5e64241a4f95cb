"""How long a run takes on so many cores: its jobs started one after the other as Snakemake may start them."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deqpipe.counts import Number
from deqpipe.planning.cost import runs_alone, uses_device
from deqpipe.workflow.dry_run import PlannedJob


@dataclass(frozen=True)
class Machine:
    """What jobs share.

    Attributes:
        cores: of the CPU; a job takes one.
        one_device: whether jobs that train or evaluate share one GPU, one at a time.
        one_machine: whether timing jobs keep all others waiting; on a cluster they have a node to themselves.
    """

    cores: int
    one_device: bool
    one_machine: bool = True


@dataclass(frozen=True)
class Slot:
    """When a job runs, in seconds from the first start.

    Attributes:
        start: when it starts.
        end: when it ends.
        after: the job whose end let it start, because it made a file or made room; None: nothing held it up.
    """

    start: Number
    end: Number
    after: int | None

    @property
    def seconds(self) -> Number:
        """How long it runs."""
        return self.end - self.start


@dataclass(frozen=True)
class Run:
    """When each job runs, by its number."""

    slots: Mapping[int, Slot]

    @property
    def seconds(self) -> Number:
        """From the first start to the last end."""
        return max((slot.end for slot in self.slots.values()), default=0)

    @property
    def critical(self) -> tuple[int, ...]:
        """The chain of jobs that bounds the run, in order: each starts when the one before ends, the last ends last."""
        chain = list[int]()
        number = max(self.slots, key=lambda job: self.slots[job].end, default=None)
        while number is not None:
            chain.append(number)
            number = self.slots[number].after
        return tuple(reversed(chain))


def run(jobs: Sequence[PlannedJob], seconds: Sequence[Number], machine: Machine) -> Run:
    """The jobs on a machine.

    A job starts when the files it waits for are made and there is room: a core, the GPU where there is one, for
    timing jobs the whole machine. Of those that could start, the one of the highest priority does, the first of them
    in Snakemake's order.
    """
    waits, slots = _waits(jobs), dict[int, Slot]()
    waiting = sorted(range(len(jobs)), key=lambda number: -jobs[number].priority)
    running, done = list[tuple[Number, int]](), set[int]()
    now: Number = 0
    finished: int | None = None
    while waiting or running:
        for number in list(waiting):
            if waits[number] <= done and _fits(jobs[number], [jobs[other] for _, other in running], machine):
                maker = next((other for other in waits[number] if slots[other].end == now), finished)
                slots[number] = Slot(now, now + seconds[number], maker)
                heapq.heappush(running, (slots[number].end, number))
                waiting.remove(number)
        assert running, "jobs wait for each other"
        now, finished = heapq.heappop(running)
        done.add(finished)
    return Run(slots)


def unbounded(jobs: Sequence[PlannedJob], seconds: Sequence[Number]) -> Run:
    """The jobs where nothing but files holds them up: no machine with more room is faster."""
    waits, slots = _waits(jobs), dict[int, Slot]()
    while len(slots) < len(jobs):
        ready = [number for number in range(len(jobs)) if number not in slots and waits[number] <= slots.keys()]
        assert ready, "jobs wait for each other"
        for number in ready:
            last = max(waits[number], key=lambda other: slots[other].end, default=None)
            start = 0 if last is None else slots[last].end
            slots[number] = Slot(start, start + seconds[number], last)
    return Run(slots)


def _waits(jobs: Sequence[PlannedJob]) -> list[set[int]]:
    """The jobs that each one waits for."""
    makers = {output: number for number, job in enumerate(jobs) for output in job.outputs}
    return [{makers[name] for name in job.inputs if name in makers} for job in jobs]


def _fits(job: PlannedJob, running: Sequence[PlannedJob], machine: Machine) -> bool:
    if machine.one_machine and (runs_alone(job.rule) or any(runs_alone(other.rule) for other in running)):
        return not running
    if machine.one_device and uses_device(job.rule) and any(uses_device(other.rule) for other in running):
        return False
    return len(running) < machine.cores
