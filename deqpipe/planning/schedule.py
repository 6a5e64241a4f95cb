"""How long a run takes on so many cores: its jobs started one after the other as Snakemake may start them."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from deqpipe.planning.work import Number, runs_alone, uses_device
from deqpipe.planning.workflow import Job


@dataclass(frozen=True)
class Machine:
    """What jobs share.

    Attributes:
        cores: of the CPU; a job takes one.
        one_device: whether jobs that train or evaluate share one GPU, one at a time.
    """

    cores: int
    one_device: bool


def wall_seconds(jobs: Sequence[Job], seconds: Sequence[Number], machine: Machine) -> Number:
    """Seconds from the first start to the last end.

    A job starts when the files it waits for are made and there is room: a core, the GPU where there is one, for
    timing jobs the whole machine. Of those that could start, the first one in Snakemake's order does.
    """
    makers = {output: number for number, job in enumerate(jobs) for output in job.outputs}
    waits = [{makers[name] for name in job.inputs if name in makers} for job in jobs]
    waiting, running, done = list(range(len(jobs))), list[tuple[Number, int]](), set[int]()
    now: Number = 0
    while waiting or running:
        for number in list(waiting):
            if waits[number] <= done and _fits(jobs[number], [jobs[other] for _, other in running], machine):
                heapq.heappush(running, (now + seconds[number], number))
                waiting.remove(number)
        assert running, "jobs wait for each other"
        now, finished = heapq.heappop(running)
        done.add(finished)
    return now


def _fits(job: Job, running: Sequence[Job], machine: Machine) -> bool:
    if runs_alone(job.rule) or any(runs_alone(other.rule) for other in running):
        return not running
    if machine.one_device and uses_device(job.rule) and any(uses_device(other.rule) for other in running):
        return False
    return len(running) < machine.cores
