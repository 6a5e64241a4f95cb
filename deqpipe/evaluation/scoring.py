"""What decisions make of images, as rows of a records file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from deqpipe.attack.pgd import Attacked
from deqpipe.compute.host import to_host
from deqpipe.config import PgdConfig
from deqpipe.evaluation.batching import has_room
from deqpipe.evaluation.crafting import Attack, craft_together
from deqpipe.evaluation.evaluated_model import EvaluatedModel
from deqpipe.evaluation.images import Chunk
from deqpipe.evaluation.judge import Judge, Judgement, StatesWithFinal
from deqpipe.results.records import PER_STATE, SCALARS
from deqpipe.shapes import Images, Labels
from deqpipe.workflow.gridpoints import GridPoint

Columns = dict[str, np.ndarray]


@runtime_checkable
class References(Protocol):
    """Where the states of clean images come from, which deviations are measured from."""

    def __call__(self, judge: Judge, images: range) -> StatesWithFinal | None:
        """The states that a judge sees on these images, on the device; None for an ordinary network."""
        ...


@dataclass(frozen=True)
class FreshReferences:
    """Clean states computed when asked for: for a chunk that is attacked once."""

    evaluated: EvaluatedModel
    chunk: Chunk

    def __call__(self, judge: Judge, images: range) -> StatesWithFinal | None:
        """The states that a judge sees on these images."""
        x, _ = self.chunk.load(images, self.evaluated.job.device)
        return judge.states(x)


class StoredReferences:
    """Clean states that are kept: for a chunk that is attacked at many points.

    A DEQ's states take (N + 1) * state size * 4 bytes per image and defence: 2.2 MB with MDEQ-Large. They stay on the
    device where these are a small part of its free memory, and on the CPU elsewhere.
    """

    def __init__(self, evaluated: EvaluatedModel, chunk: Chunk) -> None:
        """Compute and keep the states of all judges on a chunk."""
        self._device, self._first = evaluated.job.device, chunk.images.start
        self._states: dict[str, Tensor] = {}
        fresh = FreshReferences(evaluated, chunk)
        for judge in evaluated.judges:
            for images in chunk.batches(evaluated.batch_size):
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
        judgements: dict[int, Judgement] = {}
        for behaviour in dict.fromkeys(judge.behaviour for judge in judges):
            alike = [number for number, judge in enumerate(judges) if judge.behaviour == behaviour]
            seen = judges[alike[0]].see(x, y)
            judgements |= {number: seen.measured_from(starts[number]).on_host() for number in alike}
        return [judgements[number] for number in range(len(judges))]


def panel_of(evaluated: EvaluatedModel) -> Panel:
    """The judges of a grid: every decision and control of the evaluated model, and those that it is transferred to."""
    return Panel(evaluated.judges, (*evaluated.controls, *evaluated.transferred))


def attack_rows(
    evaluated: EvaluatedModel,
    point: GridPoint | None,
    chunk: Chunk,
    *,
    references: References,
    purpose: str,
) -> Columns:
    """Rows of one attack on a chunk, scored by every judge and every control of the evaluated model.

    Args:
        evaluated: the model; it both crafts and decides.
        point: the surrogate; None for an ordinary network.
        chunk: the images.
        references: where the states of the clean images come from.
        purpose: of the random starts.
    """
    panel = panel_of(evaluated)
    return attacks_rows(evaluated, [Attack(point)], chunk, panel=panel, references=references, purpose=purpose)[0]


def together(evaluated: EvaluatedModel, chunk: Chunk) -> int:
    """How many attacks' images of a chunk are judged at once: one, where images of a batch influence each other."""
    if "evaluation.batch_size" in evaluated.settings:
        return 1
    return max(1, evaluated.batch_size // len(chunk.images))


def attacks_rows(
    evaluated: EvaluatedModel,
    attacks: Sequence[Attack],
    chunk: Chunk,
    *,
    panel: Panel,
    references: References | None,
    purpose: str,
    pgd: PgdConfig | None = None,
) -> list[Columns]:
    """Rows of several attacks on a chunk, one set per attack; the images of all of them are judged at once.

    Args:
        evaluated: the model that crafts.
        attacks: at most as many as go `together`.
        chunk: the images.
        panel: who judges them.
        references: where the states of the clean images come from; None: `panel.compared` is empty.
        purpose: of the random starts.
        pgd: the attack; None: that of the settings.
    """
    pgd = pgd or evaluated.settings.section("attack.pgd", PgdConfig)
    parts: list[list[Columns]] = [[] for _ in attacks]
    for images in chunk.batches(evaluated.batch_size):
        (x, y), label = chunk.load(images, evaluated.job.device), chunk.labels(images)
        crafted = craft_together(evaluated, attacks, chunk, images, pgd=pgd, purpose=purpose)
        stacked = torch.cat([made.images for made in crafted])
        clean = [_repeated(references(judge, images), len(attacks)) for judge in panel.compared] if references else []
        judgements = panel.judge(stacked, y.repeat(len(attacks)), clean)
        for number, (attack, made) in enumerate(zip(attacks, crafted, strict=True)):
            facts = _facts(evaluated, attack, made, x)
            own = slice(number * len(images), (number + 1) * len(images))
            for judge, judged in zip((*panel.compared, *panel.others), judgements, strict=True):
                parts[number].append(record_rows(judge, judged.part(own), images, label, facts))
    return [joined(part) for part in parts]


def _repeated(states: Tensor | None, times: int) -> Tensor | None:
    """The states of the same images, for every attack on them."""
    return states if states is None or times == 1 else states.repeat(1, times, 1)


def _facts(evaluated: EvaluatedModel, attack: Attack, made: Attacked, x: Images) -> dict[str, Any]:
    """What holds for all judges of one attack."""
    point, change = attack.point, evaluated.ball.distance(made.images, x)
    measured = to_host({"perturbation": change, "lost_gradient": made.lost_gradient})
    assert measured["perturbation"].max() <= evaluated.ball.epsilon + 1e-6, "an attack left its ball"
    return {
        "attack": attack.name,
        "crafted_on": evaluated.name,
        "state": point.state if point else 0,
        "steps": point.steps if point else 0,
        "damping": point.damping if point else 0.0,
        **measured,
    }


def clean_rows(evaluated: EvaluatedModel, chunk: Chunk) -> Columns:
    """Rows of the images as they are."""
    parts: list[Columns] = []
    facts = {"attack": "clean", "crafted_on": "", "state": 0, "steps": 0, "damping": 0.0,
             "perturbation": 0.0, "lost_gradient": np.nan}  # fmt: skip
    panel = Panel((), (*evaluated.judges, *evaluated.controls))
    for images in chunk.batches(evaluated.batch_size):
        (x, y), label = chunk.load(images, evaluated.job.device), chunk.labels(images)
        judged = zip(panel.others, panel.judge(x, y, ()), strict=True)
        parts += [record_rows(judge, judgement, images, label, facts) for judge, judgement in judged]
    return joined(parts)


def record_rows(
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
