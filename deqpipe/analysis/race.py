"""Which attacks stay in the race: the points that could still be the strongest of some decision, as JSON."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deqpipe.analysis.answers import before_race
from deqpipe.analysis.early_states import early_states
from deqpipe.analysis.layout import AttacksOf, Tree
from deqpipe.analysis.reading import Files, Judge, RowQuery
from deqpipe.config import RaceConfig
from deqpipe.errors import UserError
from deqpipe.results import race
from deqpipe.results.provenance import provenance
from deqpipe.results.race import Race
from deqpipe.statistics import racing
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow import gridpoints, shards, specs, vocabulary
from deqpipe.workflow.defences import ENTROPY
from deqpipe.workflow.stages import StageName

_logger = logging.getLogger(__name__)


def write(tree: Tree, model: str, *, of: AttacksOf, output: Path) -> None:
    """Let attacks race on the images that face all of them, and write which go on.

    An attack goes on if it could be the strongest of any decision that is scored. The ready-made attack always does.

    Args:
        tree: the results.
        model: the attacked DEQ.
        of: the attacks of the grid, or those of Table 5.
        output: the file.

    Raises:
        UserError: nothing races, or records or early states are missing, incomplete or of another configuration.
    """
    stage: StageName = "race_sweep" if of == "sweep" else "race"
    spec = specs.build(stage, tree.config, model=model, seed=tree.seed)  # refuses other models
    settings = _raced(tree, of)
    paths = (tree.sweep if of == "sweep" else tree.attacked)(model, below=shards.race_cut(tree.config))
    files = tree.opened("attack_sweep" if of == "sweep" else "attack_grid", model, paths)
    points = survivors(tree, model, files, of=of, confidence=settings.confidence)
    every = len(gridpoints.grid_points(tree.config))
    result = Race(points, every, shards.race_cut(tree.config), settings.confidence)
    # No seconds: a race run again must be the same file, or every job after it would run again.
    told = provenance(spec, device="CPU", inputs={path.name: path for path in paths}, seconds=0.0)
    race.write(output, result, told)
    _logger.info("%d of %d attacks go on", len(points), every)


def _raced(tree: Tree, of: AttacksOf) -> RaceConfig:
    """The race of these attacks.

    Raises:
        UserError: they do not race.
    """
    config = tree.config
    settings = shards.race(config)
    if settings is None:
        said = f"racing.images is {config.racing.images}" if config.racing.enabled else "racing.enabled is false"
        raise UserError(f"{said}: all {config.evaluation.images} test images face every attack, and nothing races")
    if of == "sweep" and not shards.races_in_sweep(config):
        raise UserError(
            f"entropy_sweep.points is {config.entropy_sweep.points}, but must be all: only the whole grid races"
        )
    return settings


def survivors(
    tree: Tree, model: str, files: Files, *, of: AttacksOf, confidence: float
) -> tuple[gridpoints.GridPoint, ...]:
    """The points that go on, in their sort order.

    Args:
        tree: the results.
        model: the attacked DEQ.
        files: the records of the images that face every attack.
        of: which attacks.
        confidence: probability that the strongest attack of a decision stays.
    """
    points = gridpoints.grid_points(tree.config)
    scored = answers(tree, files, _sweep_states(tree, model) if of == "sweep" else _grid_states(tree, model))
    stay = [racing.survivors(right, confidence=confidence) for right in scored.values()]
    stay.append(np.array([point == gridpoints.ready_made(tree.config) for point in points]))
    return tuple(point for point, goes_on in zip(points, np.any(stay, axis=0), strict=True) if goes_on)


def answers(tree: Tree, files: Files, states: Mapping[Judge, int]) -> dict[Judge, Correct]:
    """Per decision, at the state that decides: (points, images).

    Args:
        tree: the results.
        files: the records of the images that face every attack.
        states: that decide, counted from 1.
    """
    asked = {judge: RowQuery(state - 1) for judge, state in states.items()}
    return {
        judge: before_race(rows, tree.config, state=states[judge], where=f"attack records of {judge[0]}, {judge[1]},")
        for judge, rows in tree.rows(files, asked, "label", "predicted").items()
    }


def _grid_states(tree: Tree, model: str) -> dict[Judge, int]:
    """Of every decision that the grid is scored on, transferred images included."""
    deciding: dict[Judge, int] = {}
    for judge in filter(None, (model, vocabulary.transfers_to(tree.config, model))):
        early, kind = early_states(tree, judge), vocabulary.MODELS[judge]
        controls = kind.controls(tree.config.entropy) if judge == model else ()
        deciding |= {(judge, defence): early[defence].state for defence in (*kind.defences, *controls)}
    return deciding


def _sweep_states(tree: Tree, model: str) -> dict[Judge, int]:
    """Of every T_f and R: the early state of Sec. 3.2."""
    state = early_states(tree, model)[ENTROPY.name].state
    return {(model, setting.defence): state for setting in gridpoints.entropy_settings(tree.config)}
