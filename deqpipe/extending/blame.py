"""Which line of a user's file an exception comes from, and what it says in one line."""

import traceback
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parents[1])


def line_of(error: BaseException, path: str) -> int | None:
    """The last line of a file on the way to an exception; None: the file has no part in it."""
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return own[-1] if own else None


def words(error: BaseException) -> str:
    """The kind of an exception and what it says, as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def place(error: BaseException, paths: Iterable[str], *, called_wrongly: bool = False) -> str | None:
    """Where in one of some users' files an exception comes from: `extension PATH, line N`.

    None: it comes from elsewhere, or from a function of the package that the file has called, which may be our mistake.

    Args:
        error: the exception.
        paths: of the files.
        called_wrongly: whether an exception from such a function is the file's mistake; a failed assertion never is.
    """
    files = set(paths)
    frames = traceback.extract_tb(error.__traceback__)
    last = max((number for number, frame in enumerate(frames) if frame.filename in files), default=None)
    if last is None:
        return None
    deeper = any(_is_ours(frame.filename) for frame in frames[last + 1 :])
    if deeper and (not called_wrongly or isinstance(error, AssertionError)):
        return None
    return f"extension {frames[last].filename}, line {frames[last].lineno}"


def _is_ours(filename: str) -> bool:
    return filename.startswith(_PACKAGE)
