"""One process at a time in a folder of resumable state, and leaving in time with everything saved. No torch.

A process that was killed with its parent may live on as an orphan and still write; the lock makes a second one wait.
"""

import errno
import fcntl
import json
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, NoReturn

from deqpipe.errors import UserError

EXIT_UNFINISHED = 75
"""Exit status of a command that stopped early with its state saved: start it again to go on (EX_TEMPFAIL)."""

HEARTBEAT_SECONDS = 20.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_logger = logging.getLogger(__name__)


@contextmanager
def locked(directory: Path, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Hold `<directory>/lock` for the block; wait for it first, and say once who holds it.

    The kernel frees the lock when its holder dies. Some network file systems do not tell one host of another's locks:
    the holder also touches the file every `heartbeat_seconds`, and an entry of another host counts until it has not
    been touched for three times as long. (On such a file system two hosts that start at once are not told apart.)

    Enter it before a `StopRequest`: while waiting there is nothing to save, and a signal should end the process.

    Args:
        directory: made if it does not exist.
        heartbeat_seconds: how often the holder shows that it lives.

    Raises:
        UserError: the folder cannot be written, or its file system has no locks.
    """
    with _open_lock_file(directory) as file:
        announced = _wait_for_flock(file, directory)
        _wait_for_other_host(file, directory, silence=3 * heartbeat_seconds, announced=announced)
        _write(file, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        with _heartbeat(file, heartbeat_seconds):
            try:
                yield
            finally:
                _write(file, "")


def _open_lock_file(directory: Path) -> IO[str]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / "lock").open("a+", encoding="utf-8", errors="replace")  # whatever stands there
    except OSError as error:
        raise UserError(f"folder {directory} cannot be locked: {error.strerror}") from None


def _wait_for_flock(file: IO[str], directory: Path) -> bool:
    """Take the lock; whether somebody was waited for."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _announce(file, directory)
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UserError(f"folder {directory} is on a file system without file locks; choose another one") from None
    return False


def _wait_for_other_host(file: IO[str], directory: Path, *, silence: float, announced: bool) -> None:
    """Wait while an entry of another host keeps being touched, by our own clock: the hosts' may differ."""
    touched, since = _touched(file), time.monotonic()
    while _holder(file).get("host", socket.gethostname()) != socket.gethostname():
        if not announced:
            _announce(file, directory)
            announced = True
        if _touched(file) != touched:
            touched, since = _touched(file), time.monotonic()
        if time.monotonic() - since >= silence:
            return
        time.sleep(silence / 30)


def _announce(file: IO[str], directory: Path) -> None:
    holder = _holder(file)
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    _logger.warning("waiting for %s, which works in %s", who, directory)


def _holder(file: IO[str]) -> dict[str, Any]:
    """Host and pid of the entry; empty when there is none, or only part of one so far."""
    file.seek(0)
    try:
        entry = json.loads(file.read())
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) and {"host", "pid"} <= set(entry) else {}


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _touched(file: IO[str]) -> int:
    return os.stat(file.fileno()).st_mtime_ns


@contextmanager
def _heartbeat(file: IO[str], seconds: float) -> Iterator[None]:
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(seconds):
            os.utime(file.fileno())

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def terminable() -> Iterator[None]:
    """Be interrupted by SIGTERM and SIGHUP as by SIGINT: with an exception, so that what has to be cleaned up is.

    For what has nothing to save; what has uses `StopRequest`. Other threads than the main one get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    for number in _asked_to_end():
        if number != signal.SIGINT:
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        _give_back(before)


def _asked_to_end() -> tuple[signal.Signals, ...]:
    """The signals that ask a process to end; not SIGHUP where somebody ignores it, as nohup does."""
    every = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return tuple(number for number in every if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN)


def _give_back(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        # None: a handler that Python did not install and cannot put back
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


class StopRequest:
    """Whether it is time to save and leave: after SIGTERM, SIGINT or SIGHUP, or when a time budget is used up.

    As a context manager it turns these signals into a flag and gives back the handlers of before at the end. Only the
    main thread may enter it. The clock of the budget runs from the moment of construction.

        with StopRequest(budget_minutes=55.0) as stop:
            while step < total and not stop.should_stop():
                ...
        save()
    """

    def __init__(self, budget_minutes: float = math.inf) -> None:
        """A request that comes by itself after `budget_minutes`.

        Raises:
            UserError: the budget is not a positive number.
        """
        if not budget_minutes > 0:
            raise UserError(f"time budget is {budget_minutes:g} minutes, but must be positive")
        self._budget_minutes = budget_minutes
        self._deadline = time.monotonic() + 60 * budget_minutes
        self._signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Catch the signals from here on."""
        for number in _asked_to_end():
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the handlers of before back."""
        _give_back(self._previous)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)

    def should_stop(self) -> bool:
        """Whether to save and leave (with exit status `EXIT_UNFINISHED` when work is left)."""
        return self.reason is not None

    @property
    def signalled(self) -> bool:
        """Whether a signal asked for it, and not the budget."""
        return self._signal is not None

    @property
    def reason(self) -> str | None:
        """Why to stop, such as "SIGTERM"; None as long as there is no reason."""
        if self._signal is not None:
            return self._signal.name
        if time.monotonic() >= self._deadline:
            return f"time budget of {self._budget_minutes:g} minutes"
        return None
