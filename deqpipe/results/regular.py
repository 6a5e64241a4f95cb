"""Whether a path leads to a file: a named pipe waits for ever for somebody who writes, and a device may never end."""

import stat
from pathlib import Path

from deqpipe.errors import UserError

_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))


def size_of(path: Path, *, what: str = "") -> int | None:
    """Bytes of a file, which is not opened; None where nothing is there.

    Args:
        path: the file, or a symbolic link to it.
        what: what to call it in a message, if anything.

    Raises:
        UserError: it is a folder, a named pipe, a socket or a device, or nothing can be said of it.
    """
    named = f"{what} {path}".lstrip()
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # no permission, links in a circle; a NUL in the name
        raise UserError(f"{named} cannot be read: {' '.join(str(error).split())}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for is_one, words in _KINDS if is_one(found.st_mode)), "a device")
        raise UserError(f"{named} cannot be read: it is {kind}, but must be a file")
    return found.st_size
