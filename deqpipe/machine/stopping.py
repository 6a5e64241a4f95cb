"""Leaving in time: after a signal, or when a time budget is used up. No torch.

Whoever has something to save holds a `StopRequest`, and puts the work that it would have to throw away into
`interruptible`. That work is left wherever it asks `check`: at every evaluation of f, forward and backward, and before
every step of an attack. So a signal is answered within one evaluation of f, however long a training step takes, and
never in the middle of an update or of a file. On CUDA a backward pass is waited for whole: Python hears of signals on
its main thread alone, which waits there for the threads of the device.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from deqpipe.errors import UserError

EXIT_UNFINISHED = 75
"""Exit status of a command that stopped early: start it again to go on (EX_TEMPFAIL)."""


class Interrupted(BaseException):
    """Work is left because somebody asked for it, and what it came to is dropped, but for what `kept` names.

    No `Exception`: nothing that tries something else after a failure may take it for one.
    """

    def __init__(self, reason: str, kept: str = "") -> None:
        """Take the reason, such as SIGTERM, and what of the work was saved, in words; "": nothing that is new."""
        super().__init__(reason)
        self.reason, self.kept = reason, kept


_watching: "StopRequest | None" = None
"""Whose work is under way. One for the process, as signals are; autograd asks from threads of its own."""


def check() -> None:
    """Leave the work that is under way, if that was asked for.

    Raises:
        Interrupted: within `StopRequest.interruptible` alone.
    """
    if _watching is not None and (reason := _watching.reason) is not None:
        raise Interrupted(reason)


@contextmanager
def keeping_nothing() -> Iterator[None]:
    """Leave the block soon after a signal, by `Interrupted`: for work that is short and keeps nothing on its way."""
    with StopRequest() as stop, stop.interruptible():
        yield


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
    """The signals that ask a process to end; none that is ignored, as `nohup` and a shell's `&` have it."""
    every = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return tuple(number for number in every if signal.getsignal(number) != signal.SIG_IGN)


def _give_back(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        # None: a handler that Python did not install and cannot put back
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


class StopRequest:
    """Whether it is time to save and leave: after SIGTERM, SIGINT or SIGHUP, or when a time budget is used up.

    As a context manager it turns these signals into a flag and gives back the handlers of before at the end. Only the
    main thread may enter it.

        with StopRequest(budget_minutes=55.0) as stop:
            while step < total and not stop.should_stop():
                try:
                    with stop.interruptible():
                        values = compute(step)
                except Interrupted:
                    break
                use(values)
        save()
    """

    def __init__(self, budget_minutes: float = math.inf, *, since: float | None = None) -> None:
        """A request that comes by itself when a budget is used up.

        Args:
            budget_minutes: how long all may take.
            since: when it began, by `time.monotonic`; None: now.

        Raises:
            UserError: the budget is not a positive number.
        """
        if not budget_minutes > 0:
            raise UserError(f"time budget is {budget_minutes:g} minutes, but must be positive")
        self._budget_minutes = budget_minutes
        self._deadline = (time.monotonic() if since is None else since) + 60 * budget_minutes
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

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let the block be left by `Interrupted` wherever `check` is asked, once there is a reason to stop."""
        global _watching
        before, _watching = _watching, self
        try:
            yield
        finally:
            _watching = before

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
