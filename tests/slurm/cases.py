"""What happens to jobs on a cluster, case by case."""

import os
import signal
import time
from pathlib import Path

from deqpipe.workflow import endings
from tests.slurm.cluster import wait_until
from tests.slurm.experiment import TABLES, THREE, TRAINING, WHOLE, Experiment, Run, last_line
from tests.slurm.trial import Case, Trial, Wrong

_FEW_LINES = 60
"""Of Snakemake's log, where nothing could be submitted."""
_SILENCE = 20.0
"""Seconds in which Snakemake, asking every two, notices whatever it will notice."""


def _tables(trial: Trial) -> None:
    _undisturbed(trial, TABLES)


def _whole(trial: Trial) -> None:
    _undisturbed(trial, WHOLE)


def _undisturbed(trial: Trial, what: Experiment) -> None:
    trial.write(what)
    with trial.run(what) as run:
        trial.ends_well(run, seconds=1800)
        trial.seen.append(f"{len(run.jobs())} jobs")


def _cancelled(trial: Trial) -> None:
    trial.write(TRAINING)
    with trial.run() as run:
        job = run.training(trial.moment())
        trial.stop(run, lambda: trial.cluster.call("scancel", job.id))
        trial.ends_well(run)
        trial.went_on(run)
        _submitted(run, 2)


def _requeued(trial: Trial) -> None:
    trial.write(TRAINING)
    with trial.run() as run:
        job = run.training(trial.moment())
        trial.stop(run, lambda: trial.cluster.call("scontrol", "requeue", job.id))
        trial.start_soon(job)
        trial.ends_well(run)
        trial.went_on(run)
        _submitted(run, 1)


def _preempted(trial: Trial) -> None:
    """The training leaves within the grace time, so that its job has failed before SLURM would requeue it."""
    cluster = trial.cluster
    trial.write(TRAINING)
    with trial.run() as run:
        job = run.training(trial.moment())
        account = ["-A", cluster.account] if cluster.accounting else []
        where = ["-p", cluster.urgent, "-w", job.node, "--exclusive", *account]
        trial.stop(run, lambda: cluster.call("sbatch", *where, "-o", "/dev/null", "--wrap", "sleep 3"))
        trial.preempted += 0 if trial.now(job).preempted else 1
        wait_until(lambda: trial.now(job).state in ("FAILED", "PENDING"), 60, "the pre-empted job goes on")
        trial.seen.append(f"the job is {trial.now(job).state}")
        if trial.now(job).state == "PENDING":
            trial.start_soon(job)
        trial.ends_well(run)
        trial.went_on(run)


def _node_lost(trial: Trial) -> None:
    trial.write(TRAINING)
    with trial.run() as run:
        job = run.training(trial.moment() + 1)
        trial.cluster.lose_node(job.node)
        trial.lost += 1
        wait_until(lambda: trial.now(job).state != "RUNNING", 60, "the controller does not notice")
        trial.seen.append(f"the job is {trial.now(job).state}")
        trial.cluster.bring_back(job.node)
        trial.start_soon(job)
        trial.ends_well(run)
        trial.went_on(run)


def _held(trial: Trial) -> None:
    trial.write(TRAINING)
    with trial.run() as run:
        job = run.training(trial.moment())
        trial.stop(run, lambda: trial.cluster.call("scontrol", "requeuehold", job.id))
        wait_until(lambda: trial.now(job).state == "PENDING", 60, "the job is not back in the queue")
        time.sleep(_SILENCE)
        if run.process.poll() is not None or len(run.jobs()) != 1:
            raise Wrong(f"Snakemake does not wait for the job that is held: {last_line(run.log)!r}")
        trial.seen.append(f"Snakemake waits ({trial.now(job).reason})")
        trial.cluster.call("scontrol", "release", job.id)
        trial.start_soon(job)
        trial.ends_well(run)
        trial.went_on(run)


def _budget(trial: Trial) -> None:
    """A training that sleeps until its budget is used up: so the case takes a minute on any machine."""
    trial.write(TRAINING, set_resources={"pretrain": {"runtime": 1}})
    with trial.run() as run:
        run.training(trial.moment())
        _sleep_until(run.pid(), 41)
        wait_until(lambda: run.tries, 30, "the training goes on behind its budget")
        left = run.tries[0].ending
        if left.kind is not endings.Kind.EARLY or "time budget" not in left.words:
            raise Wrong(f"the training did not leave for its budget: {left.words!r}")
        trial.seen.append(left.words)
        trial.ends_well(run)
        trial.went_on(run)


def _time_limit(trial: Trial) -> None:
    """A training that sleeps past its budget, until SLURM ends its job."""
    trial.write(TRAINING, set_resources={"pretrain": {"runtime": 1}})
    with trial.run() as run:
        job = run.training(trial.moment())
        pid = run.pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: trial.now(job).state != "RUNNING", 150, "SLURM does not end the job")
        trial.leaves(run, 0, time.monotonic())  # SLURM has woken it
        wait_until(lambda: trial.now(job).state != "COMPLETING", 60, "the job does not end")
        trial.seen.append(f"the job is {trial.now(job).state}")
        trial.ends_well(run)
        trial.went_on(run)


def _interrupted(trial: Trial) -> None:
    trial.write(TRAINING)
    with trial.run() as run:
        run.training(trial.moment())
        trial.stop(run, lambda: trial.interrupt(run))
        status, tries = run.ended(120), run.tries
        if status == 0 or any(job.state in ("RUNNING", "PENDING") for job in run.jobs()):
            raise Wrong(f"Snakemake ended with {status}, its jobs are {[job.state for job in run.jobs()]}")
        trial.seen.append(f"Snakemake ended with {status}, its job is {run.jobs()[0].state}")
    with trial.run() as again:
        trial.ends_well(again)
        trial.went_on(again, before=tries)


def _killed(trial: Trial) -> None:
    """Where the job has ended before the next run looks for it, there is nothing to refuse."""
    trial.write(TRAINING)
    with trial.run() as run:
        job = run.training(1)
        trial.interrupt(run, signal.SIGKILL)
        run.ended(10)
        _refuses(trial, "lock")
        with trial.run(Experiment("unlock", {}), "--unlock") as unlock:
            if unlock.ended(120) != 0:
                raise Wrong(f"--unlock: {last_line(unlock.log)!r}")
        _refuses(trial, job.id)
        trial.stop(run, lambda: trial.cluster.call("scancel", job.id))
        tries = run.tries
    with trial.run() as again:
        trial.ends_well(again)
        trial.went_on(again, before=tries)
        _submitted(again, 2)


def _refuses(trial: Trial, why: str) -> None:
    """That Snakemake does not start beside what a killed one has left, and says so."""
    with trial.run() as refused:
        status = refused.ended(120)
    if status == 0 or why not in refused.text().lower():
        raise Wrong(
            f"a run after a killed one ended with {status}, without a word of {why}: {last_line(refused.log)!r}"
        )
    trial.seen.append(f"refused with status {status} for {'its lock' if why == 'lock' else 'its job'}")


def _used_up(trial: Trial) -> None:
    trial.write(TRAINING, retries=1)
    with trial.run() as run:
        for _ in range(2):
            job = run.training(1)
            trial.stop(run, lambda job=job: trial.cluster.call("scancel", job.id))  # type: ignore[misc]
        status, tries = run.ended(120), run.tries
        if status == 0 or "run the same command again to go on" not in run.text():
            raise Wrong(f"Snakemake ended with {status}: {last_line(run.log)!r}")
        trial.seen.append("Snakemake says to run the same command again")
    with trial.run() as again:
        trial.ends_well(again)
        trial.went_on(again, before=tries)


def _wrong_partition(trial: Trial) -> None:
    trial.write(THREE, default_resources={"slurm_partition": "nowhere"})
    _refused(trial, "nowhere")


def _wrong_account(trial: Trial) -> None:
    trial.write(THREE, default_resources={"slurm_account": "nobody"})
    _refused(trial, "nobody")


def _refused(trial: Trial, name: str) -> None:
    """That a run whose jobs cannot be submitted ends soon, and says why in few lines."""
    with trial.run(THREE) as run:
        status = run.ended(120)
    lines = [line for line in run.text().splitlines() if line.strip()]
    refusals = run.text().count("Error in rule")
    trial.seen.append(
        f"Snakemake ended with {status} after {len(lines)} lines, {refusals} errors, {len(run.jobs())} jobs"
    )
    if status == 0 or run.jobs() or len(lines) > _FEW_LINES or not any(name in line for line in lines):
        raise Wrong(f"its last line: {last_line(run.log)!r}")


def _sacct(trial: Trial) -> None:
    """Snakemake's plugin takes "CANCELLED by 0" for a job that still runs; once it does not, our pages are wrong."""
    trial.write(TRAINING, slurm_status_command="sacct")
    with trial.run() as run:
        job = run.training(trial.moment())
        trial.stop(run, lambda: trial.cluster.call("scancel", job.id))
        time.sleep(_SILENCE)
        if len(run.jobs()) != 1 or run.process.poll() is not None:
            raise Wrong("Snakemake notices: say so in docs/cluster.md and profiles/slurm, which have it wait for ever")
        trial.seen.append("Snakemake waits")


def _submitted(run: Run, count: int) -> None:
    jobs = run.jobs()
    if len(jobs) != count:
        raise Wrong(f"{len(jobs)} jobs were submitted ({', '.join(job.state for job in jobs)}), not {count}")


def _sleep_until(pid: int | None, age: float) -> None:
    """Hold a process until it is so many seconds old."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    started = float(ticks) / os.sysconf("SC_CLK_TCK")
    time.sleep(max(0.0, age - (time.clock_gettime(time.CLOCK_BOOTTIME) - started)))
    os.kill(pid, signal.SIGCONT)


_GOES_ON = "SIGTERM seen and saved, submitted again, goes on; equal"
_ON_SUBMISSION = "no job, few lines with its name"
_AFTER_NODE = "SLURM requeues the job, which goes on from its last save; equal"
_AFTER_INTERRUPT = "its job cancelled, SIGTERM seen and saved; started again it goes on; equal"
_ALL = (
    Case("cancelled", "scancel of a running training", _GOES_ON, _cancelled, twice=True),
    Case(
        "requeued", "scontrol requeue of a running training",
        "SIGTERM seen and saved, the same job goes on; equal", _requeued,
    ),
    Case("preempted", "a job of an urgent partition takes the node", _GOES_ON, _preempted, twice=True),
    Case("node-lost", "the node dies with all that runs on it", _AFTER_NODE, _node_lost, twice=True),
    Case(
        "held", "scontrol requeuehold, as an administrator may",
        "SIGTERM seen and saved, Snakemake waits until scontrol release; equal", _held,
    ),
    Case(
        "budget", "a limit of a minute, whose budget is used up",
        "left early and saved, submitted again, goes on; equal", _budget,
    ),
    Case("time-limit", "a limit of a minute, past which SLURM ends the job", _GOES_ON, _time_limit),
    Case("interrupted", "Ctrl-C of Snakemake", _AFTER_INTERRUPT, _interrupted),
    Case(
        "killed", "SIGKILL of Snakemake",
        "the next run is refused for its lock, then for its job; cancelled, it saves; then it goes on; equal", _killed,
    ),
    Case(
        "used-up", "scancel until no retry is left",
        "Snakemake says that the same command goes on, and it does; equal", _used_up,
    ),
    Case("partition", "a partition that is not there", _ON_SUBMISSION, _wrong_partition),
    Case("account", "an account that is not there", _ON_SUBMISSION, _wrong_account, accounting=True),
    Case(
        "sacct", "scancel while Snakemake asks sacct",
        "SIGTERM seen and saved, but the plugin does not notice, as docs/cluster.md says", _sacct, accounting=True,
    ),
    Case("tables", "nothing, from images to Tables 2 and 6", "equal", _tables),
    Case("whole", "nothing, all of the workflow, in five minutes", "equal", _whole, if_named=True),
)  # fmt: skip
CASES = {case.name: case for case in _ALL}
