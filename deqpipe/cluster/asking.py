"""Commands of a scheduler, asked with a limit of time: a controller that does not answer must not hold us."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 30.0
"""How long an answer may take."""


@dataclass(frozen=True)
class Answer:
    """What a command said.

    Attributes:
        status: its exit status; None: it is not there, or did not answer in time.
        printed: its standard output.
        complaint: what it printed on standard error, or why there is no status.
    """

    status: int | None
    printed: str = ""
    complaint: str = ""

    @property
    def good(self) -> bool:
        """Whether the command did what it was asked for."""
        return self.status == 0


def there(command: str) -> bool:
    """Whether a command is on PATH."""
    return shutil.which(command) is not None


def ask(line: Sequence[str], *, seconds: float = SECONDS) -> Answer:
    """What a command answers; it reads nothing."""
    try:
        done = subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, complaint=f"no answer within {seconds:g} s")
    except OSError as error:
        return Answer(None, complaint=f"cannot be started: {error.strerror}")
    return Answer(done.returncode, done.stdout, done.stderr)
