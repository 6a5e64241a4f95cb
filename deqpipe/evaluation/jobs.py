"""The evaluation jobs: clean accuracy, the attack grid, PGD at the final state, early-state selection."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deqpipe import records, specs
from deqpipe.config import EarlyState, Pgd, TrainingAttack
from deqpipe.defence.early_state import best_state
from deqpipe.device import describe
from deqpipe.errors import UserError
from deqpipe.evaluation.rows import (
    Chunk,
    Columns,
    FreshReferences,
    StoredReferences,
    attack_rows,
    clean_rows,
    craft,
)
from deqpipe.evaluation.subject import Job, Subject, load_subject
from deqpipe.lock import EXIT_UNFINISHED, StopRequest, locked
from deqpipe.provenance import provenance

_logger = logging.getLogger(__name__)

STARTS = "attack/start"  # random starts on test images; on validation images they have a stream of their own
SELECTION_STARTS = "selection/start"


def clean(job: Job) -> int:
    """Judge the test images as they are; returns the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    columns = clean_rows(subject, _test_images(subject, subject.settings["evaluation.images"]))
    records.write(job.output, columns, provenance=_provenance(subject, job.spec, started))
    return 0


def attack_pgd(job: Job) -> int:
    """Attack at the final state only (ResNets and the trunk); returns the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    chunk = _test_images(subject, subject.settings["evaluation.images"])
    references = FreshReferences(subject, chunk)
    columns = attack_rows(subject, subject.final_point(), chunk, references=references, purpose=STARTS)
    records.write(job.output, columns, provenance=_provenance(subject, job.spec, started))
    return 0


def attack_point(job: Job, *, point: specs.GridPoint, images: range) -> int:
    """Attack one grid point, for a closer look; returns the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    _check_point(subject, point)
    chunk = Chunk(subject.dataset.test, images)
    _check_images(subject, images)
    references = FreshReferences(subject, chunk)
    columns = attack_rows(subject, point, chunk, references=references, purpose=STARTS)
    origin = _provenance(subject, specs.point_spec(job.spec), started)
    records.write(job.output, columns, provenance=origin)
    _logger.info("%s", _scores(columns))
    return 0


@dataclass(frozen=True)
class GridShard:
    """The part of the attack grid that one job takes.

    Attributes:
        states: first and last surrogate state i.
        images: test images.
        state: folder of finished points.
        budget_minutes: the job leaves, with its finished points kept, when they are over.
    """

    states: tuple[int, int]
    images: range
    state: Path
    budget_minutes: float

    @property
    def name(self) -> str:
        """As in `specs.shard_names`."""
        return f"states{self.states[0]}-{self.states[1]}_images{self.images.start}-{self.images.stop - 1}"

    def file(self, point: specs.GridPoint, weights: str) -> Path:
        """Where the finished point of a model with these weights is kept."""
        name = f"{point.name}_images{self.images.start}-{self.images.stop - 1}.parquet"
        return self.state / "points" / weights / name


def attack_grid(job: Job, shard: GridShard) -> int:
    """Attack every point of a shard and score it on every decision; returns the exit status."""
    subject = load_subject(job)
    _check_images(subject, shard.images)
    points = _points(subject, shard)
    with locked(shard.state / "locks" / shard.name), StopRequest(shard.budget_minutes) as stop:
        still_open = [point for point in points if not _is_finished(subject, shard, point)]
        if len(still_open) < len(points):
            _logger.info("%d of %d points are finished already", len(points) - len(still_open), len(points))
        finished = _finish_points(subject, shard, still_open, stop)
        if finished == 0 and still_open and not stop.signalled:
            raise UserError(f"not one point finished within {shard.budget_minutes:g} minutes: allow more time")
    if finished < len(still_open):
        return EXIT_UNFINISHED
    _publish(subject, shard, points)
    return 0


def _points(subject: Subject, shard: GridShard) -> list[specs.GridPoint]:
    """The points of the grid whose state the shard covers; the ready-made one is always part of the grid."""
    settings, (first, last), final = subject.settings, shard.states, subject.final_point()
    assert final is not None, "only DEQs have a grid"
    if not 1 <= first <= last <= final.state:
        raise UserError(f"states {first} to {last} were asked for, but the solver has states 1 to {final.state}")
    grid = {
        specs.GridPoint(damping, state, steps)
        for damping in settings["attack.grid.damping"]
        for state in settings["attack.grid.states"]
        for steps in settings["attack.grid.steps"]
    }
    points = sorted(point for point in grid | {final} if first <= point.state <= last)
    if not points:
        raise UserError(f"states {first} to {last} hold no point of the grid")
    return points


def _finish_points(subject: Subject, shard: GridShard, points: list[specs.GridPoint], stop: StopRequest) -> int:
    """Compute points until asked to stop; how many were computed."""
    chunk = Chunk(subject.dataset.test, shard.images)
    references: StoredReferences | None = None
    for number, point in enumerate(points):
        if stop.should_stop():
            return number
        started, evaluations = time.monotonic(), subject.f_evaluations
        references = references or StoredReferences(subject, chunk)
        columns = attack_rows(subject, point, chunk, references=references, purpose=STARTS)
        origin = _provenance(subject, specs.point_spec(subject.job.spec), started, evaluations)
        records.write(shard.file(point, subject.loaded.weights), columns, provenance=origin)
        _logger.info("%d/%d %s: %s", number + 1, len(points), point.name, _scores(columns))
    return len(points)


def _is_finished(subject: Subject, shard: GridShard, point: specs.GridPoint) -> bool:
    file = shard.file(point, subject.loaded.weights)
    if not file.exists():
        return False
    found = records.read(file, ("image",)).provenance[0]["spec"]
    if specs.dumps(found) != specs.dumps(specs.point_spec(subject.job.spec)):
        raise UserError(f"finished point {file} belongs to another spec; delete {shard.state}")
    return True


def _publish(subject: Subject, shard: GridShard, points: list[specs.GridPoint]) -> None:
    merged = records.merge([records.read(shard.file(point, subject.loaded.weights)) for point in points])
    origin = provenance(
        subject.job.spec,
        device=describe(subject.job.device),
        inputs=subject.job.inputs,
        weights=subject.loaded.weights,
        seconds=sum(part["seconds"] for part in merged.provenance),
        f_evaluations=sum(part["f_evaluations"] for part in merged.provenance),
    )
    records.write(subject.job.output, merged.columns, provenance=origin)


def select_early_state(job: Job) -> int:
    """Choose the state that decides, per defence, under ready-made PGD on the held-out images; the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    split = getattr(subject.dataset, subject.settings["selection.split"])
    chunk = Chunk(split, range(len(split)))
    hits = {judge.defence: np.concatenate(parts) for judge, parts in _validation_hits(subject, chunk)}
    mode = subject.settings.section("early_state", EarlyState)
    chosen: dict[str, Any] = {}
    for defence, correct in hits.items():
        accuracy = [float(value) for value in correct.mean(0)]
        state = mode.index if mode.mode == "fixed" else best_state(accuracy[:-1])
        chosen[defence] = {"state": state, "accuracy": accuracy[:-1], "final": accuracy[-1], "n": len(correct)}
        _logger.info("%s: state %d of %d, %.1f %%", defence, state, len(accuracy) - 1, 100 * accuracy[state - 1])
    chosen["provenance"] = _provenance(subject, job.spec, started)
    records.write_text(job.output, json.dumps(chosen, indent=1, sort_keys=True) + "\n")
    return 0


def _validation_hits(subject: Subject, chunk: Chunk) -> Iterator[tuple[Any, list[np.ndarray]]]:
    """Per judge, whether each image is right at each state under the ready-made attack."""
    attack = TrainingAttack.model_validate(subject.settings["selection.attack"])
    clamp: bool = subject.settings["attack.pgd.clamp_start"]
    pgd = Pgd(steps=attack.steps, step_size_255=attack.step_size_255, clamp_start=clamp)
    hits: dict[str, list[np.ndarray]] = {judge.defence: [] for judge in subject.judges}
    for images in chunk.batches(subject.job.batch_size):
        _, y = chunk.load(images, subject.job.device)
        adversarial = craft(subject, subject.final_point(), chunk, images, pgd=pgd, purpose=SELECTION_STARTS).images
        for judge in subject.judges:
            predicted = judge(adversarial, y, None).columns["predicted"]
            hits[judge.defence].append(predicted == y.cpu().numpy()[:, None])
    return ((judge, hits[judge.defence]) for judge in subject.judges)


def _test_images(subject: Subject, count: int) -> Chunk:
    chunk = Chunk(subject.dataset.test, range(count))
    _check_images(subject, chunk.images)
    return chunk


def _check_images(subject: Subject, images: range) -> None:
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
    size, last = subject.job.batch_size, min(there, subject.settings["evaluation.images"])
    if images.start % size or images.stop > last or (images.stop % size and images.stop != last):
        raise UserError(
            f"test images {images.start} to {images.stop - 1} were asked for, but the solver couples the images of a "
            f"batch: the first must be a multiple of evaluation.batch_size ({size}), and no batch may be cut short"
        )


def _check_point(subject: Subject, point: specs.GridPoint) -> None:
    last = subject.settings["solver"]["steps"]
    if not (1 <= point.state <= last and point.steps >= 1 and 0 < point.damping <= 1):
        raise UserError(f"point is {point.name}, but states are 1 to {last}, steps at least 1, damping in (0, 1]")


def _scores(columns: Columns) -> str:
    """Accuracy at z^[N] per defence."""
    correct = columns["predicted"][:, max(columns["predicted"].shape[1] - 2, 0)] == columns["label"]
    names = [name for name in ("plain", "entropy") if name in columns["defence"]]
    return ", ".join(f"{name} {correct[columns['defence'] == name].mean():.1%}" for name in names)


def _provenance(subject: Subject, spec: Mapping[str, Any], started: float, evaluations: int = 0) -> dict[str, Any]:
    return provenance(
        spec,
        device=describe(subject.job.device),
        inputs=subject.job.inputs,
        weights=subject.loaded.weights,
        seconds=time.monotonic() - started,
        f_evaluations=subject.f_evaluations - evaluations,
    )
