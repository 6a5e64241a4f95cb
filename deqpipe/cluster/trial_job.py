"""One small job on a node: whether it sees this folder and this Python, and CUDA where jobs compute there.

It answers by its exit status, which SLURM tells also where node and login node have no folder in common.
"""

import re
import shlex
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from deqpipe.cluster.asking import ask
from deqpipe.cluster.check import Check, ok, unknown, wrong
from deqpipe.cluster.submission import Request
from deqpipe.machine import faults
from deqpipe.machine.stopping import terminable

_MINUTES = 5
"""Time limit of the job itself."""
_FOLDER, _FILE, _WRITING, _PYTHON, _PACKAGES, _CUDA = range(41, 47)
_WAITING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")
_UNTOLD = "SLURM does not tell its state"

_SCRIPT = """#!/bin/sh
cd {folder} 2>/dev/null || exit 41
for second in 1 2 3 4 5 6 7 8 9 10; do [ -e {mark} ] && break; sleep 1; done
[ -e {mark} ] || exit 42
echo "$(hostname)" >> {mark} || exit 43
{python} -c pass || exit 44
{python} -c 'import deqpipe, torch' 2>> {mark} || exit 45
{cuda}exit 0
"""
_ASK_CUDA = "{python} -c 'import torch; print(torch.cuda.get_device_name())' >> {mark} 2>> {mark} || exit 46\n"


def check(request: Request, *, cuda: bool, wait_minutes: float) -> Check:
    """Submit the job, wait for its end, and say what it found; it is cancelled where that takes too long.

    Args:
        request: of a job of the workflow; the same partition, account and GPU are asked for.
        cuda: whether commands compute on CUDA there.
        wait_minutes: for its end, the time in the queue included.
    """
    with _mark() as mark, terminable():
        script = _script(mark, cuda=cuda)
        small = replace(request, resources={**request.resources, "runtime": _MINUTES})
        line = [word for word in small.line() if word not in ("--test-only", "--wrap", "true")]
        answer = ask([*line, "--no-requeue", "-D", "/", "--wrap", script])
        if not answer.good:
            return wrong("node", f"sbatch refuses a small job: {' '.join(answer.complaint.split())}", "see above")
        job = answer.printed.strip().partition(";")[0]
        state, status = _wait(job, wait_minutes)
        return _found(state, status, mark, node=_node(job), waited=wait_minutes)


@contextmanager
def _mark() -> Iterator[Path]:
    """A file in this folder that a node that sees the folder sees, too."""
    mark = Path(f".deqpipe-doctor-{uuid.uuid4().hex[:12]}").absolute()
    with faults.written(mark, what="file"):
        mark.touch()
    try:
        yield mark
    finally:
        with suppress(OSError):
            mark.unlink()


def _script(mark: Path, *, cuda: bool) -> str:
    words = {
        "folder": shlex.quote(str(mark.parent)),
        "mark": shlex.quote(mark.name),
        "python": shlex.quote(sys.executable),
    }
    return _SCRIPT.format(**words, cuda=_ASK_CUDA.format(**words) if cuda else "")


def _wait(job: str, minutes: float) -> tuple[str, int]:
    """State and exit status of a job at its end; cancelled where it does not come."""
    ends = time.monotonic() + 60 * minutes
    ended = False
    try:
        while True:
            facts = _facts(job)
            state = facts.get("JobState", "")
            if state and state not in _WAITING:  # without a state the controller was away for a moment
                ended = True
                return state, int(facts.get("ExitCode", "0:0").partition(":")[0])
            if time.monotonic() >= ends:
                return f"{state or _UNTOLD} {facts.get('Reason', '')}".strip(), 0
            time.sleep(1)
    finally:
        if not ended:
            ask(["scancel", job])


def _facts(job: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S*)", ask(["scontrol", "-o", "show", "job", job]).printed))


def _node(job: str) -> str:
    return _facts(job).get("BatchHost", "a node")


def _found(state: str, status: int, mark: Path, *, node: str, waited: float) -> Check:
    here = mark.parent
    told = _last_lines(mark)
    answers = {
        _FOLDER: wrong("folder", f"{node} has no folder {here}", "run Snakemake in a folder that all nodes mount"),
        _FILE: wrong("folder", f"{node} has a folder {here}, but not this one: what is written here is not seen there",
                     "run Snakemake in a folder that all nodes mount"),
        _WRITING: wrong("folder", f"{node} cannot write to {here}", "see who may write there, on that node"),
        _PYTHON: wrong("Python", f"{node} cannot start {sys.executable}",
                       "make the environment in a folder that all nodes mount"),
        _PACKAGES: wrong("Python", f"{sys.executable} cannot import deqpipe and torch on {node}: {told}",
                         "see whether the environment is whole, and memory enough (mem_mb)"),
        _CUDA: wrong("CUDA", f"a job with a GPU finds no CUDA device on {node}: {told}",
                     "see the request for a GPU, the driver of the node, and torch's build (torch.version.cuda)"),
    }  # fmt: skip
    if state == "COMPLETED":
        return ok(
            "node", f"a small job ran on {node}: it sees this folder and this Python{f' ({told})' if told else ''}"
        )
    if state.startswith((*_WAITING, _UNTOLD)):
        return unknown("node", f"the small job did not end within {waited:g} minutes ({state}), and was cancelled")
    return answers.get(status) or wrong("node", f"the small job on {node} ended as {state}, exit status {status}",
                                        "see `scontrol show job`")  # fmt: skip


def _last_lines(mark: Path) -> str:
    """What the job wrote behind the name of its node."""
    with suppress(OSError):
        return " ".join(mark.read_text(encoding="utf-8", errors="replace").split("\n")[1:]).strip()[-200:]
    return ""
