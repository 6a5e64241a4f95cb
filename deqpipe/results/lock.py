"""One process at a time in a folder of resumable state. No torch.

A process that was killed with its parent may live on as an orphan and still write; the lock makes a second one wait.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from deqpipe.errors import UserError

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
