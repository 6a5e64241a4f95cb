"""From judgements to the rows of a records file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    references: dict[str, StatesWithFinal] | None,
    purpose: str,
) -> Columns:
    """Rows of one attack on a chunk, scored by every judge of the subject.

    Args:
        subject: the model; it both crafts and decides.
        point: the surrogate; None for an ordinary network.
        chunk: the images.
        references: states of the clean images per defence, on the CPU; None where there are no states.
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
            reference = _slice(references, judge, images, chunk, subject.job.device)
            judged = judge(attacked.images, y, reference)
            parts.append(rows(subject, judge, judged, images, y, facts))
    return joined(parts)


def _slice(
    references: dict[str, StatesWithFinal] | None, judge: Judge, images: range, chunk: Chunk, device: torch.device
) -> Tensor | None:
    if references is None:
        return None
    first = chunk.images.start
    return references[judge.defence][:, images.start - first : images.stop - first].to(device)


def clean_rows(subject: Subject, chunk: Chunk) -> tuple[Columns, dict[str, StatesWithFinal]]:
    """Rows of the images as they are, and their states per defence, on the CPU."""
    parts: list[Columns] = []
    states: dict[str, list[Tensor]] = {judge.defence: [] for judge in subject.judges}
    facts = {"attack": "clean", "crafted_on": "", "state": 0, "steps": 0, "damping": 0.0,
             "perturbation": 0.0, "lost_gradient": np.nan}  # fmt: skip
    for images in chunk.batches(subject.job.batch_size):
        x, y = chunk.load(images, subject.job.device)
        for judge in subject.judges:
            judged = judge(x, y, None)
            parts.append(rows(subject, judge, judged, images, y, facts))
            if judged.states is not None:
                states[judge.defence].append(judged.states.cpu())
    return joined(parts), {defence: torch.cat(part, dim=1) for defence, part in states.items() if part}


def rows(subject: Subject, judge: Judge, judged: Judgement, images: range, y: Tensor, facts: dict[str, Any]) -> Columns:
    """One row per image; `facts` are the same for all rows, or arrays with one value per image."""
    columns: dict[str, Any] = {"model": subject.name, "defence": judge.defence, **facts}
    columns |= {"image": np.array(images), "label": y.cpu().numpy(), "status": judged.status}
    full = {name: np.broadcast_to(np.asarray(value), (len(images),)) for name, value in columns.items()}
    return full | {name: judged.columns[name] for name in PER_STATE}


def joined(parts: Sequence[Columns]) -> Columns:
    """The rows of all parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
