"""How a failed job ended, as the last line of its log says, and what follows from that for Snakemake's retries.

A mistake or a divergence would repeat: such a job is not started again. A job that left early with its work saved, one
that was killed or lost its node, and one that ended with a traceback may come further: for them `retries` is meant.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

PROGRAM = "deqpipe"
"""What a command's last line begins with, before a colon, where it was refused something or a training diverged."""
GO_ON = "start again to go on"
"""What a command's last line ends with, where it left early with its work saved."""

_REFUSED = re.compile(rf"{PROGRAM}( [\w-]+)?: ")  # with the subcommand where the arguments are wrong
_CLOCK = re.compile(r"\d\d:\d\d:\d\d ")
_TAIL = 1 << 16
_LISTED = 10
"""Jobs that a summary lists of each kind."""


class Kind(Enum):
    """How a job ended; in words for so many of them."""

    EARLY = "left early, with their work saved: run the same command again to go on"
    REFUSED = "failed and would fail again: change what their lines say, then run the same command again"
    BROKEN = "were killed or broke off: run the same command again, and they go on from what they saved"


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
        if _REFUSED.match(words):
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
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def ask_before_retrying(scheduler: Any, *, since: float) -> None:
    """Let Snakemake's scheduler start only those failed jobs again that may come further.

    It has no conditions for retries. But every executor tells it of a failed job by its `error_callback`, and a job that
    has used up its attempts is not started again. A Snakemake in which this is otherwise retries every job, as it does
    without us.

    Args:
        scheduler: of the running workflow.
        since: as for `read`.
    """
    tell = getattr(scheduler, "error_callback", None)
    if tell is None:
        return

    def tell_of(job: Any) -> None:
        if Kind.REFUSED in (ending.kind for _, ending in _endings([job], since)):
            _use_up_attempts(job)
        tell(job)

    scheduler.error_callback = tell_of


def _use_up_attempts(job: Any) -> None:
    """Leave a job no attempt: the first one is no retry."""
    try:
        job.attempt = max(job.attempt, job.restart_times + 1)
    except (AttributeError, TypeError):
        return


def summary(scheduler: Any, *, since: float) -> str:
    """Why a workflow did not come to its end, and what to do; empty if nothing is known of it.

    Args:
        scheduler: of the workflow.
        since: as for `read`.
    """
    ended = _endings(getattr(scheduler, "failed", ()), since)
    told = [_told(kind, [(rule, one) for rule, one in ended if one.kind is kind]) for kind in Kind]
    return "\n".join(part for part in told if part)


def _endings(jobs: Iterable[Any], since: float) -> list[tuple[str, Ending]]:
    """Rule and ending of each job; of those of a group as well."""
    single = [one for job in jobs for one in (getattr(job, "jobs", None) or [job])]
    return [
        (str(getattr(job, "rule", "a job")), read(map(str, getattr(job, "log", ())), since=since)) for job in single
    ]


def _told(kind: Kind, ended: Sequence[tuple[str, Ending]]) -> str:
    if not ended:
        return ""
    lines = sorted(f"    {rule}: {_words(ending)}" for rule, ending in ended)
    more = [f"    and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "\n".join([f"{len(ended)} job{'s' if len(ended) > 1 else ''} {kind.value}", *lines[:_LISTED], *more])


def _words(ending: Ending) -> str:
    return f"{ending.words} ({ending.log})" if ending.log else "no log of this run"
