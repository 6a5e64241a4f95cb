"""Passes timed round by round, under a time budget: what is over is kept."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from deqpipe.counts import Evaluations
from deqpipe.errors import UserError
from deqpipe.machine import stopwatch
from deqpipe.machine.device import describe
from deqpipe.machine.stopping import Interrupted, StopRequest
from deqpipe.machine.stopwatch import Pass
from deqpipe.results import rounds
from deqpipe.results.lock import locked
from deqpipe.results.rounds import Round
from deqpipe.workflow.endings import GO_ON

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sitting:
    """One try of a timing job.

    Attributes:
        spec: of the job.
        device: where it computes.
        state: folder of finished rounds.
        budget_minutes: it leaves, with its finished rounds kept, when they are over.
        begun: when they began, by `time.monotonic`.
    """

    spec: Mapping[str, Any]
    device: torch.device
    state: Path
    budget_minutes: float
    begun: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Timed:
    """What came of it.

    Attributes:
        rates: images per second of each pass, round by round.
        rounds: that this try took itself; one at least.
    """

    rates: Mapping[str, tuple[float, ...]]
    rounds: int

    def earlier(self, own: Evaluations) -> Evaluations:
        """What the rounds of earlier tries took: as much each as those of this one, which took `own` in all."""
        before = len(next(iter(self.rates.values()))) - self.rounds
        return own.shared(self.rounds) * before


def in_rounds(
    sitting: Sitting,
    passes: Mapping[str, Pass],
    *,
    repeats: int,
    warm: Callable[[], object],
) -> Timed | None:
    """Time passes in turn, behind the rounds that are over; None: the try has left, and said so.

    The last round is never kept: what it makes whole is written at once.

    Args:
        sitting: this try.
        passes: what is timed, by name.
        repeats: how often.
        warm: what comes before the clock starts.

    Raises:
        UserError: the time was over before one round was.
    """
    file, device = sitting.state / "rounds.json", describe(sitting.device)
    with locked(sitting.state), StopRequest(sitting.budget_minutes, since=sitting.begun) as stop:
        known = rounds.read(file, names=tuple(passes), spec=sitting.spec, device=device)[: repeats - 1]
        done: list[Round] = list(known)
        try:
            with stop.interruptible():
                warm()
            for number in range(len(known), repeats):
                with stop.interruptible():
                    done.append(stopwatch.one_round(passes, sitting.device))
                if number + 1 < repeats:
                    rounds.write(file, done, spec=sitting.spec, device=device)
                _logger.info("repeat %d/%d done", number + 1, repeats)
        except Interrupted as why:
            if len(done) == len(known) and not stop.signalled:
                raise UserError(
                    f"not one repeat finished within {sitting.budget_minutes:g} minutes: allow more time"
                ) from None
            _logger.info("%s: %d of %d repeats are kept; %s", why.reason, len(done), repeats, GO_ON)
            return None
        file.unlink(missing_ok=True)
    return Timed({name: tuple(one[name] for one in done) for name in passes}, repeats - len(known))
