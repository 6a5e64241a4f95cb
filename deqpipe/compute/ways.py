"""Faster ways to the same numbers, and how one of them proves itself before it is taken.

A way is how f is laid out, whether it is compiled, and whether attack steps are replayed as CUDA graphs. None of it
changes the mathematics, but none of it is believed either: on its first use on a device it meets the plain way on one
batch. Where the two differ by more than plain runs do among themselves when their images come in another order, where
it fails, or where it is not clearly faster, the plain way runs and one line says why.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from deqpipe.errors import UserError
from deqpipe.machine import faults
from deqpipe.machine.stopping import terminable
from deqpipe.results import document, integrity
from deqpipe.results.lock import locked
from deqpipe.results.provenance import code_hash
from deqpipe.results.records import write_text

Layout: TypeAlias = Literal["channels_first", "channels_last"]
"""How the numbers of one scale lie within a state: channel, row, column, or row, column, channel. No solver can tell:
its arithmetic is the same for every order of the numbers. A convolution can: it is faster in one of them."""

MARGIN = 2.0
"""A way may differ from the plain one by this many times what plain runs differ among themselves."""
ROUNDING = 64
"""Or by so many rounding errors of a number, where the order of images changes nothing at all."""
GAIN = 1.05
"""How many times as fast a way must be to take the place of another: a smaller gain may be a neighbour's pause."""

_UNFINISHED = "a trial did not come to its end"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Way:
    """How f is computed, and attack steps are run.

    Attributes:
        layout: of states.
        compiled: whether f is compiled.
        graphs: whether attack steps are captured in CUDA graphs and replayed.
    """

    layout: Layout = "channels_first"
    compiled: bool = False
    graphs: bool = False

    @property
    def name(self) -> str:
        """In words."""
        words = [self.layout.replace("_", " "), *(["compiled"] if self.compiled else [])]
        return ", ".join([*words, *(["graphs"] if self.graphs else [])])


PLAIN = Way()


@dataclass(frozen=True)
class Asked:
    """What the caller wants of the ways; None: where it proves itself.

    Attributes:
        compiled: of f.
        graphs: of attack steps.
        verdicts: folder of what earlier trials found; None: they are forgotten with the process.
    """

    compiled: bool | None = False
    graphs: bool | None = False
    verdicts: Path | None = None

    def for_solver(self, *, couples: bool) -> "Asked":
        """What is asked where the solver may couple the images of a batch: it then waits for them, and no graph can.

        Raises:
            UserError: graphs are asked for there.
        """
        if couples and self.graphs is True:
            raise UserError("graphs is true, but the solver couples the images of a batch; allowed: auto, false")
        return replace(self, graphs=False) if couples else self

    @property
    def forced(self) -> Way:
        """What is to be done whatever a trial says."""
        return Way(compiled=self.compiled is True, graphs=self.graphs is True)

    def candidates(self) -> list[Way]:
        """Ways that are tried, the most promising first."""
        compiled = [True, False] if self.compiled is None else [self.compiled]
        graphs = [True, False] if self.graphs is None else [self.graphs]
        layouts: list[Layout] = ["channels_last", "channels_first"]
        ways = [Way(layout, one, other) for one in compiled for other in graphs for layout in layouts]
        return [way for way in ways if way != self.forced]


NOTHING_ASKED = Asked()


@dataclass(frozen=True)
class TrialOutcome:
    """What one run of a trial gave: tensors that all ways must agree on, and the seconds of a run like it."""

    values: tuple[Tensor, ...]
    seconds: float


@runtime_checkable
class Trial(Protocol):
    """One batch of work that can be done in every way."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a verdict depends on beside the code: device, versions, shapes, precision."""
        ...

    def run(self, way: Way) -> TrialOutcome:
        """The batch in some way."""
        ...

    @property
    def rounding(self) -> float:
        """Relative rounding error of one convolution."""
        ...

    def reordered(self, way: Way) -> tuple[Tensor, ...]:
        """The same in another order and with images that are rounded otherwise, put back in order."""
        ...


def choose(asked: Asked, device: torch.device, trial: Callable[[], Trial]) -> Way:
    """The way to take on a device.

    Args:
        asked: by the caller.
        device: where it computes.
        trial: makes the trial, if there is to be one.

    Raises:
        UserError: graphs are asked for where there is no CUDA.
    """
    if device.type != "cuda":
        if asked.graphs is True:
            raise UserError("graphs is true, but CUDA graphs need a CUDA device; allowed here: auto, false")
        return asked.forced
    if asked.compiled is not None and asked.graphs is not None:
        return asked.forced
    return _remembered(asked, trial())


def _remembered(asked: Asked, trial: Trial) -> Way:
    facts = {**trial.facts, "code": code_hash(), "asked": {"compiled": asked.compiled, "graphs": asked.graphs}}
    if asked.verdicts is None:
        return judge(asked, trial).way
    key = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    file = asked.verdicts / f"{key}.json"
    with locked(asked.verdicts / key):
        if file.exists():
            return _read(file, asked.forced)
        # A trial that takes its process down with it must not do so twice: until it ends, it has failed.
        _write(file, Verdict(asked.forced, f"{_UNFINISHED}; delete {file} to try again"), facts)
        try:
            with terminable():
                verdict = judge(asked, trial)
        except BaseException:  # interrupted, or without room: that says nothing of any way
            file.unlink(missing_ok=True)
            raise
        _write(file, verdict, facts)
    return verdict.way


def _read(file: Path, fallback: Way) -> Way:
    try:
        verdict = integrity.unsealed(document.read_object(file), str(file))
        way, reason = Way(**verdict["way"]), str(verdict["reason"])
    except (UserError, KeyError, TypeError):
        _logger.warning(
            "verdict %s cannot be read: f is computed in the plain way (%s); delete it to try again",
            file,
            fallback.name,
        )
        return fallback
    level = logging.WARNING if reason.startswith(_UNFINISHED) else logging.INFO
    _logger.log(level, "f is computed %s: %s", way.name, reason)
    return way


def _write(file: Path, verdict: "Verdict", facts: Mapping[str, Any]) -> None:
    write_text(file, document.sealed_text({**asdict(verdict), "facts": dict(facts)}))


@dataclass(frozen=True)
class Verdict:
    """The way to take, why, and what of the others was seen."""

    way: Way
    reason: str
    seen: tuple[str, ...] = ()


def judge(asked: Asked, trial: Trial) -> Verdict:
    """Try every candidate against the plain way."""
    base = asked.forced
    plain = trial.run(base)
    noise = difference(plain.values, trial.reordered(base))
    if not math.isfinite(noise):
        return Verdict(base, "the plain way gives numbers that are not finite: there is nothing to compare with")
    allowed = max(MARGIN * noise, ROUNDING * trial.rounding)
    best, fastest, seen = base, plain.seconds, [f"{base.name}: {plain.seconds:.4f} s, noise {noise:.1e}"]
    for way in asked.candidates():
        outcome, line = _tried(trial, way, plain, allowed)
        seen.append(line)
        if outcome is not None and GAIN * outcome.seconds < fastest:
            best, fastest = way, outcome.seconds
    for line in seen:
        _logger.info("trial of %s", line)
    reason = f"{plain.seconds / fastest:.2f} times as fast as the plain way on this device" if best != base else "plain"
    return Verdict(best, reason, tuple(seen))


def _tried(trial: Trial, way: Way, plain: TrialOutcome, allowed: float) -> tuple[TrialOutcome | None, str]:
    try:
        outcome = trial.run(way)
    except Exception as error:  # whatever a compiler or a capture fails with: the plain way is there
        lack = faults.lack_behind(error)
        if lack is not None:  # says nothing of the way, and what is found stands for ever
            where = lack.filename or "what compilers write (TMPDIR, TORCHINDUCTOR_CACHE_DIR)"
            raise UserError(f"{way.name} cannot be tried: {where}: {faults.words(lack)}") from None
        words = " ".join(str(error).split())[:200]
        return None, f"{way.name}: failed ({type(error).__name__}: {words}), so the plain way stays"
    away = difference(plain.values, outcome.values)
    if not away <= allowed:
        return None, f"{way.name}: differs by {away:.1e}, {allowed:.1e} are allowed, so the plain way stays"
    return outcome, f"{way.name}: {outcome.seconds:.4f} s, differs by {away:.1e} of {allowed:.1e} allowed"


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference of tensors, relative to the largest number of each; infinite where it is no number."""
    worst = 0.0
    for mine, theirs in zip(one, other, strict=True):
        largest = float(mine.abs().max())
        away = float((mine - theirs).abs().max())
        relative = away / largest if largest else away
        worst = max(worst, relative) if math.isfinite(relative) else math.inf
    return worst
