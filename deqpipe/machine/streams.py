"""What this process prints: on terminals that lack characters, and to readers that leave, such as `head`.

Files are always UTF-8; a terminal is what its locale or PYTHONIOENCODING says.
"""

import codecs
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

PLAIN = "deqpipe.plain"
"""Name of the error handler that writes what an encoding lacks in ASCII."""
_IN_ASCII: Mapping[str, str] = {
    "\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{MINUS SIGN}": "-", "\N{NON-BREAKING HYPHEN}": "-",
    "\N{GREEK CAPITAL LETTER DELTA}": "D", "\N{GREEK SMALL LETTER LAMDA}": "lambda",
    "\N{GREEK SMALL LETTER EPSILON}": "epsilon", "\N{GREEK SMALL LETTER ALPHA}": "alpha",
    "\N{PLUS-MINUS SIGN}": "+-", "\N{MULTIPLICATION SIGN}": "x", "\N{ALMOST EQUAL TO}": "~",
    "\N{LESS-THAN OR EQUAL TO}": "<=", "\N{GREATER-THAN OR EQUAL TO}": ">=", "\N{RIGHTWARDS ARROW}": "->",
    "\N{HORIZONTAL ELLIPSIS}": "...", "\N{MIDDLE DOT}": "*", "\N{BULLET}": "*", "\N{NO-BREAK SPACE}": " ",
    "\N{LEFT SINGLE QUOTATION MARK}": "'", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"', "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    "\N{SECTION SIGN}": "Sec. ", "\N{DEGREE SIGN}": " degrees", "\N{MICRO SIGN}": "u",
    "\N{FULL BLOCK}": "#", "\N{LIGHT SHADE}": ".", "\N{BOX DRAWINGS LIGHT HORIZONTAL}": "-",
    "\N{CHECK MARK}": "yes", "\N{INFINITY}": "inf", "\N{SUPERSCRIPT TWO}": "^2",
}  # fmt: skip


def in_ascii(text: str) -> str:
    r"""Text without characters outside ASCII: signs by their like, letters of names as escapes, such as caf\xe9."""
    return "".join(_IN_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode() for one in text)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


def degrade() -> None:
    """Let what is printed from now on never fail for want of a character, whoever prints it."""
    codecs.register_error(PLAIN, _replaced)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # not there on what a notebook or a test puts in place
        if reconfigure is not None:
            reconfigure(errors=PLAIN)


def leave_with_reader() -> None:
    """End this process in silence, by SIGPIPE as programs of the system do, when who reads its output has gone.

    For processes that do nothing but print.
    """
    _at_broken_pipe(signal.SIG_DFL)


def leave_with_reader_of_output() -> None:
    """The same where stdout alone has lost its reader: who looks at the messages of a run may leave, it goes on."""
    _at_broken_pipe(_leave_if_unread)


def _at_broken_pipe(action: signal.Handlers | Callable[[int, object], None]) -> None:
    if threading.current_thread() is threading.main_thread():  # only there may it be said
        signal.signal(signal.SIGPIPE, action)


def _leave_if_unread(number: int, frame: object) -> None:
    with suppress(OSError):
        if is_unread(1) and not os.path.sameopenfile(1, 2):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGPIPE)


def is_unread(handle: int) -> bool:
    """Whether nobody reads any more what is written to a pipe."""
    poll = select.poll()
    poll.register(handle, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
