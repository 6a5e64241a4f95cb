"""Jobs that a run of Snakemake left in SLURM's queue: they go on when Snakemake is killed."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from deqpipe.cluster.asking import ask, there

_RUN = re.compile(r"(.+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The names that Snakemake's executor gives to jobs, all those of a run the same."""
_LISTED = 10


def jobs_of(folder: Path) -> list[str]:
    """The numbers of the user's jobs in the queue that a run of Snakemake in this folder has submitted."""
    if not there("squeue"):
        return []
    told = ask(["squeue", "--me", "--noheader", "--states=PENDING,RUNNING,SUSPENDED,REQUEUED", "--format=%i|%j|%Z"])
    fields = [line.split("|", 2) for line in told.printed.splitlines() if line.count("|") >= 2]
    return [number for number, name, where in fields if _RUN.fullmatch(name) and _same(where, folder)]


def _same(where: str, folder: Path) -> bool:
    return os.path.realpath(where.strip()) == os.path.realpath(folder)


def refusal(folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Why a run must not submit jobs in this folder yet; empty if nothing speaks against it.

    A second job for the same result would hold a GPU while it waits for the first one.

    Args:
        folder: that Snakemake runs in.
        environment: of the process; its own job does not count, where Snakemake itself runs in one.
    """
    left = [number for number in jobs_of(folder) if number != environment.get("SLURM_JOB_ID")]
    if not left:
        return ""
    some = " ".join(left[:_LISTED]) + (" ..." if len(left) > _LISTED else "")
    noun = "job" if len(left) == 1 else "jobs"
    return (
        f"{len(left)} {noun} of an earlier run in this folder still in SLURM's queue: cancel first (scancel {some}), "
        "what they saved is kept; then start again"
    )
