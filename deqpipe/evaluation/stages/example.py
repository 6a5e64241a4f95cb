"""The image of Figure 2 (c): crafted again from its random stream, and kept together with the clean one."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deqpipe.config import PgdConfig
from deqpipe.errors import UserError
from deqpipe.evaluation.crafting import Attack, craft
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import STARTS, Chunk
from deqpipe.evaluation.judge import CLASSES
from deqpipe.evaluation.resumable import origin
from deqpipe.machine import stopping
from deqpipe.results import early_states, example, records
from deqpipe.results.example import Example
from deqpipe.results.records import Records
from deqpipe.workflow import specs
from deqpipe.workflow.defences import PLAIN

_COLUMNS = ("image", "label", "model", "defence", "state", "steps", "damping", "predicted", "margin")


@dataclass(frozen=True)
class ExampleImage:
    """The image that is shown.

    Attributes:
        image: its index.
        fooled: whether the decision is right about it when clean, and wrong under the ready-made attack.
        shard: the records that say so: of the chunk that it was crafted in.
    """

    image: int
    fooled: bool
    shard: Records


def attack_example(job: EvaluationJob, *, select: Path, clean: Path, grid: Path) -> int:
    """Write the first test image that the ready-made attack turns, clean and attacked; returns the exit status.

    Where no image is turned it is the first one that is right when clean, or else the first one.

    Args:
        job: the call; the output is an npz file.
        select: early states of the model.
        clean: its records on clean images.
        grid: folder of its shards of the grid; those without the ready-made attack, or of another spec, are ignored.

    Raises:
        UserError: a file is missing, cannot be read or is of another configuration; images are missing; or the image
            crafted again is not the one of the records.
    """
    started = time.monotonic()
    evaluated = load_evaluated_model(replace(job, results={"select": select, "clean": clean}))
    early = _early_state(select, job.spec)
    before = _of_plain(records.read(clean, _COLUMNS), evaluated)
    _check_origin(clean, before.provenance[0], "clean", evaluated)
    choice = _choose(before, _shards(grid, evaluated), early)
    with stopping.keeping_nothing():
        x, attacked = _crafted_again(evaluated, choice)
    shown = Example(
        clean=x.cpu().numpy(),
        attacked=attacked.cpu().numpy(),
        image=choice.image,
        label=int(evaluated.dataset.test.labels[choice.image]),
        fooled=choice.fooled,
        early_state=early,
        classes=evaluated.dataset.classes,
    )
    example.write(job.output, shown, origin(evaluated, job.spec, started))
    return 0


def _early_state(path: Path, spec: Mapping[str, Any]) -> int:
    """The state that decides without Sec. 3.2."""
    chosen, provenance = early_states.read(path, (PLAIN.name,))
    if specs.fingerprint(provenance["spec"]) != spec["upstream"]["select"]:
        raise UserError(f"early states {path} are of another configuration, model or seed than the spec")
    return chosen[PLAIN.name].state


def _check_origin(path: Path, told: Mapping[str, Any], stage: str, evaluated: EvaluatedModel) -> None:
    if specs.fingerprint(told["spec"]) != evaluated.job.spec["upstream"][stage]:
        raise UserError(f"records {path} are of another configuration, model or seed than the spec")
    if told["weights"] != evaluated.weights:
        raise UserError(f"records {path} are of other weights than {evaluated.job.checkpoint}")


def _of_plain(stored: Records, evaluated: EvaluatedModel) -> Records:
    """The rows of the undefended decision, in the order of images."""
    rows = stored.where((stored["defence"] == "plain") & (stored["model"] == evaluated.name))
    return rows.where(np.argsort(rows["image"], kind="stable"))


def _shards(folder: Path, evaluated: EvaluatedModel) -> list[Records]:
    """The rows of the undefended decision under the ready-made attack, shard by shard, in the order of images.

    Shards of jobs that were cut otherwise may lie there as well, and go on behind the last image that is evaluated.
    """
    point, upstream = evaluated.final_point(), evaluated.job.spec["upstream"]
    assert point is not None, "only DEQs have a grid"
    shards = []
    for path in sorted(folder.glob("states*_images*.parquet")):
        stored = records.read(path, _COLUMNS)
        if specs.fingerprint(stored.provenance[0]["spec"]) != upstream["attack_grid"]:
            continue  # left from another configuration
        _check_origin(path, stored.provenance[0], "attack_grid", evaluated)
        part = _of_plain(stored.where(stored.under(point)), evaluated)
        shards += [part] if len(part) else []
    count: int = evaluated.settings["evaluation.images"]  # a race leaves the ready-made attack in
    cover = _in_sequence(shards, count=count)
    if cover is None:
        lacking = set(range(count)).difference(*(shard["image"].tolist() for shard in shards))
        first = f", the first of them {min(lacking)}" if lacking else " in shards that follow each other"
        raise UserError(
            f"grid {folder} lacks the ready-made attack on {len(lacking) or count} of {count} images{first}"
        )
    return cover


def _in_sequence(shards: Sequence[Records], *, count: int) -> list[Records] | None:
    """Shards that follow each other from the first image on, until there are so many; None: there are no such."""
    leads_to_the_end: dict[int, Records] = {}
    for shard in sorted(shards, key=lambda shard: int(shard["image"][0]), reverse=True):
        behind = int(shard["image"][-1]) + 1
        if behind >= count or behind in leads_to_the_end:
            leads_to_the_end[int(shard["image"][0])] = shard
    cover, image = [], 0
    while image < count:
        if image not in leads_to_the_end:
            return None
        cover.append(leads_to_the_end[image])
        image = int(cover[-1]["image"][-1]) + 1
    return cover


def _choose(clean: Records, shards: list[Records], early: int) -> ExampleImage:
    """The first image that is turned; else the first that is right when clean; else the first."""
    right = dict(zip(clean["image"].tolist(), _is_right(clean, early), strict=True))
    for shard in shards:
        for image, withstands in zip(shard["image"].tolist(), _is_right(shard, early), strict=True):
            if right.get(image, False) and not withstands:
                return ExampleImage(image, True, shard)
    attacked = [image for shard in shards for image in shard["image"].tolist() if image in right]
    image = next((image for image in attacked if right[image]), attacked[0])
    return ExampleImage(image, False, next(shard for shard in shards if image in shard["image"]))


def _is_right(rows: Records, state: int) -> list[bool]:
    right: list[bool] = (rows["predicted"][:, state - 1] == rows["label"]).tolist()
    return right


def _crafted_again(evaluated: EvaluatedModel, choice: ExampleImage) -> tuple[Tensor, Tensor]:
    """The image as it is and attacked, (channels, height, width): crafted among the images that it met in the grid."""
    held = choice.shard["image"]
    chunk = Chunk(evaluated.dataset.test, range(int(held[0]), int(held[-1]) + 1))
    images = next(batch for batch in chunk.batches(evaluated.batch_size) if choice.image in batch)
    pgd, where = evaluated.settings.section("attack.pgd", PgdConfig), images.index(choice.image)
    made = craft(evaluated, Attack(evaluated.final_point()), chunk, images, pgd=pgd, purpose=STARTS).images
    x, y = chunk.load(images, evaluated.job.device)
    plain = next(judge for judge in evaluated.judges if judge.defence == "plain")
    judged = plain.restricted(CLASSES)(made, y).columns
    again = {name: judged[name][where] for name in ("predicted", "margin")}
    _check_same(choice, again, tolerance=_TOLERANCE[evaluated.settings["precision"]])
    return x[where], made[where]


_TOLERANCE = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 1e-1}
"""Of margins of images that were crafted in other batches."""


def _check_same(choice: ExampleImage, again: Mapping[str, np.ndarray], *, tolerance: float) -> None:
    """Refuse an image other than that of the records: it would be shown beside what was measured on another."""
    recorded = choice.shard.where(choice.shard["image"] == choice.image)
    close = np.allclose(again["margin"], recorded["margin"][0], rtol=tolerance, atol=tolerance)
    if not close or (again["predicted"] != recorded["predicted"][0]).any():
        raise UserError(
            f"test image {choice.image}, crafted again, is classified as {again['predicted'].tolist()} along the "
            f"states, but as {recorded['predicted'][0].tolist()} in the grid: computed on another device, or with "
            "another --batch-size"
        )
