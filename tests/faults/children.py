"""Commands in processes forked from this one, which has imported what they need: a start takes no seconds.

This process computes nothing itself: a child of one that has may not use torch's threads.
"""

import importlib
import json
import logging
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch

from deqpipe import cli

KILLED = -signal.SIGKILL
Work = Callable[[], int]
"""What a child does; its exit status."""


@dataclass(frozen=True, eq=False)
class Child:
    """A process that was started.

    Attributes:
        pid: of it.
        log: what it prints.
        started: when, by `time.monotonic`.
    """

    pid: int
    log: Path
    started: float = field(default_factory=time.monotonic)
    _statuses: list[int] = field(default_factory=list)

    def wait(self, seconds: float) -> int | None:
        """Its exit status, minus the signal that it ended by; None: it goes on after so many seconds."""
        if self._statuses:
            return self._statuses[0]
        handle = os.pidfd_open(self.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(handle, selectors.EVENT_READ)
                if not selector.select(max(0.0, seconds)):
                    return None
        finally:
            os.close(handle)
        self._statuses.append(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))
        return self._statuses[0]

    def send(self, number: signal.Signals) -> None:
        """A signal to it; it was not waited for yet, so that no other process has its number."""
        os.kill(self.pid, number)

    def ended(self, patience: float) -> int | None:
        """As `wait`; one that is not done by then is killed, and has no status."""
        status = self.wait(patience)
        if status is None:
            self.send(signal.SIGKILL)
            self.wait(60)
        return status


def last_line(log: Path) -> str:
    """The last thing that a process said."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1] if lines else ""


def start(arguments: Sequence[str], log: Path, *, first: Callable[[], object] = lambda: None) -> Child:
    """`deqpipe` with these arguments.

    Args:
        arguments: of the command.
        log: file for what it prints; added to.
        first: called in the child before.
    """

    def work() -> int:
        first()
        return cli.main(arguments)

    return start_work(work, log)


def start_work(work: Work, log: Path) -> Child:
    """A child that does some work, as the main thread of a process of its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, log)
    _become(work, log)


def _become(work: Work, log: Path) -> NoReturn:
    """Do the work as Python does it that was started for it: the same statuses, and an error's traceback."""
    status: int | None = 1
    try:
        _fresh(log)
        status = work()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except KeyboardInterrupt:
        traceback.print_exc()
        status = None
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if status is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status or 0)


def _fresh(log: Path) -> None:
    """Nothing of the parent's that a new process has not: its outputs, log handlers and signals."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    logging.getLogger().handlers.clear()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)


def call(work: Work, log: Path, *, patience: float = 600.0) -> None:
    """Have a child do what this process must not.

    Raises:
        RuntimeError: it did not end well.
    """
    status = start_work(work, log).ended(patience)
    if status != 0:
        raise RuntimeError(f"a child ended with {status}:\n{log.read_text(errors='replace')}")


def note_modules(path: Path) -> None:
    """Write the modules that this process has imported, for `import_noted` in another one."""
    path.write_text(json.dumps(sorted(sys.modules)))


def import_noted(path: Path) -> None:
    """Import what a child had to: the next ones find it done."""
    roots = ("deqpipe", "torch", "numpy", "pyarrow", "safetensors", "pyautoattack", "scipy")
    for name in json.loads(path.read_text()):
        if name.split(".")[0] in roots and name not in sys.modules and not name.startswith("torch._dynamo.polyfills"):
            importlib.import_module(name)
