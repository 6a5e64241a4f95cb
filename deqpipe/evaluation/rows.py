"""From judgements to the rows of a records file."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from deqpipe.attack.pgd import PGD, Attacked, cross_entropy_objective, uniform_start
from deqpipe.compute.host import to_host
from deqpipe.config import Pgd
from deqpipe.data import Split
from deqpipe.evaluation.batching import has_room
from deqpipe.evaluation.evaluated_model import Subject
from deqpipe.evaluation.judge import Judge, Judgement, StatesWithFinal
from deqpipe.results.records import PER_STATE, SCALARS
from deqpipe.shapes import Images, Labels
from deqpipe.workflow.defences import DefenceName
from deqpipe.workflow.gridpoints import GridPoint

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Chunk:
    """Some images of a split, by index."""

    split: Split
    images: range

    def batches(self, size: int) -> Sequence[range]:
        """The indices, at most `size` at once."""
        first, last = self.images.start, self.images.stop
        return [range(start, min(start + size, last)) for start in range(first, last, size)]

    def load(self, images: range, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and labels of some of them."""
        where = slice(images.start, images.stop)
        return self.split.float_images(where, device), self.split.labels[where].to(device)

    def labels(self, images: range) -> np.ndarray:
        """The labels of some of them, on the host."""
        found: np.ndarray = self.split.labels[images.start : images.stop].cpu().numpy()
        return found


@runtime_checkable
class References(Protocol):
    """Where the states of clean images come from, which deviations are measured from."""

    def __call__(self, judge: Judge, images: range) -> StatesWithFinal | None:
        """The states that a judge sees on these images, on the device; None for an ordinary network."""
        ...


@dataclass(frozen=True)
class FreshReferences:
    """Clean states computed when asked for: for a chunk that is attacked once."""

    subject: Subject
    chunk: Chunk

    def __call__(self, judge: Judge, images: range) -> StatesWithFinal | None:
        """The states that a judge sees on these images."""
        x, _ = self.chunk.load(images, self.subject.job.device)
        return judge.states(x)


class StoredReferences:
    """Clean states that are kept: for a chunk that is attacked at many points.

    A DEQ's states take (N + 1) * state size * 4 bytes per image and defence: 2.2 MB with MDEQ-Large. They stay on the
    device where these are a small part of its free memory, and on the CPU elsewhere.
    """

    def __init__(self, subject: Subject, chunk: Chunk) -> None:
        """Compute and keep the states of all judges on a chunk."""
        self._device, self._first = subject.job.device, chunk.images.start
        self._states: dict[str, Tensor] = {}
        fresh = FreshReferences(subject, chunk)
        for judge in subject.judges:
            for images in chunk.batches(subject.batch_size):
                self._keep(judge, images, fresh(judge, images), size=len(chunk.images))

    def _keep(self, judge: Judge, images: range, states: Tensor | None, *, size: int) -> None:
        assert states is not None, "only DEQs are attacked at many points"
        if judge.defence not in self._states:
            shape = (len(states), size, states.shape[2])
            where = self._device if has_room(self._device, math.prod(shape) * states.element_size()) else "cpu"
            self._states[judge.defence] = torch.empty(shape, dtype=states.dtype, device=where)
        self._states[judge.defence][:, self._where(images)] = states.to(self._states[judge.defence].device)

    def _where(self, images: range) -> slice:
        return slice(images.start - self._first, images.stop - self._first)

    def __call__(self, judge: Judge, images: range) -> StatesWithFinal | None:
        """The kept states of these images."""
        return self._states[judge.defence][:, self._where(images)].to(self._device)


@dataclass(frozen=True)
class Attack:
    """PGD on one surrogate.

    Attributes:
        point: of the grid; None for an ordinary network.
        through: the defence whose dynamics the surrogate's z^[i] comes from.
        name: as records have it.
    """

    point: GridPoint | None
    through: DefenceName = "plain"
    name: str = "pgd"


@dataclass(frozen=True)
class Panel:
    """The judges of attacked images.

    Attributes:
        compared: those that also say how far the states are from those of the clean images.
        others: the rest; their deviation is not a number.
    """

    compared: tuple[Judge, ...]
    others: tuple[Judge, ...] = ()

    def judge(self, x: Images, y: Labels, references: Sequence[StatesWithFinal | None]) -> list[Judgement]:
        """One judgement per judge, in order; judges of equal behaviour share one solve.

        Args:
            x: images.
            y: their labels.
            references: states of the clean images, one per judge in `compared`.
        """
        judges = (*self.compared, *self.others)
        starts = (*references, *[None] * len(self.others))
        found: dict[int, Judgement] = {}
        for behaviour in dict.fromkeys(judge.behaviour for judge in judges):
            alike = [number for number, judge in enumerate(judges) if judge.behaviour == behaviour]
            seen = judges[alike[0]].see(x, y)
            found |= {number: seen.measured_from(starts[number]).on_host() for number in alike}
        return [found[number] for number in range(len(judges))]


def panel_of(subject: Subject) -> Panel:
    """The judges of a grid: every decision and control of the subject, and those that it is transferred to."""
    return Panel(subject.judges, (*subject.controls, *subject.transferred))


def craft(subject: Subject, attack: Attack, chunk: Chunk, images: range, *, pgd: Pgd, purpose: str) -> Attacked:
    """PGD on the surrogate of a point. Random starts are keyed by image: all points of a seed share them."""
    (made,) = craft_together(subject, [attack], chunk, images, pgd=pgd, purpose=purpose)
    return made


def craft_together(
    subject: Subject, attacks: Sequence[Attack], chunk: Chunk, images: range, *, pgd: Pgd, purpose: str
) -> list[Attacked]:
    """PGD on several surrogates. Those that differ in the length of their unroll only are attacked as one batch."""
    x, y = chunk.load(images, subject.job.device)
    start = uniform_start(x, ball=subject.ball, stream=subject.stream(purpose), images=images, clamp=pgd.clamp_start)
    ascent = PGD(subject.ball, steps=pgd.steps, step_size=pgd.step_size_255 / 255, run=subject.run)
    made: dict[int, Attacked] = {}
    for alike in _alike(attacks, subject.final_point()):
        logits_of, count = _logits_of(subject, [attacks[number] for number in alike]), len(alike)
        objective = cross_entropy_objective(logits_of, y.repeat(count))
        together = ascent(objective, x.repeat(count, 1, 1, 1), start=start.repeat(count, 1, 1, 1))
        made |= dict(zip(alike, together.parts(count), strict=True))
    return [made[number] for number in range(len(attacks))]


def _logits_of(subject: Subject, attacks: Sequence[Attack]) -> Callable[[Tensor], Tensor]:
    points = [attack.point for attack in attacks if attack.point is not None]
    if len(points) > 1:
        return subject.logits_of_several(points)
    return subject.logits_of(attacks[0].point, through=attacks[0].through)


def _alike(attacks: Sequence[Attack], ready_made: GridPoint | None) -> list[list[int]]:
    """Numbers of attacks whose surrogates can be stacked, the longest unroll first.

    The ready-made one stays alone: Figure 2 crafts it again, and wants the same rounding.
    """
    groups: dict[Any, list[int]] = {}
    for number, attack in enumerate(attacks):
        point = attack.point
        alone = point == ready_made or attack.through != "plain"
        key = number if point is None or alone else (point.state, point.damping)
        groups.setdefault(key, []).append(number)
    return [sorted(group, key=lambda number: -_unroll_steps(attacks[number])) for group in groups.values()]


def _unroll_steps(attack: Attack) -> int:
    return attack.point.steps if attack.point else 0


def attack_rows(
    subject: Subject,
    point: GridPoint | None,
    chunk: Chunk,
    *,
    references: References,
    purpose: str,
) -> Columns:
    """Rows of one attack on a chunk, scored by every judge and every control of the subject.

    Args:
        subject: the model; it both crafts and decides.
        point: the surrogate; None for an ordinary network.
        chunk: the images.
        references: where the states of the clean images come from.
        purpose: of the random starts.
    """
    panel = panel_of(subject)
    return attacks_rows(subject, [Attack(point)], chunk, panel=panel, references=references, purpose=purpose)[0]


def together(subject: Subject, chunk: Chunk) -> int:
    """How many attacks' images of a chunk are judged at once: one, where images of a batch influence each other."""
    if "evaluation.batch_size" in subject.settings:
        return 1
    return max(1, subject.batch_size // len(chunk.images))


def attacks_rows(
    subject: Subject,
    attacks: Sequence[Attack],
    chunk: Chunk,
    *,
    panel: Panel,
    references: References | None,
    purpose: str,
) -> list[Columns]:
    """Rows of several attacks on a chunk, one set per attack; the images of all of them are judged at once.

    Args:
        subject: the model that crafts.
        attacks: at most as many as go `together`.
        chunk: the images.
        panel: who judges them.
        references: where the states of the clean images come from; None: `panel.compared` is empty.
        purpose: of the random starts.
    """
    pgd = subject.settings.section("attack.pgd", Pgd)
    parts: list[list[Columns]] = [[] for _ in attacks]
    for images in chunk.batches(subject.batch_size):
        (x, y), label = chunk.load(images, subject.job.device), chunk.labels(images)
        crafted = craft_together(subject, attacks, chunk, images, pgd=pgd, purpose=purpose)
        stacked = torch.cat([made.images for made in crafted])
        clean = [_repeated(references(judge, images), len(attacks)) for judge in panel.compared] if references else []
        judgements = panel.judge(stacked, y.repeat(len(attacks)), clean)
        for number, (attack, made) in enumerate(zip(attacks, crafted, strict=True)):
            facts = _facts(subject, attack, made, x)
            own = slice(number * len(images), (number + 1) * len(images))
            for judge, judged in zip((*panel.compared, *panel.others), judgements, strict=True):
                parts[number].append(rows(judge, judged.part(own), images, label, facts))
    return [joined(part) for part in parts]


def _repeated(states: Tensor | None, times: int) -> Tensor | None:
    """The states of the same images, for every attack on them."""
    return states if states is None or times == 1 else states.repeat(1, times, 1)


def _facts(subject: Subject, attack: Attack, made: Attacked, x: Images) -> dict[str, Any]:
    """What holds for all judges of one attack."""
    point, change = attack.point, subject.ball.distance(made.images, x)
    found = to_host({"perturbation": change, "lost_gradient": made.lost_gradient})
    assert found["perturbation"].max() <= subject.ball.epsilon + 1e-6, "an attack left its ball"
    return {
        "attack": attack.name,
        "crafted_on": subject.name,
        "state": point.state if point else 0,
        "steps": point.steps if point else 0,
        "damping": point.damping if point else 0.0,
        **found,
    }


def clean_rows(subject: Subject, chunk: Chunk) -> Columns:
    """Rows of the images as they are."""
    parts: list[Columns] = []
    facts = {"attack": "clean", "crafted_on": "", "state": 0, "steps": 0, "damping": 0.0,
             "perturbation": 0.0, "lost_gradient": np.nan}  # fmt: skip
    panel = Panel((), (*subject.judges, *subject.controls))
    for images in chunk.batches(subject.batch_size):
        (x, y), label = chunk.load(images, subject.job.device), chunk.labels(images)
        judged = zip(panel.others, panel.judge(x, y, ()), strict=True)
        parts += [rows(judge, judgement, images, label, facts) for judge, judgement in judged]
    return joined(parts)


def rows(
    judge: Judge, judged: Judgement, images: Sequence[int], label: np.ndarray, facts: Mapping[str, Any]
) -> Columns:
    """One row per image; `facts` are the same for all rows, or arrays with one value per image."""
    columns: dict[str, Any] = {"model": judge.decides_for, "defence": judge.defence, **facts}
    columns |= {"image": np.array(images), "label": label, "status": judged.status}
    full = {name: np.broadcast_to(np.asarray(value), (len(images),)) for name, value in columns.items()}
    return full | {name: judged.columns[name] for name in PER_STATE}


def no_rows(states: int) -> Columns:
    """The rows of no image, of a model with so many states and the final one."""
    texts = ("model", "defence", "attack", "crafted_on")
    scalars = {name: np.array([], str if name in texts else float) for name in SCALARS}
    return scalars | {name: np.empty((0, states + 1)) for name in PER_STATE}


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of all parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
