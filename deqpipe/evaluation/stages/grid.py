"""The attacks of Eq. (11): a part of the grid on a part of the images."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deqpipe.errors import UserError
from deqpipe.evaluation.chosen_points import left_in_race
from deqpipe.evaluation.crafting import Attack
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model, load_transferring
from deqpipe.evaluation.images import STARTS, Chunk, check_images
from deqpipe.evaluation.resumable import Groups, Part, PieceResult, origin, run_groups, scores
from deqpipe.evaluation.scoring import (
    FreshReferences,
    Panel,
    References,
    StoredReferences,
    attack_rows,
    attacks_rows,
    panel_of,
    together,
)
from deqpipe.lazy import Lazy
from deqpipe.results import records
from deqpipe.workflow import gridpoints, specs

_logger = logging.getLogger(__name__)


def attack_point(job: EvaluationJob, *, point: gridpoints.GridPoint, images: range) -> int:
    """Attack one grid point, for a closer look; returns the exit status."""
    started, evaluated = time.monotonic(), load_evaluated_model(job)
    _check_point(evaluated, point)
    chunk = Chunk(evaluated.dataset.test, images)
    check_images(evaluated, images)
    references = FreshReferences(evaluated, chunk)
    columns = evaluated.batching.backing_off(
        lambda: attack_rows(evaluated, point, chunk, references=references, purpose=STARTS)
    )
    records.write(job.output, columns, provenance=origin(evaluated, specs.point_spec(job.spec), started))
    _logger.info("%s, images %d-%d: %s", point.name, images[0], images[-1], scores(columns))
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
        """As in `shards.shard_names`."""
        return f"states{self.states[0]}-{self.states[1]}_{self.part.name}"


def attack_grid(job: EvaluationJob, shard: GridShard) -> int:
    """Attack every point of a shard and score it on every decision; returns the exit status."""
    results = {} if shard.race is None else {"race": shard.race}
    evaluated = load_transferring(replace(job, results=results))
    check_images(evaluated, shard.part.images)
    chunk = Chunk(evaluated.dataset.test, shard.part.images)
    attacks = {point.name: Attack(point) for point in _points(evaluated, shard)}
    references = Lazy(lambda: StoredReferences(evaluated, chunk))
    groups = attack_groups(evaluated, attacks, chunk, panel=panel_of(evaluated), references=references)
    return run_groups(evaluated, shard.part, groups, piece_spec=specs.point_spec(job.spec), name=shard.name)


def attack_groups(
    evaluated: EvaluatedModel,
    attacks: Mapping[str, Attack],
    chunk: Chunk,
    *,
    panel: Panel,
    references: Callable[[], References] | None = None,
) -> Groups:
    """One piece per attack on the test images of a chunk, in groups that are judged at once.

    Args:
        evaluated: the model that crafts.
        attacks: by the names of their pieces.
        chunk: the images.
        panel: who judges them.
        references: gives the states of the clean images, which `panel.compared` asks for; the same when asked again.
    """

    def compute(names: Sequence[str]) -> list[PieceResult]:
        clean_states = references() if references else None
        results: list[PieceResult] = []
        size = together(evaluated, chunk)  # smaller than that of the groups where memory has run out meanwhile
        for first in range(0, len(names), size):
            group = [attacks[name] for name in names[first : first + size]]
            parts = attacks_rows(evaluated, group, chunk, panel=panel, references=clean_states, purpose=STARTS)
            results += [PieceResult(columns) for columns in parts]
        return results

    groups = Groups(tuple(attacks), compute, size=together(evaluated, chunk))
    return groups if references is None else replace(groups, prepare=references)


def _points(evaluated: EvaluatedModel, shard: GridShard) -> list[gridpoints.GridPoint]:
    """The points of the grid whose state the shard covers; the ready-made one is always part of the grid.

    With a race, those of them that are left in it; there may be none.
    """
    (first, last), final = shard.states, evaluated.final_point()
    assert final is not None, "only DEQs have a grid"
    if not 1 <= first <= last <= final.state:
        raise UserError(f"states {first} to {last} were asked for, but the solver has states 1 to {final.state}")
    everywhere = grid_points(evaluated)
    points = [point for point in everywhere if first <= point.state <= last]
    if not points:
        raise UserError(f"states {first} to {last} hold no point of the grid")
    if shard.race is None:
        return points
    left = left_in_race(shard.race, evaluated, shard.part.images, among=everywhere, of="race")
    return [point for point in points if point in left]


def grid_points(evaluated: EvaluatedModel) -> list[gridpoints.GridPoint]:
    """Every point of the grid that the settings describe, sorted."""
    settings, final = evaluated.settings, evaluated.final_point()
    grid = {
        gridpoints.GridPoint(damping, state, steps)
        for damping in settings["attack.grid.damping"]
        for state in settings["attack.grid.states"]
        for steps in settings["attack.grid.steps"]
    }
    return sorted(grid | ({final} if final else set()))


def _check_point(evaluated: EvaluatedModel, point: gridpoints.GridPoint) -> None:
    last = evaluated.settings["solver"]["steps"]
    if not (1 <= point.state <= last and point.steps >= 1 and 0 < point.damping <= 1):
        raise UserError(f"point is {point.name}, but states are 1 to {last}, steps at least 1, damping in (0, 1]")
