"""Errors that the command line answers with one line, and that line."""

_LONGEST = 2_000
"""Characters of a message; of a longer one the middle is left out."""


class UserError(ValueError):
    """A mistake in configuration, data, checkpoint or arguments.

    The message is one line that names the value and what was allowed. The command line prints it (see `line`) and
    exits with status 2; all exceptions but those of this module are ours and keep their traceback.
    """


class DamagedFileError(UserError):
    """A file is not what deqpipe wrote: cut short, decayed, or edited by hand.

    Of a job's own state it is set aside and computed again; every other one is for the user to delete.
    """


class DivergedError(ArithmeticError):
    """A training diverged: its loss exploded, or a number of it is not finite. Nothing is saved with it; exit status 1.

    It would do so again: the message says what to change.
    """


def line(message: object) -> str:
    """A message as one line of bounded length, whatever names and values of others it holds.

    Characters that are not printable (line breaks, terminal codes, undecodable bytes of file names) are escaped.
    """
    text = str(message)
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]} [{len(text) - 2 * half:,} characters left out] {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
