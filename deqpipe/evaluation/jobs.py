"""The evaluation jobs: clean accuracy, the attack grid, PGD at the final state, early-state selection."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deqpipe.config import EarlyState, Pgd, TrainingAttack
from deqpipe.defence.early_state import best_state
from deqpipe.errors import UserError
from deqpipe.evaluation.evaluated_model import Job, Subject, load_subject, load_transferring
from deqpipe.evaluation.judge import CLASSES
from deqpipe.evaluation.race import left_in_race
from deqpipe.evaluation.resumable import Found, Groups, Part, origin, run_groups, scores
from deqpipe.evaluation.rows import (
    Attack,
    Chunk,
    FreshReferences,
    Panel,
    References,
    StoredReferences,
    attack_rows,
    attacks_rows,
    clean_rows,
    craft,
    panel_of,
    together,
)
from deqpipe.lazy import Lazy
from deqpipe.results import records
from deqpipe.workflow import gridpoints, specs

_logger = logging.getLogger(__name__)

STARTS = "attack/start"  # random starts on test images; on validation images they have a stream of their own
SELECTION_STARTS = "selection/start"


def clean(job: Job) -> int:
    """Judge the test images as they are; returns the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    chunk = _test_images(subject, subject.settings["evaluation.images"])
    columns = subject.batching.backing_off(lambda: clean_rows(subject, chunk))
    records.write(job.output, columns, provenance=origin(subject, job.spec, started))
    return 0


def attack_pgd(job: Job) -> int:
    """Attack at the final state only (ResNets and the trunk); returns the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    chunk = _test_images(subject, subject.settings["evaluation.images"])
    references = FreshReferences(subject, chunk)
    columns = subject.batching.backing_off(
        lambda: attack_rows(subject, subject.final_point(), chunk, references=references, purpose=STARTS)
    )
    records.write(job.output, columns, provenance=origin(subject, job.spec, started))
    return 0


def attack_point(job: Job, *, point: gridpoints.GridPoint, images: range) -> int:
    """Attack one grid point, for a closer look; returns the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    _check_point(subject, point)
    chunk = Chunk(subject.dataset.test, images)
    check_images(subject, images)
    references = FreshReferences(subject, chunk)
    columns = subject.batching.backing_off(
        lambda: attack_rows(subject, point, chunk, references=references, purpose=STARTS)
    )
    records.write(job.output, columns, provenance=origin(subject, specs.point_spec(job.spec), started))
    _logger.info("%s", scores(columns))
    return 0


@dataclass(frozen=True)
class GridShard:
    """The part of the attack grid that one job takes.

    Attributes:
        states: first and last surrogate state i.
        part: which images, and where finished points are kept.
        race: the points that are left in the race, by `deqpipe race`; None: all points.
    """

    states: tuple[int, int]
    part: Part
    race: Path | None = None

    @property
    def name(self) -> str:
        """As in `specs.shard_names`."""
        return f"states{self.states[0]}-{self.states[1]}_{self.part.name}"


def attack_grid(job: Job, shard: GridShard) -> int:
    """Attack every point of a shard and score it on every decision; returns the exit status."""
    results = {} if shard.race is None else {"race": shard.race}
    subject = load_transferring(replace(job, results=results))
    check_images(subject, shard.part.images)
    chunk = Chunk(subject.dataset.test, shard.part.images)
    attacks = {point.name: Attack(point) for point in _points(subject, shard)}
    references = Lazy(lambda: StoredReferences(subject, chunk))
    groups = attack_groups(subject, attacks, chunk, panel=panel_of(subject), references=references)
    return run_groups(subject, shard.part, groups, piece_spec=specs.point_spec(job.spec), name=shard.name)


def attack_groups(
    subject: Subject,
    attacks: Mapping[str, Attack],
    chunk: Chunk,
    *,
    panel: Panel,
    references: Callable[[], References] | None = None,
) -> Groups:
    """One piece per attack on the test images of a chunk, in groups that are judged at once.

    Args:
        subject: the model that crafts.
        attacks: by the names of their pieces.
        chunk: the images.
        panel: who judges them.
        references: gives the states of the clean images, which `panel.compared` asks for.
    """

    def compute(names: Sequence[str]) -> list[Found]:
        clean_states = references() if references else None
        found: list[Found] = []
        size = together(subject, chunk)  # smaller than that of the groups where memory has run out meanwhile
        for first in range(0, len(names), size):
            group = [attacks[name] for name in names[first : first + size]]
            parts = attacks_rows(subject, group, chunk, panel=panel, references=clean_states, purpose=STARTS)
            found += [Found(columns) for columns in parts]
        return found

    return Groups(tuple(attacks), compute, size=together(subject, chunk))


def _points(subject: Subject, shard: GridShard) -> list[gridpoints.GridPoint]:
    """The points of the grid whose state the shard covers; the ready-made one is always part of the grid.

    With a race, those of them that are left in it; there may be none.
    """
    (first, last), final = shard.states, subject.final_point()
    assert final is not None, "only DEQs have a grid"
    if not 1 <= first <= last <= final.state:
        raise UserError(f"states {first} to {last} were asked for, but the solver has states 1 to {final.state}")
    everywhere = grid_points(subject)
    points = [point for point in everywhere if first <= point.state <= last]
    if not points:
        raise UserError(f"states {first} to {last} hold no point of the grid")
    if shard.race is None:
        return points
    left = left_in_race(shard.race, subject, shard.part.images, among=everywhere, of="race")
    return [point for point in points if point in left]


def grid_points(subject: Subject) -> list[gridpoints.GridPoint]:
    """Every point of the grid that the subject's settings describe, sorted."""
    settings, final = subject.settings, subject.final_point()
    grid = {
        gridpoints.GridPoint(damping, state, steps)
        for damping in settings["attack.grid.damping"]
        for state in settings["attack.grid.states"]
        for steps in settings["attack.grid.steps"]
    }
    return sorted(grid | ({final} if final else set()))


def select_early_state(job: Job) -> int:
    """Choose the state that decides, per defence, under ready-made PGD on the held-out images; the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    split = getattr(subject.dataset, subject.settings["selection.split"])
    chunk = Chunk(split, range(len(split)))
    found = subject.batching.backing_off(lambda: list(_validation_hits(subject, chunk)))
    hits = {judge.defence: np.concatenate(parts) for judge, parts in found}
    mode = subject.settings.section("early_state", EarlyState)
    chosen: dict[str, Any] = {}
    for defence, correct in hits.items():
        accuracy = [float(value) for value in correct.mean(0)]
        state = mode.index if mode.mode == "fixed" else best_state(accuracy[:-1])
        chosen[defence] = {"state": state, "accuracy": accuracy[:-1], "final": accuracy[-1], "n": len(correct)}
        _logger.info("%s: state %d of %d, %.1f %%", defence, state, len(accuracy) - 1, 100 * accuracy[state - 1])
    chosen["provenance"] = origin(subject, job.spec, started)
    records.write_text(job.output, json.dumps(chosen, indent=1, sort_keys=True) + "\n")
    return 0


def _validation_hits(subject: Subject, chunk: Chunk) -> Iterator[tuple[Any, list[np.ndarray]]]:
    """Per judge, whether each image is right at each state under the ready-made attack."""
    recipe = TrainingAttack.model_validate(subject.settings["selection.attack"])
    clamp: bool = subject.settings["attack.pgd.clamp_start"]
    pgd = Pgd(steps=recipe.steps, step_size_255=recipe.step_size_255, clamp_start=clamp)
    judges = [judge.restricted(CLASSES) for judge in subject.judges]
    hits: dict[str, list[np.ndarray]] = {judge.defence: [] for judge in judges}
    for images in chunk.batches(subject.batch_size):
        y, label = chunk.load(images, subject.job.device)[1], chunk.labels(images)
        attack = Attack(subject.final_point())
        adversarial = craft(subject, attack, chunk, images, pgd=pgd, purpose=SELECTION_STARTS).images
        for judge in judges:
            predicted = judge(adversarial, y).columns["predicted"]
            hits[judge.defence].append(predicted == label[:, None])
    return ((judge, hits[judge.defence]) for judge in judges)


def _test_images(subject: Subject, count: int) -> Chunk:
    chunk = Chunk(subject.dataset.test, range(count))
    check_images(subject, chunk.images)
    return chunk


def check_images(subject: Subject, images: range) -> None:
    """Refuse test images that are not there, or that would cut a batch whose images influence each other.

    Raises:
        UserError: says which images are allowed.
    """
    there = len(subject.dataset.test)
    if not 0 <= images.start < images.stop <= there:
        raise UserError(
            f"test images {images.start} to {images.stop - 1} were asked for, but {subject.dataset.name} has "
            f"images 0 to {there - 1} (evaluation.images may be at most {there})"
        )
    _check_batches(subject, images, there=there)


def _check_batches(subject: Subject, images: range, *, there: int) -> None:
    """Refuse to cut batches where their images influence each other."""
    if "evaluation.batch_size" not in subject.settings:
        return
    size, last = subject.batch_size, min(there, subject.settings["evaluation.images"])
    if images.start % size or images.stop > last or (images.stop % size and images.stop != last):
        raise UserError(
            f"test images {images.start} to {images.stop - 1} were asked for, but the solver couples the images of a "
            f"batch: the first must be a multiple of evaluation.batch_size ({size}), and no batch may be cut short"
        )


def _check_point(subject: Subject, point: gridpoints.GridPoint) -> None:
    last = subject.settings["solver"]["steps"]
    if not (1 <= point.state <= last and point.steps >= 1 and 0 < point.damping <= 1):
        raise UserError(f"point is {point.name}, but states are 1 to {last}, steps at least 1, damping in (0, 1]")
