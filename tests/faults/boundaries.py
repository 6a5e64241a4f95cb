"""Moments at which a file is about to be written, flushed or renamed, or has just been; a process that dies at one."""

import os
import signal
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEFORE, TORN, AFTER = "before", "half written before", "after"


class Boundaries:
    """Counts these moments in this process, and kills it at one of them.

    Attributes:
        seen: moments so far, in words.
    """

    def __init__(self, last: int | None = None, told: Path | None = None) -> None:
        """Without effect until it is installed.

        Args:
            last: the moment to die at, counted from 0; None: none.
            told: file that gets the words of each moment, a line each.
        """
        self.seen: list[str] = []
        self._last, self._told = last, told

    def install(self) -> None:
        """Watch this process, which is a child of the one that goes on."""
        tempfile.mkstemp = self._watched("a temporary file", tempfile.mkstemp)
        os.mkdir = self._watched("a folder", os.mkdir)
        os.fsync = self._watched("fsync", os.fsync, torn=_cut)
        for rename in ("replace", "rename"):
            setattr(os, rename, self._watched("rename", getattr(os, rename)))

    def _watched(self, name: str, call: Callable[..., Any], *, torn: Callable[..., None] | None = None) -> Any:
        def watched(*arguments: Any, **named: Any) -> Any:
            self._pass(BEFORE, name)
            if torn is not None:
                self._pass(TORN, name, lambda: torn(*arguments))
            result = call(*arguments, **named)
            self._pass(AFTER, name)
            return result

        return watched

    def _pass(self, when: str, name: str, first: Callable[[], None] = lambda: None) -> None:
        self.seen.append(f"{when} {name}")
        if self._told is not None:
            with self._told.open("a") as file:
                file.write(self.seen[-1] + "\n")
        if len(self.seen) - 1 == self._last:
            first()
            os.kill(os.getpid(), signal.SIGKILL)


def _cut(handle: int) -> None:
    """Half of a file, as if the other half had not been written yet."""
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode):
        os.truncate(f"/proc/self/fd/{handle}", found.st_size // 2)
