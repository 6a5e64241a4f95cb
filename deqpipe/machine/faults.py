"""What fails around a program that is right: disks, permissions, limits, memory. In words, with advice. No torch."""

import errno
import os
import pwd
import re
import resource
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from deqpipe.errors import UserError

_AGAIN = "then start the same command again"
MAY_PASS = "this may pass: start the same command again"
"""What the advice ends with where nobody has to change anything."""
_NETWORK = f"its network file system does not answer; {MAY_PASS}"
_ADVICE: Mapping[int, str] = {
    errno.ENOSPC: f"free some there (df -h and df -i show how much there is), {_AGAIN}",
    errno.EDQUOT: f"free some of your quota there, {_AGAIN}",
    errno.EFBIG: f"files may not grow as large here; raise the limit (ulimit -f), {_AGAIN}",
    errno.EROFS: f"name another folder, or have it mounted for writing, {_AGAIN}",
    errno.EMFILE: f"raise the limit of this shell (ulimit -n), {_AGAIN}",
    errno.ENFILE: f"the machine has no more of them; {MAY_PASS}",
    errno.EIO: f"the disk fails, or the network to it; {MAY_PASS}",
    errno.ENXIO: "its device is gone",
    errno.ENODEV: "its device is gone",
    errno.ELOOP: "symbolic links lead in a circle",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ENOLCK: f"the machine has no more file locks; {MAY_PASS}",
    errno.ENOMEM: "memory ran out",
    **dict.fromkeys((errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EREMOTEIO), _NETWORK),
}
_LONGEST = 200
_LEEWAY = 32 * 2**20  # bytes: of blocks as large, libraries say that they did not get them
_PERMISSION = (errno.EACCES, errno.EPERM)
_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|unable to allocate|bad_alloc"
    r"|failed to map segment|STATUS_ALLOC_FAILED|could not create a memory object",
    re.IGNORECASE,
)
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
_THREADS = re.compile(r"can't start new thread|resource temporarily unavailable", re.IGNORECASE)


def is_of_files(error: OSError) -> bool:
    """Whether a disk, its file system or a limit failed, and not we: a file of ours that is missing is our mistake."""
    return error.errno in _ADVICE or error.errno in _PERMISSION


def as_of_files(error: BaseException) -> OSError | None:
    """The failure of a disk or a limit of files that an error stands for; None: it is something else."""
    if isinstance(error, OSError):
        return error if is_of_files(error) else None
    if isinstance(error, (ImportError, RuntimeError)):
        return next((OSError(number, text) for number, text in _passing_texts() if text in str(error)), None)
    return None


def _passing_texts() -> Iterator[tuple[int, str]]:
    return ((number, os.strerror(number)) for number in _PASSING)


def lack_behind(error: BaseException | None) -> OSError | None:
    """The lack of space or of open files behind an error, which passes; compilers wrap what they met several times."""
    while error is not None:
        found = as_of_files(error)
        if found is not None and found.errno in _PASSING:
            return found
        error = error.__cause__ or error.__context__
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library or Python did not get the memory that it asked for, of the host or of a device."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if not isinstance(error, (RuntimeError, ImportError, OSError, SystemError)):
        return False
    return bool(_MEMORY.search(str(error))) or is_at_the_limit()


def is_out_of_threads(error: BaseException) -> bool:
    """Whether no thread or process could be started."""
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:
        return not hasattr(error, "characters_written")  # of output that nobody takes up
    return isinstance(error, RuntimeError) and bool(_THREADS.search(str(error)))


def brief(error: BaseException) -> str:
    """The beginning of what a library says: some explain themselves on a page."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."


def words(error: OSError, path: Path | None = None) -> str:
    """What an operating system says, and what to do.

    Args:
        error: of it.
        path: what it is about, where the error does not name it. Of a permission that is lacking, says whose it is.
    """
    known = error.errno is not None and is_of_files(error)
    said = os.strerror(error.errno or 0) if known else " ".join(str(error.strerror or error).split())
    if error.errno in _PERMISSION:
        named = Path(error.filename) if isinstance(error.filename, str) else path
        return said + ("" if named is None else _owner(named))
    advice = _ADVICE.get(error.errno or 0)
    return said if advice is None else f"{said}: {advice}"


def _owner(path: Path) -> str:
    """Whose a file is, or the folder that it would be in, and who may write there."""
    with suppress(OSError):
        there = next(one for one in (path, *path.parents) if one.exists())
        found = there.stat()
        return f": {there} is {_name(found.st_uid)}'s, with permissions {stat.filemode(found.st_mode)}"
    return ""


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


@contextmanager
def written(path: Path, *, what: str = "", done: str = "written") -> Iterator[None]:
    """Answer whatever the operating system refuses within the block as a matter of `path`.

    Args:
        path: that the block writes.
        what: what to call it in a message, if anything.
        done: what is done to it.

    Raises:
        UserError: says that it cannot be done, why, and what to do.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} {path} cannot be {done}: {words(error, path)}".lstrip()) from None


def is_at_the_limit() -> bool:
    """Whether all memory that may be mapped once was: libraries then fail with whatever words they have."""
    allowed = address_space()
    if allowed is None:
        return False
    with suppress(OSError):  # where there is no /proc
        peak = re.search(r"VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        return peak is not None and 1024 * int(peak[1]) + _LEEWAY >= allowed
    return False


def limit() -> str:
    """What ulimit -v allows, in words that end a clause; empty where it allows everything."""
    allowed = address_space()
    return "" if allowed is None else f", of which ulimit -v allows {allowed // 1024:,} kB"


def refuse_unwritable(folder: Path) -> None:
    """Refuse a folder that this user may not write to, or not make where it is not there yet.

    Raises:
        UserError: says whose it is, and what a group does that shares it.
    """
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        advice = "a group that shares it sets umask 002 and has its owner call `chmod -R g+rwX` once"
        raise UserError(f"folder {folder.absolute()} cannot be written: Permission denied{_owner(there)}; {advice}")


def address_space() -> int | None:
    """Bytes of memory that this process may map at most (ulimit -v); None: there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def silence(stream: object) -> None:
    """Let what is still written to a stream go nowhere: its disk is full, or its reader has gone.

    Without this, Python complains once more when it ends, and gives another exit status.
    """
    with suppress(OSError, ValueError, AttributeError):
        handle: int = stream.fileno()  # type: ignore[attr-defined]  # of a stream of the system; others have none
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, handle)
        os.close(nowhere)
