"""How a failed job ended, as the last line of its log says, and what follows from that for Snakemake's retries.

A mistake or a divergence would repeat, and so would a full disk: such a job is not started again. One that a network or
a limit of the machine failed for a moment, one that left early with what it had saved, one that was killed or lost its
node, and one that ended with a traceback may come further: `retries` is meant for them.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from deqpipe.errors import line
from deqpipe.machine.faults import MAY_PASS

PROGRAM = "deqpipe"
"""What a command's last line begins with, before a colon, where it was refused something or a training diverged."""
GO_ON = "start again to go on"
"""What a command's last line ends with, where it left early, with what it had saved."""

HEADING = "---- "
"""What the first line of a try's log begins with."""
TRIES = ".tries.log"
"""How the file ends that keeps earlier tries, beside a job's log: Snakemake removes that before each try."""
SAME = 3
"""Tries in a row that break off with the same words: one more would end so, too."""
MOST = 10
"""Tries in a row that break off, whatever they say: there may be a number in it, or a node does not see the folder."""

_REFUSED = re.compile(rf"{PROGRAM}( [\w-]+)?: ")  # with the subcommand where the arguments are wrong
_CLOCK = re.compile(r"\d\d:\d\d:\d\d ")
# What schedulers (SLURM, PBS, LSF, Grid Engine), and Snakemake's executors for them, say of a job that they will never
# take; a controller that does not answer or a limit on the number of jobs may pass.
_WOULD_NOT_BE_TAKEN = re.compile(
    r"invalid (account|partition|qos|feature|generic resource|wckey|reservation)|appears to be invalid"
    r"|time limit is invalid|node configuration is not available|not permitted to use"
    r"|(unknown|no such) (queue|resource|project)|illegal attribute or resource|exceeds queue|bad resource requirement",
    re.IGNORECASE,
)
_OF_THE_SCHEDULER = re.compile(r"(srun|slurmstepd)[\w.-]*: ")
"""What lines begin with that SLURM adds to a log, behind what the command said last."""
_TAIL = 1 << 16
_STOPPED = "stopped before its end, and no job failed: run the same command again to go on from what was saved"
_LISTED = 10
"""Jobs that a summary lists of each kind."""


class Kind(Enum):
    """How a job ended, and what to do; to be read behind a number of jobs."""

    EARLY = "left early with what was saved: run the same command again to go on"
    REFUSED = "failed and would fail again: change what is said there, and run the same command again"
    BROKEN = "broken off or killed: run the same command again to go on from what was saved"
    STUCK = f"broke off {SAME} times with the same words, or {MOST} times in a row: see why, and run the command again"


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Attributes:
        kind: what follows from it.
        words: the last line of its log; empty: it has none.
        log: the file; None: there is none of this run.
    """

    kind: Kind
    words: str = ""
    log: Path | None = None


def read(logs: Iterable[str | Path], *, since: float) -> Ending:
    """How the job with these logs ended.

    Args:
        logs: of the job.
        since: when the run began, in seconds since the epoch. An older log is of another run, as the job was killed
            before it wrote one, or has not arrived from a cluster's node yet.
    """
    for log in map(Path, logs):
        words = _last_line(log, since)
        if words.endswith(GO_ON):
            return Ending(Kind.EARLY, _CLOCK.sub("", words, count=1).removesuffix(GO_ON).rstrip("; "), log)
        if _REFUSED.match(words) and not words.endswith(MAY_PASS):
            return Ending(Kind.REFUSED, _REFUSED.sub("", words, count=1), log)
        if words:
            return Ending(Kind.BROKEN, words, log)
    return Ending(Kind.BROKEN)


def _last_line(log: Path, since: float) -> str:
    """The last line of a file that has text in it; empty for an old file or none."""
    try:
        with log.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mtime < since:
                return ""
            file.seek(max(0, status.st_size - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    said = (line.strip() for line in reversed(lines) if not _OF_THE_SCHEDULER.match(line))
    return next(filter(None, said), "")


def keep(log: Path) -> None:
    """Put a job's log behind those of earlier tries, unless it is the last of them already."""
    kept = log.with_suffix(TRIES)
    try:
        text = log.read_bytes()
        if not text:
            return
        with kept.open("a+b") as file:
            file.seek(max(0, file.tell() - len(text)))
            if file.read() != text:
                file.write(text)
    except OSError:  # there is none, or no room: a run is worth more than its logs
        return


@dataclass(frozen=True)
class Watch:
    """What is known of the jobs of one run of Snakemake.

    Attributes:
        since: when the run began, as for `read`.
        unsubmitted: why a cluster did not take a job, where it would not take it the next time either.
        broken: with which words the tries of a job broke off, since one last left early.
    """

    since: float
    unsubmitted: dict[Any, str] = field(default_factory=dict)
    broken: dict[Any, list[str]] = field(default_factory=dict)

    def attach(self, scheduler: Any) -> None:
        """Let Snakemake's scheduler start only those failed jobs again that may come further.

        It has no conditions for retries. But executors tell it of a failed job by its `error_callback`, and a job whose
        attempts are used up is not started again. A Snakemake in which this is otherwise retries every job, as it does
        without us.
        """
        self._listen(getattr(scheduler, "_executor", None))
        tell = getattr(scheduler, "error_callback", None)
        if tell is None:
            return

        def tell_of(job: Any) -> None:
            self.keep_logs([job])
            endings = [ending for _, ending in self._endings(job)]
            self._note(job, endings)
            if Kind.REFUSED in (ending.kind for ending in endings) or self._is_stuck(job):
                _use_up_attempts(job)
            tell(job)

        scheduler.error_callback = tell_of

    def keep_logs(self, jobs: Iterable[Any]) -> None:
        """Keep the logs of jobs that are about to be started again, whoever ended them and when."""
        for log in (log for job in jobs for one in _members(job) for log in getattr(one, "log", ())):
            keep(Path(str(log)))

    def _note(self, job: Any, endings: Sequence[Ending]) -> None:
        """Keep with which words a job broke off; one that left early came further, and of a group any of its jobs."""
        kinds = {one.kind for one in endings}
        said = [_CLOCK.sub("", one.words, count=1) for one in endings if not one.words.startswith(HEADING)]
        self.broken[job] = [] if Kind.EARLY in kinds else [*self.broken.get(job, []), "; ".join(said)]

    def _is_stuck(self, job: Any) -> bool:
        tries = self.broken.get(job, [])
        last = set(tries[-SAME:]) if len(tries) >= SAME and len(_members(job)) == 1 else set()
        # of a group the jobs that are over, or not begun, say the same each time
        return (len(last) == 1 and "" not in last) or len(tries) >= MOST

    def _listen(self, executor: Any) -> None:
        """Hear an executor's reasons; it reports them before it tells the scheduler."""
        report = getattr(executor, "report_job_error", None)
        if report is None:
            return

        def report_of(info: Any, msg: str | None = None, **named: Any) -> None:
            if getattr(info, "external_jobid", None) is None and _WOULD_NOT_BE_TAKEN.search(msg or ""):
                self.unsubmitted[info.job] = " ".join(str(msg).partition("sbatch call:")[0].split())
            report(info, msg, **named)

        executor.report_job_error = report_of

    def summary(self, scheduler: Any) -> str:
        """Why a run did not come to its end, and what to do; empty if nothing is known."""
        failed = getattr(scheduler, "failed", None)
        if failed is not None and not failed:
            return _STOPPED
        ended = [one for job in failed or () for one in self._endings(job)]
        told = [_told(kind, [(rule, one) for rule, one in ended if one.kind is kind]) for kind in Kind]
        return "\n".join(part for part in told if part)

    def _endings(self, job: Any) -> list[tuple[str, Ending]]:
        """Rule and ending of a job; of a group, of all its jobs."""
        if job in self.unsubmitted:
            return [(_rule(job), Ending(Kind.REFUSED, self.unsubmitted[job]))]
        ended = [(_rule(one), read(map(str, getattr(one, "log", ())), since=self.since)) for one in _members(job)]
        if not self._is_stuck(job):
            return ended
        return [(rule, replace(one, kind=Kind.STUCK) if one.kind is Kind.BROKEN else one) for rule, one in ended]


def _members(job: Any) -> Sequence[Any]:
    """The jobs of a group; otherwise the job."""
    return list(getattr(job, "jobs", None) or [job])


def _rule(job: Any) -> str:
    return str(getattr(job, "rule", "group"))


def _use_up_attempts(job: Any) -> None:
    """Leave a job no attempt: the first one is no retry."""
    try:
        job.attempt = max(job.attempt, job.restart_times + 1)
    except (AttributeError, TypeError):
        return


def _told(kind: Kind, ended: Sequence[tuple[str, Ending]]) -> str:
    if not ended:
        return ""
    lines = sorted(f"    {rule}: {_words(ending)}" for rule, ending in ended)
    more = [f"    and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "\n".join([f"{len(ended)} job{'s' if len(ended) > 1 else ''} {kind.value}", *lines[:_LISTED], *more])


def _words(ending: Ending) -> str:
    return (
        f"{line(ending.words or 'it did not begin, or its log is not here')}{f' ({ending.log})' if ending.log else ''}"
    )
