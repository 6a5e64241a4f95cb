"""From judgements to the rows of a records file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from deqpipe.attack.pgd import PGD, Attacked, cross_entropy_objective, uniform_start
from deqpipe.config import Pgd
from deqpipe.data import Split
from deqpipe.evaluation.judge import Judge, Judgement, StatesWithFinal
from deqpipe.evaluation.subject import Subject
from deqpipe.records import PER_STATE
from deqpipe.specs import GridPoint

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
        return judge(*self.chunk.load(images, self.subject.job.device), None).states


class StoredReferences:
    """Clean states kept on the CPU: for a chunk that is attacked at many points.

    A DEQ's states take (N + 1) * state size * 4 bytes per image and defence: 2.2 MB with MDEQ-Large.
    """

    def __init__(self, subject: Subject, chunk: Chunk) -> None:
        """Compute and keep the states of all judges on a chunk."""
        self._device, self._first = subject.job.device, chunk.images.start
        self._states: dict[str, Tensor] = {}
        fresh = FreshReferences(subject, chunk)
        for judge in subject.judges:
            for images in chunk.batches(subject.job.batch_size):
                self._keep(judge, images, fresh(judge, images), size=len(chunk.images))

    def _keep(self, judge: Judge, images: range, states: Tensor | None, *, size: int) -> None:
        assert states is not None, "only DEQs are attacked at many points"
        if judge.defence not in self._states:
            shape = (len(states), size, states.shape[2])
            self._states[judge.defence] = torch.empty(shape, dtype=states.dtype)
        self._states[judge.defence][:, self._where(images)] = states.cpu()

    def _where(self, images: range) -> slice:
        return slice(images.start - self._first, images.stop - self._first)

    def __call__(self, judge: Judge, images: range) -> StatesWithFinal | None:
        """The kept states of these images."""
        return self._states[judge.defence][:, self._where(images)].to(self._device)


def craft(
    subject: Subject, point: GridPoint | None, chunk: Chunk, images: range, *, pgd: Pgd, purpose: str
) -> Attacked:
    """PGD on the surrogate of a point. Random starts are keyed by image: all points of a seed share them."""
    x, y = chunk.load(images, subject.job.device)
    start = uniform_start(x, ball=subject.ball, stream=subject.stream(purpose), images=images, clamp=pgd.clamp_start)
    attack = PGD(subject.ball, steps=pgd.steps, step_size=pgd.step_size_255 / 255)
    return attack(cross_entropy_objective(subject.logits_of(point), y), x, start=start)


def attack_rows(
    subject: Subject,
    point: GridPoint | None,
    chunk: Chunk,
    *,
    references: References,
    purpose: str,
) -> Columns:
    """Rows of one attack on a chunk, scored by every judge and every control of the subject.

    Controls have no reference, so that their deviation from the clean states is not a number.

    Args:
        subject: the model; it both crafts and decides.
        point: the surrogate; None for an ordinary network.
        chunk: the images.
        references: where the states of the clean images come from.
        purpose: of the random starts.
    """
    pgd = subject.settings.section("attack.pgd", Pgd)
    parts = []
    for images in chunk.batches(subject.job.batch_size):
        x, y = chunk.load(images, subject.job.device)
        attacked = craft(subject, point, chunk, images, pgd=pgd, purpose=purpose)
        change = subject.ball.distance(attacked.images, x)
        assert float(change.max()) <= subject.ball.epsilon + 1e-6, "an attack left its ball"
        facts = {
            "attack": "pgd",
            "crafted_on": subject.name,
            "state": point.state if point else 0,
            "steps": point.steps if point else 0,
            "damping": point.damping if point else 0.0,
            "perturbation": change.cpu().numpy(),
            "lost_gradient": attacked.lost_gradient.cpu().numpy(),
        }
        for judge in subject.judges:
            judged = judge(attacked.images, y, references(judge, images))
            parts.append(rows(subject, judge, judged, images, y, facts))
        for judge in subject.controls:
            parts.append(rows(subject, judge, judge(attacked.images, y, None), images, y, facts))
    return joined(parts)


def clean_rows(subject: Subject, chunk: Chunk) -> Columns:
    """Rows of the images as they are."""
    parts: list[Columns] = []
    facts = {"attack": "clean", "crafted_on": "", "state": 0, "steps": 0, "damping": 0.0,
             "perturbation": 0.0, "lost_gradient": np.nan}  # fmt: skip
    for images in chunk.batches(subject.job.batch_size):
        x, y = chunk.load(images, subject.job.device)
        judges = (*subject.judges, *subject.controls)
        parts += [rows(subject, judge, judge(x, y, None), images, y, facts) for judge in judges]
    return joined(parts)


def rows(subject: Subject, judge: Judge, judged: Judgement, images: range, y: Tensor, facts: dict[str, Any]) -> Columns:
    """One row per image; `facts` are the same for all rows, or arrays with one value per image."""
    columns: dict[str, Any] = {"model": subject.name, "defence": judge.defence, **facts}
    columns |= {"image": np.array(images), "label": y.cpu().numpy(), "status": judged.status}
    full = {name: np.broadcast_to(np.asarray(value), (len(images),)) for name, value in columns.items()}
    return full | {name: judged.columns[name] for name in PER_STATE}


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of all parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
