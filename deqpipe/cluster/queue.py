"""Jobs that a run of Snakemake left in SLURM's queue: they go on when Snakemake is killed."""

import os
import pwd
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deqpipe.cluster.asking import ask, there
from deqpipe.workflow.endings import PROGRAM

_RUN = re.compile(r"(.+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The names that Snakemake's executor gives to jobs, all those of a run the same."""
_LISTED = 10


@dataclass(frozen=True)
class Left:
    """A job that is still in the queue.

    Attributes:
        number: as SLURM prints it.
        owner: who submitted it, which in a shared folder may be another user.
    """

    number: str
    owner: str


def jobs_of(folder: Path) -> list[Left]:
    """The jobs in the queue that a run of Snakemake in this folder has submitted, whoever started it.

    A queue that does not answer is told on standard error, and stops nothing.
    """
    if not there("squeue"):
        return []
    told = ask(["squeue", "--noheader", "--states=PENDING,RUNNING,SUSPENDED,REQUEUED", "--format=%i|%u|%j|%Z"])
    if not told.good:
        said = " ".join(told.complaint.split()) or f"exit status {told.status}"
        print(f"{PROGRAM}: whether jobs of an earlier run are still in the queue is not known: {said}", file=sys.stderr)
    fields = [line.split("|", 3) for line in told.printed.splitlines() if line.count("|") >= 3]
    return [Left(job, owner) for job, owner, name, where in fields if _RUN.fullmatch(name) and _same(where, folder)]


def _same(where: str, folder: Path) -> bool:
    return os.path.realpath(where.strip()) == os.path.realpath(folder)


def refusal(folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Why a run must not submit jobs in this folder yet; empty if nothing speaks against it.

    A second job for the same result would hold a GPU while it waits for the first one.

    Args:
        folder: that Snakemake runs in.
        environment: of the process; its own job does not count, where Snakemake itself runs in one.
    """
    left = [job for job in jobs_of(folder) if job.number != environment.get("SLURM_JOB_ID")]
    if not left:
        return ""
    noun = "job" if len(left) == 1 else "jobs"
    me = _user()
    owners = sorted({job.owner for job in left} - {me})
    ways = [f"cancel first (scancel {_some(left, me)})"] if any(job.owner == me for job in left) else []
    ways += [f"ask {owner} to cancel first (scancel {_some(left, owner)})" for owner in owners]
    return (
        f"{len(left)} {noun} of an earlier run in this folder still in SLURM's queue: {', '.join(ways)}, "
        "what they saved is kept; then start again"
    )


def _user() -> str:
    with suppress(KeyError):  # of a user without a name
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _some(left: Sequence[Left], owner: str) -> str:
    numbers = [job.number for job in left if job.owner == owner]
    return " ".join(numbers[:_LISTED]) + (" ..." if len(numbers) > _LISTED else "")
