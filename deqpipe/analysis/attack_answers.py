"""Right and wrong answers to attacked images that are no plain grid: transferred, crafted in the loop, or a sweep's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis.decisions import Attacks, Source, Tree, check_specs, finished, ordered, refuse_uncomputed
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.results.records import Records
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow import gridpoints, shards, stages
from deqpipe.workflow.gridpoints import GridPoint

_COLUMNS = ("image", "label", "model", "defence", "crafted_on", "state", "steps", "damping", "predicted")
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """Answers of one decision at the state that decides.

    Attributes:
        points: the attacks, in their sort order (lambda, i, K_a).
        right: (points, images).
    """

    points: tuple[GridPoint, ...]
    right: Correct

    @property
    def strongest(self) -> str:
        """The attack with the lowest accuracy, as (i, K_a, lambda)."""
        return self.points[intervals.strongest(self.right)].triple

    def among(self, points: Sequence[GridPoint]) -> "Scored":
        """The same for some of the attacks; each must be there."""
        return Scored(tuple(points), self.right[[self.points.index(point) for point in points]])


def read(
    tree: Tree,
    stage: stages.StageName,
    crafter: str,
    paths: Sequence[Path],
    *,
    keep: Callable[[Records], Mask] | None = None,
) -> Records:
    """The records of a stage, or those of their rows that `keep` selects.

    Raises:
        UserError: files are missing, of another configuration, or of images that were crafted on another model.
    """
    parts = []
    for path in paths:
        found = records.read(path, _COLUMNS)
        check_specs(tree, stage, crafter, found.provenance, path)
        foreign = found["crafted_on"] != crafter
        if foreign.any():
            raise UserError(f"{path} holds images crafted on {found['crafted_on'][foreign][0]}, but must on {crafter}")
        parts.append(found if keep is None else found.where(keep(found)))
    return records.merge(parts)


def sources(tree: Tree, paths: Sequence[Path], found: Records) -> tuple[Source, ...]:
    """The files that were read, and where they come from."""
    pairs = zip(paths, found.provenance, strict=True)
    return tuple(tree.source(path, entry) for path, entry in pairs)


def score(rows: Records, ran: Attacks, *, state: int, config: Config, where: str) -> Scored:
    """The answers at a state, counted from 1, to the attacks that ran on all images.

    Raises:
        UserError: rows are missing, doubled, or of other attacks or images; an image has two labels; or the state was
            not computed.
    """
    images = config.evaluation.images
    whole = finished(rows, ran, config, where=where)
    order = ordered(whole, ran.points, images=images, where=where)
    labels = whole["label"][order].reshape(-1, images)
    if (labels != labels[0]).any():
        raise UserError(f"{where} give one image different labels")
    refuse_uncomputed(whole["predicted"], state, where)
    right: Correct = whole["predicted"][order, state - 1].reshape(-1, images) == labels
    return Scored(ran.points, right)


def few(rows: Records, most: int, config: Config, *, where: str) -> Attacks:
    """The attacks of the grid that the rows are of, where the strongest of them were taken.

    Raises:
        UserError: they are not as many as the configuration asks for.
    """
    grid = gridpoints.grid_points(config)
    found = tuple(point for point in grid if rows.under(point).any())
    wanted = min(most, len(grid))
    lacking = len(found) < (1 if shards.races(config) else wanted)  # a race may leave fewer
    if lacking or len(found) > wanted:
        raise UserError(f"{where} hold {len(found)} attacks of the grid, but must hold {wanted}")
    return Attacks(found, (), ())
