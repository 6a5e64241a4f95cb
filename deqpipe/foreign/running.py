"""Runs the attacks of an evaluation, piece by piece, so that whoever is stopped goes on.

A piece is one attack on one batch of the images that are still open; it is kept in a file of its own in the state
folder. An image leaves once the decision errs. When the time budget is used up no further piece is begun, and the one
under way is dropped.
"""

import logging
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqpipe.attack.judged import Crafted, Hunt
from deqpipe.attack.suite import Batch, Victim
from deqpipe.counts import NO_EVALUATIONS, Evaluations
from deqpipe.errors import UserError
from deqpipe.evaluation.judge import readings
from deqpipe.foreign.plan import Entry
from deqpipe.foreign.subject import Subject, differentiable
from deqpipe.machine.stopping import Interrupted, StopRequest
from deqpipe.model.interface import FixedPointModel
from deqpipe.results import document, integrity, records
from deqpipe.shapes import Images, Labels
from deqpipe.threat_model import LinfBall

_logger = logging.getLogger(__name__)
CLEAN = "clean"
Rows = Mapping[str, np.ndarray]
"""Columns of one piece, a value per image."""
DELTA = "delta"
"""The column of a piece's file that holds the change of each image; it is read again where it is asked for."""


@dataclass(frozen=True)
class Progress:
    """How far an evaluation came.

    Attributes:
        rows: of every finished piece, by attack.
        skipped: attacks that were not begun, or not on all of their images, with the number that they lack.
        seconds: computed, over all tries.
    """

    rows: Mapping[str, Rows]
    skipped: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A subject, its images, and what is run on them.

    Attributes:
        subject: the model.
        entries: attacks, in order.
        x: all images, in [0, 1].
        y: their classes.
        seed: of random numbers.
        batch_size: images at once; of AutoAttack it is part of the result.
        standard: an image leaves once the decision errs; else every attack meets all that are right when clean.
        state: folder of finished pieces.
    """

    subject: Subject
    entries: tuple[Entry, ...]
    x: Images
    y: Labels
    seed: int
    batch_size: int
    standard: bool
    state: Path
    _known: dict[str, Rows] = field(default_factory=dict, init=False, repr=False)
    """Finished pieces without the changes of the images, so that a file is read and checked once."""

    def run(self, budget_minutes: float = math.inf) -> Progress:
        """Run what is not there yet.

        Args:
            budget_minutes: how long all tries together may compute.

        Raises:
            Interrupted: a signal asked to leave; what is finished is kept.
        """
        over = self.state / "over.json"
        before = self._seconds()
        allowed = budget_minutes - before / 60
        if _used_up(over) >= budget_minutes:
            allowed = 0.0
        self._do(CLEAN, self._clean)  # whatever the budget: without it there is nothing to say
        if allowed > 0:
            self._go_on(allowed, over, budget_minutes)
        return self._progress()

    def _go_on(self, minutes: float, over: Path, budget: float) -> None:
        with StopRequest(minutes) as stop:
            try:
                with stop.interruptible():
                    self._say_how_long(minutes)
                    self._all(stop)
                return
            except Interrupted:
                if stop.signalled:
                    raise
        _logger.warning("the budget of %g minutes is used up", budget)
        records.write_text(over, document.sealed_text({"budget_minutes": budget}))

    def _say_how_long(self, allowed: float) -> None:
        """What all attacks take at most, by the time that one gradient and one query take; nothing depends on it."""
        (gradient, query), spent, reached = self._seconds_of_a_step(), 0.0, len(self.entries)
        for number, entry in enumerate(self.entries):
            spent += entry.work * len(self._faced_at_most(entry)) * (gradient if entry.by_gradient else query)
            reached = number if spent > 60 * allowed and reached == len(self.entries) else reached
        lacking = len(self.entries) - reached
        more = (
            f"; the budget of {allowed:.3g} may not reach the last {lacking} of {len(self.entries)}" if lacking else ""
        )
        _logger.info("all attacks take about %.2g minutes at most%s", spent / 60, more)

    def _faced_at_most(self, entry: Entry) -> list[int]:
        return [image for image in self._right_when_clean() if entry.images is None or image < entry.images]

    def _right_when_clean(self) -> list[int]:
        rows = self._read(CLEAN)
        return sorted(rows["image"][~_errs(rows)].tolist())

    def _seconds_of_a_step(self) -> tuple[float, float]:
        """Seconds per image of a gradient and of a query."""
        x, _ = self._load(range(min(self.batch_size, len(self.x))))
        logits_of = differentiable(self.subject.victim)

        def gradient() -> None:
            with torch.enable_grad():
                leaf = x.clone().requires_grad_()
                torch.autograd.grad(logits_of(leaf).sum(), leaf)

        return _timed(gradient) / len(x), _timed(lambda: self.subject.victim.logits(x)) / len(x)

    def _all(self, stop: StopRequest) -> None:
        for number, entry in enumerate(self.entries, 1):
            faced = self._faced(entry)
            pieces = list(self._pieces(entry, faced))
            for name, images in pieces:
                if stop.should_stop():
                    raise Interrupted(stop.reason or "")
                self._do(name, lambda entry=entry, images=images: self._attacked(entry, images))
            fallen = sum(int(_errs(self._read(name)).sum()) for name, _ in pieces)
            what = f"{entry.attack.label} ({entry.times:g} epsilon)" if entry.images else entry.attack.label
            _logger.info("%d of %d: %s turns %d of %d images", number, len(self.entries), what, fallen, len(faced))

    def _do(self, name: str, compute: Any) -> None:
        """Compute a piece and keep it, unless it is there."""
        if self._exists(name):
            return
        began, before = time.monotonic(), self._counted
        rows = dict(compute())
        spent = (self._counted - before).total
        steps = int(rows["taken"].sum())
        per_step = spent / steps if steps and self._has_states else np.nan
        rows["per_step"] = np.full(len(rows["image"]), per_step, np.float32)
        rows["seconds"] = np.array(time.monotonic() - began)
        with records.atomic(self._file(name)) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **rows)
        self._known[name] = _without_delta(rows)

    def _exists(self, name: str) -> bool:
        """Whether a piece is there and whole; a damaged one is set aside."""
        file = self._file(name)
        if name in self._known or not file.is_file():
            return name in self._known
        try:
            self._read(name)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            integrity.set_aside(file, f"{file} is damaged ({type(error).__name__})")
            return False
        return True

    def _read(self, name: str) -> Rows:
        if name not in self._known:
            self._known[name] = _without_delta(self._whole(name))
        return self._known[name]

    def _whole(self, name: str) -> Rows:
        """A piece with the changes of the images."""
        with self._file(name).open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def _file(self, name: str) -> Path:
        return self.state / f"{name}.npz"

    @property
    def _counted(self) -> Evaluations:
        model = self.subject.victim.model
        return model.counter.counted if isinstance(model, FixedPointModel) else NO_EVALUATIONS

    @property
    def _has_states(self) -> bool:
        return self.subject.victim.dynamics is not None

    # Which images

    def _pieces(self, entry: Entry, faced: Sequence[int]) -> Iterator[tuple[str, Sequence[int]]]:
        for number, first in enumerate(range(0, len(faced), self.batch_size)):
            yield f"{entry.name}_batch{number}", faced[first : first + self.batch_size]

    def _faced(self, entry: Entry) -> list[int]:
        """The images that an attack is run on: right when clean and, in standard mode, after the attacks before."""
        open_ = set(self._right_when_clean())
        if self.standard and entry.removes:
            for before in self.entries[: self.entries.index(entry)]:
                if before.removes:
                    open_ -= self._fallen(before)
        return sorted(image for image in open_ if entry.images is None or image < entry.images)

    def _fallen(self, entry: Entry) -> set[int]:
        fallen: set[int] = set()
        for rows in self._finished(entry):
            fallen.update(rows["image"][_errs(rows)].tolist())
        return fallen

    def _finished(self, entry: Entry) -> Iterator[Rows]:
        """The pieces of an attack that are there, in order."""
        for name in self._finished_names(entry):
            yield self._read(name)

    def _finished_names(self, entry: Entry) -> Iterator[str]:
        number = 0
        while self._exists(name := f"{entry.name}_batch{number}"):
            yield name
            number += 1

    # What is computed

    def _clean(self) -> Rows:
        parts = []
        for first in range(0, len(self.x), self.batch_size):
            images = range(first, min(len(self.x), first + self.batch_size))
            x, y = self._load(images)
            hunt = Hunt(x, y, self.subject.victim.logits, self._within(0.0).ball)
            hunt.judge(x, hunt.standing)
            parts.append(self._rows(images, x, y, hunt.outcome(), radius=0.0))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _attacked(self, entry: Entry, images: Sequence[int]) -> Rows:
        x, y = self._load(images)
        victim = self._within(entry.times * self.subject.victim.ball.epsilon)
        warm = self._warm(entry, images, x) if entry.attack.warm else None
        crafted = entry.craft(victim, Batch(x, y, images, warm), self.seed)
        away = float(victim.ball.distance(crafted.images, x).max())
        assert away <= victim.ball.epsilon + 1e-6, f"{entry.name} left its ball"
        return self._rows(images, x, y, crafted, radius=victim.ball.epsilon)

    def _within(self, epsilon: float) -> Victim:
        return replace(self.subject.victim, ball=LinfBall(epsilon))

    def _load(self, images: Sequence[int]) -> tuple[Images, Labels]:
        rows = torch.as_tensor(list(images), device=self.x.device)
        return self.x[rows], self.y[rows]

    def _rows(self, images: Sequence[int], x: Images, y: Labels, crafted: Crafted, *, radius: float) -> Rows:
        """What is kept of an attack on some images, judged anew: whether it errs is what this judgement says."""
        judged = readings(self.subject.victim.logits(crafted.images)[None], y)
        told = {name: _host(column[0]) for name, column in judged.items()}
        errs = (told["predicted"] != _host(y)) if len(images) else np.zeros(0, bool)
        taken, broken = _host(crafted.taken), _host(crafted.broken_at)
        return told | {
            "image": np.array(images, np.int64),
            "label": _host(y),
            "broken_at": np.where(errs & (broken < 0), taken, broken),
            "taken": taken,
            "spread": _host(crafted.spread),
            "lost_gradient": _host(crafted.lost_gradient),
            "perturbation": _host((crafted.images - x).abs().flatten(1).amax(1)),
            "radius": np.full(len(images), radius),
            DELTA: _host(crafted.delta),
        }

    def _warm(self, entry: Entry, images: Sequence[int], x: Images) -> Images:
        """The images of lowest margin that the attacks before came to."""
        best = {image: (np.inf, np.zeros(tuple(x.shape[1:]), np.float32)) for image in images}
        for before in self.entries[: self.entries.index(entry)]:
            for rows in map(self._whole, self._finished_names(before)) if before.removes else ():
                for image, margin, delta in zip(rows["image"].tolist(), rows["margin"], rows[DELTA], strict=True):
                    if image in best and margin < best[image][0]:
                        best[image] = (margin, delta)
        return x + torch.as_tensor(np.stack([best[image][1] for image in images])).to(x.device, x.dtype)

    # How far it came

    def _seconds(self) -> float:
        names = [file.stem for file in self.state.glob("*.npz")]
        return sum((float(self._read(name)["seconds"]) for name in names if self._exists(name)), start=0.0)

    def _progress(self) -> Progress:
        rows = {CLEAN: self._read(CLEAN)}
        skipped: dict[str, int] = {}
        for entry in self.entries:
            finished = list(self._finished(entry))
            due = len(self._faced(entry)) - sum(len(part["image"]) for part in finished)
            if due > 0:
                skipped[entry.name] = due
            if finished:
                names = [name for name in finished[0] if name != "seconds"]
                rows[entry.name] = {name: np.concatenate([part[name] for part in finished]) for name in names}
        return Progress(rows, skipped, self._seconds())

    @cached_property
    def by_name(self) -> Mapping[str, Entry]:
        """The attacks by name."""
        return {entry.name: entry for entry in self.entries}


def _used_up(over: Path) -> float:
    """The budget, in minutes, that a try before has used up; 0 where none has, or what says so is damaged."""
    if not over.is_file():
        return 0.0
    try:
        return document.number(integrity.unsealed(document.read_object(over), str(over))["budget_minutes"])
    except (UserError, KeyError, TypeError) as error:
        integrity.set_aside(over, error)
        return 0.0


def _timed(compute: Callable[[], Any]) -> float:
    """Seconds of a call, once it was made before; of a device with all that it has begun."""
    compute()
    began = time.monotonic()
    compute()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.monotonic() - began


def _without_delta(rows: Rows) -> Rows:
    return {name: column for name, column in rows.items() if name != DELTA}


def _errs(rows: Rows) -> np.ndarray:
    return np.asarray(rows["predicted"] != rows["label"])


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
