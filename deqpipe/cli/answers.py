"""How a command answers what failed around it, and what it prints and logs while disks are full or readers gone."""

import argparse
import logging
import os
import platform
import signal
import stat
import sys
import traceback
from datetime import datetime
from typing import Any

from deqpipe.errors import line
from deqpipe.machine import faults
from deqpipe.workflow.endings import HEADING, PROGRAM

NO_READER = 128 + signal.SIGPIPE
"""Exit status where what reads the output has gone, such as `head`: that of a command that its signal ended."""


class Log(logging.StreamHandler[Any]):
    """Lines to stderr. Where they cannot be written, the command goes on: its results are worth more."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Complain of our own mistakes alone."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def begin() -> None:
    """Say when and where a try of a job begins, in its log; to terminals and pipes nothing."""
    job = os.environ.get("SLURM_JOB_ID")
    try:
        # within a step of SLURM's, srun stands between the command and the log
        if stat.S_ISREG(os.fstat(sys.stderr.fileno()).st_mode) or "SLURM_STEP_ID" in os.environ:
            where = f"{os.environ.get('SLURMD_NODENAME') or platform.node()}{f', SLURM job {job}' if job else ''}"
            print(f"{HEADING}{datetime.now():%Y-%m-%d %H:%M:%S} on {where}", file=sys.stderr, flush=True)
    except (AttributeError, OSError, ValueError):  # no file of the system's, or it cannot be written
        return


def is_told(record: logging.LogRecord) -> bool:
    """Whether a line belongs into the log of a job: of libraries, warnings alone."""
    return record.name.startswith("deqpipe") or record.levelno >= logging.WARNING


def say(message: object) -> None:
    """Print a line to stderr, if it can be written."""
    try:
        print(f"{PROGRAM}: {line(message)}", file=sys.stderr, flush=True)
    except OSError:
        faults.silence(sys.stderr)


def leave_without_memory() -> None:
    """End this process at once where it has used all memory that it may: libraries at their own end would fail again.

    Everything that was to be cleaned up is, and the system frees locks.
    """
    if faults.is_at_the_limit():
        os._exit(printed(2))


def printed(status: int) -> int:
    """The exit status of a command, once what it printed is where it belongs."""
    if sys.stdout is None or sys.stderr is None:  # who started this closed them
        return status
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = NO_READER
        faults.silence(sys.stdout)
    except OSError as error:
        if status == 0:
            say(f"what was printed cannot be written: {faults.words(error)}")
            status = 2
        faults.silence(sys.stdout)
    try:
        sys.stderr.flush()
    except OSError:
        faults.silence(sys.stderr)
    return status


def of_fault(error: Exception, options: argparse.Namespace) -> str | None:
    """What to say of a failure of the machine, its limits or its disks; None: it is our own mistake.

    Args:
        error: that ended the command.
        options: of it, with the values in force.
    """
    if faults.is_out_of_memory(error):
        traceback.clear_frames(error.__traceback__)  # what they hold is needed for an answer
    said = faults.brief(error)
    if isinstance(error, ImportError) and faults.is_out_of_memory(error):
        return f"memory does not hold the libraries ({said}){faults.limit()}: raise the limit (ulimit -v)"
    if faults.is_out_of_memory(error):
        return f"memory ran out ({said}){faults.limit()}: {_what_to_lower(options)}"
    if faults.is_out_of_threads(error):
        more = f"end others, {_fewer_threads(options)}"
        return f"no more threads or processes can be started ({said}){faults.limit()}: {more}; {faults.MAY_PASS}"
    failed = faults.as_of_files(error)
    if failed is None:
        return None
    return f"{failed.filename or 'a file, the log or the output'}: {faults.words(failed)}"


def _what_to_lower(options: argparse.Namespace) -> str:
    if "save_interval" in options:
        what = "the batch size of a training is part of its result, so it needs a device with more"
        return f"{what}, or precision: bf16, or {_fewer_threads(options)}"
    if "batch_size" in options:
        size = options.batch_size or "auto"
        return f"lower --batch-size (evaluation.batch_size of a workflow), now {size}, or {_fewer_threads(options)}"
    return f"it needs a machine with more, or {_fewer_threads(options)}"


def _fewer_threads(options: argparse.Namespace) -> str:
    limits = "raise the limits (ulimit -v, ulimit -u)"
    return f"{limits} or lower --threads, now {options.threads}" if "threads" in options else limits
