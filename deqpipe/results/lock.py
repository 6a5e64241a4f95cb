"""One process at a time in a folder of resumable state. No torch.

A process that was killed with its parent may live on as an orphan and still write; the lock makes a second one wait.
"""

import atexit
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from deqpipe.errors import UserError
from deqpipe.machine import faults

HEARTBEAT_SECONDS = 20.0
_LONGEST_ENTRY = 4096
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_logger = logging.getLogger(__name__)


def hold(directory: Path) -> None:
    """Hold `<directory>/lock` until this process ends.

    Raises:
        UserError: somebody else holds it; or as `locked`.
    """
    held = ExitStack()
    held.enter_context(locked(directory, waits=False))
    atexit.register(held.close)


@contextmanager
def locked(directory: Path, *, waits: bool = True, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Hold `<directory>/lock` for the block; wait for it first, and say once who holds it.

    The kernel frees the lock when its holder dies. Some network file systems do not tell one host of another's locks:
    the holder also touches the file every `heartbeat_seconds`, and an entry of another host counts until it has not
    been touched for three times as long. (On such a file system two hosts that start at once are not told apart.)

    Enter it before a `StopRequest`: while waiting there is nothing to save, and a signal should end the process.

    Args:
        directory: made if it does not exist.
        waits: whether to wait for somebody who lives. Without it, only until an entry of another host has counted.
        heartbeat_seconds: how often the holder shows that it lives.

    Raises:
        UserError: the folder cannot be written, its disk is full, or its file system has no locks; or somebody else
            holds it, and is not waited for.
    """
    with _open_lock_file(directory) as file:
        announced = _wait_for_flock(file, directory, waits=waits)
        _wait_for_other_host(file, directory, silence=3 * heartbeat_seconds, announced=announced, waits=waits)
        with faults.written(directory, what="folder", done="locked"):
            _write(file, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        with _heartbeat(file, heartbeat_seconds):
            try:
                yield
            finally:
                with suppress(OSError):  # its file system is gone, and what was to be said of it is said
                    _write(file, "")


@contextmanager
def _open_lock_file(directory: Path) -> Iterator[int]:
    """A handle of the lock file, which others may write as the umask says: one of a group's folder is everybody's."""
    with faults.written(directory, what="folder", done="locked"):
        directory.mkdir(parents=True, exist_ok=True)
        file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield file
    finally:
        os.close(file)


def _wait_for_flock(file: int, directory: Path, *, waits: bool) -> bool:
    """Take the lock; whether somebody was waited for."""
    with faults.written(directory, what="folder", done="locked"):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waits:
                raise _in_use(file, directory) from None
            _announce(file, directory)
            fcntl.flock(file, fcntl.LOCK_EX)
            return True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise UserError(f"folder {directory} is on a file system without file locks; choose another one") from None
        return False


def _wait_for_other_host(file: int, directory: Path, *, silence: float, announced: bool, waits: bool) -> None:
    """Wait while an entry of another host keeps being touched, by our own clock: the hosts' may differ."""
    touched, since = _touched(file), time.monotonic()
    while _holder(file).get("host", socket.gethostname()) != socket.gethostname():
        if not announced:
            _announce(file, directory)
            announced = True
        if _touched(file) != touched:
            if not waits:
                raise _in_use(file, directory)
            touched, since = _touched(file), time.monotonic()
        if time.monotonic() - since >= silence:
            return
        time.sleep(silence / 30)


def _announce(file: int, directory: Path) -> None:
    _logger.warning("waiting for %s, which works in %s", _who(file), directory)


def _in_use(file: int, directory: Path) -> UserError:
    return UserError(
        f"folder {directory} is in use: {_who(file)} works there; wait for its end, or name another folder"
    )


def _who(file: int) -> str:
    holder = _holder(file)
    return f"process {holder['pid']} on {holder['host']}" if holder else "another process"


def _holder(file: int) -> dict[str, Any]:
    """Host and pid of the entry; empty when there is none, only part of one so far, or something else."""
    try:
        entry = json.loads(os.pread(file, _LONGEST_ENTRY, 0))
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) and {"host", "pid"} <= set(entry) else {}


def _write(file: int, text: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _touched(file: int) -> int:
    return os.stat(file).st_mtime_ns


@contextmanager
def _heartbeat(file: int, seconds: float) -> Iterator[None]:
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(seconds):
            with suppress(
                OSError
            ):  # a network that is away for a while; where it stays away, saving fails, and says so
                os.utime(file)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
