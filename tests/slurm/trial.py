"""One case at a time: where it runs, what is done to its jobs, and what it comes to."""

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks import same_results
from tests.slurm import experiment
from tests.slurm.cluster import Cluster, ClusterError, wait_until
from tests.slurm.experiment import RESULTS, Experiment, Job, Run, Try

Reference: TypeAlias = Callable[[Experiment], Path]
"""The results folder of an experiment that ran without SLURM."""


class Wrong(Exception):
    """A case did not go as it should; in words."""


@dataclass(frozen=True)
class Outcome:
    """What a case came to.

    Attributes:
        name: of the case.
        right: whether it went as it should.
        seen: in words.
        jobs: submitted.
        cancelled: of these.
        preempted: times that a job was.
        requeued: times that a job went back into the queue.
        lost: jobs that lost their node.
        sigterms: seconds from what was done to the end of the training, each time that it was told to leave and saved.
        values: compared with those of the run without SLURM.
        seconds: that the case took.
    """

    name: str
    right: bool
    seen: str
    jobs: int = 0
    cancelled: int = 0
    preempted: int = 0
    requeued: int = 0
    lost: int = 0
    sigterms: tuple[float, ...] = ()
    values: int = 0
    seconds: float = 0.0


@dataclass
class Trial:
    """A case under way.

    Attributes:
        name: of the case.
        folder: of its files.
        cluster: that it runs on.
        draws: of the moments at which something is done.
        reference: the results of an experiment without SLURM.
        sigterms: as in `Outcome`.
        preempted: as in `Outcome`, where the job did not wait to be requeued.
        lost: as in `Outcome`.
        values: as in `Outcome`.
        seen: what happened, piece by piece.
    """

    name: str
    folder: Path
    cluster: Cluster
    draws: random.Random
    reference: Reference
    sigterms: list[float] = field(default_factory=list)
    preempted: int = 0
    lost: int = 0
    values: int = 0
    seen: list[str] = field(default_factory=list)

    def write(self, what: Experiment, **profile: Any) -> None:
        """The experiment's files, with changes of the profile (`_` stands for `-`)."""
        experiment.write(what, self.folder)
        changes = {key.replace("_", "-"): value for key, value in profile.items()}
        experiment.set_profile(self.folder, self.cluster, changes)

    @contextmanager
    def run(self, what: Experiment = experiment.TRAINING, *options: str) -> Iterator[Run]:
        """Snakemake for the experiment; its results are compared beforehand with nothing."""
        with experiment.submitted(what, self.folder, self.cluster, *options) as run:
            yield run

    def moment(self) -> int:
        """How many epochs a training does before something is done to it."""
        return self.draws.randint(1, 3)

    def stop(self, run: Run, do: Callable[[], object]) -> None:
        """Do something that ends the process of the training, and see how it ends.

        Raises:
            Wrong: it was not told to leave, or did not save.
        """
        before, started = len(run.tries), time.monotonic()
        do()
        self.leaves(run, before, started)

    def leaves(self, run: Run, before: int, started: float) -> None:
        """See how the process of the training ends that was the last one of `before` + 1; raises as `stop`."""
        wait_until(lambda: len(run.tries) > before, 90, "the training goes on")
        ended = run.tries[before]
        took = ended.at - started
        if not ended.saved_after_sigterm:
            raise Wrong(f"the training was gone after {took:.1f} s without having seen SIGTERM: {ended.ending.words!r}")
        self.sigterms.append(took)
        self.seen.append(f"SIGTERM seen, saved, gone after {took:.1f} s")

    def ends_well(self, run: Run, *, seconds: float = 600) -> None:
        """Wait for Snakemake, which should have come to its end, with the results of the run without SLURM.

        Raises:
            Wrong: it ended badly, the training began anew, or results differ.
        """
        status = run.ended(seconds)
        if status != 0:
            raise Wrong(f"Snakemake ended with {status}: {experiment.last_line(run.log)!r}")
        self.same(run.experiment)

    def went_on(self, run: Run, *, before: Sequence[Try] = ()) -> None:
        """That the last process of the training went on where the one before had stopped, and that logs are kept.

        Args:
            run: that has ended.
            before: of an earlier run in this folder.

        Raises:
            Wrong: it did not, or they are not.
        """
        tries = [*before, *run.tries]
        last, done = tries[-1], max((epoch for one in tries[:-1] for epoch in one.epochs), default=0)
        if not last.epochs or last.epochs[0] < max(2, done):
            raise Wrong(f"the training did not go on behind epoch {done}: it then told of epochs {last.epochs}")
        self.seen.append(f"went on in epoch {last.epochs[0]}")
        logs = run.told()
        if logs < len(tries):
            raise Wrong(f"of {len(tries)} tries, {logs} have a log")
        self.seen.append(f"{logs} of {len(tries)} tries have a log")

    def same(self, what: Experiment) -> None:
        """That the results are those of the run without SLURM.

        Raises:
            Wrong: they are not.
        """
        compared, different = same_results.differences(self.reference(what), self.folder / RESULTS)
        if different:
            raise Wrong(f"{len(different)} results differ, such as {different[0]}")
        self.values += sum(compared.values())
        self.seen.append(f"{sum(compared.values()):,} values equal")

    def interrupt(self, run: Run, number: signal.Signals = signal.SIGINT) -> None:
        """A signal to Snakemake."""
        run.process.send_signal(number)

    def start_soon(self, job: Job) -> None:
        """Let a job that is back in the queue start: SLURM holds it for two minutes."""
        wait_until(lambda: self.now(job).state == "PENDING", 60, f"job {job.id} is not back in the queue")
        self.cluster.call("scontrol", "update", f"JobId={job.id}", "StartTime=now")

    def now(self, job: Job) -> Job:
        """What the controller says of a job by now."""
        return next(one for one in experiment.jobs_in(self.cluster, self.folder) if one.id == job.id)


@dataclass(frozen=True)
class Case:
    """Something that happens to jobs.

    Attributes:
        name: as it is typed.
        does: what is done, in a line.
        expected: what should come of it, in a line.
        try_it: does it.
        accounting: whether there must be accounting.
        twice: whether accounting may make a difference, so that it is tried with and without.
        if_named: whether it is tried only where it is asked for by its name.
    """

    name: str
    does: str
    expected: str
    try_it: Callable[[Trial], None]
    accounting: bool = False
    twice: bool = False
    if_named: bool = False


def tried(case: Case, trial: Trial) -> Outcome:
    """What a case comes to."""
    started = time.monotonic()
    try:
        case.try_it(trial)
        wrong = None
    except (Wrong, ClusterError) as error:
        wrong = str(error)
    jobs = experiment.jobs_in(trial.cluster, trial.folder)
    seen = [*trial.seen, *([] if wrong is None else [f"WRONG: {wrong}"])]
    return Outcome(
        case.name, wrong is None, "; ".join(seen), len(jobs), sum(job.state == "CANCELLED" for job in jobs),
        trial.preempted + sum(job.preempted for job in jobs), sum(job.restarts for job in jobs), trial.lost,
        tuple(trial.sigterms), trial.values, time.monotonic() - started,
    )  # fmt: skip
