"""Which attacks stay in the race: the points that could still be the strongest of some decision, as JSON."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from deqpipe.analysis import decisions
from deqpipe.analysis.decisions import Kind, Tree
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.results.provenance import provenance
from deqpipe.results.records import Records
from deqpipe.statistics import racing
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow import gridpoints, shards, specs, stages, vocabulary

_logger = logging.getLogger(__name__)


def write(tree: Tree, model: str, *, of: Kind, output: Path) -> None:
    """Let attacks race on the images that face all of them, and write which go on.

    An attack goes on if it could be the strongest of any decision that is scored. The ready-made attack always does.

    Args:
        tree: the results.
        model: the attacked DEQ.
        of: the attacks of the grid, or those of Table 5.
        output: the JSON file: `points` (names) left `of` so many, the `images` and `confidence` behind it, provenance.

    Raises:
        UserError: nothing races, or records or early states are missing, incomplete or of another configuration.
    """
    stage: stages.StageName = "race_sweep" if of == "sweep" else "race"
    spec = specs.build(stage, tree.config, model=model, seed=tree.seed)  # refuses other models
    _check_race(tree, of)
    paths = (tree.sweep if of == "sweep" else tree.attacked)(model, below=shards.race_cut(tree.config))
    found = decisions.load(tree, "attack_sweep" if of == "sweep" else "attack_grid", model, paths)
    points = left(tree, model, found, of=of)
    every = len(gridpoints.grid_points(tree.config))
    raced = {
        "points": [point.name for point in points],
        "of": every,
        "images": shards.race_cut(tree.config),
        "confidence": tree.config.racing.confidence,
        # No seconds: a race run again must be the same file, or every job after it would run again.
        "provenance": provenance(spec, device="CPU", inputs={path.name: path for path in paths}, seconds=0.0),
    }
    records.write_text(output, json.dumps(raced, indent=1, sort_keys=True) + "\n")
    _logger.info("%d of %d attacks go on", len(points), every)


def _check_race(tree: Tree, of: Kind) -> None:
    config = tree.config
    if not shards.races(config):
        said = f"racing.images is {config.racing.images}" if config.racing.enabled else "racing.enabled is false"
        raise UserError(f"{said}: all {config.evaluation.images} test images face every attack, and nothing races")
    if of == "sweep" and not shards.races_in_sweep(config):
        raise UserError(
            f"entropy_sweep.points is {config.entropy_sweep.points}, but must be all: only the whole grid races"
        )


def left(tree: Tree, model: str, found: Records, *, of: Kind) -> tuple[gridpoints.GridPoint, ...]:
    """The points that go on, in their sort order.

    Args:
        tree: the results.
        model: the attacked DEQ.
        found: the records of the images that face every attack.
        of: which attacks.
    """
    points, confidence = gridpoints.grid_points(tree.config), tree.config.racing.confidence
    scored = _sweep_answers(tree, model, found) if of == "sweep" else _grid_answers(tree, model, found)
    stay = [racing.survivors(right, confidence=confidence) for right in scored]
    stay.append(np.array([point == gridpoints.ready_made(tree.config) for point in points]))
    return tuple(point for point, goes_on in zip(points, np.any(stay, axis=0), strict=True) if goes_on)


def _grid_answers(tree: Tree, model: str, found: Records) -> Iterator[Correct]:
    """Per decision that the grid is scored on, transferred images included: (points, images)."""
    for judge in filter(None, (model, vocabulary.transfers_to(tree.config, model))):
        early = decisions.early_states(tree, judge)
        kind = vocabulary.MODELS[judge]
        controls = kind.controls(tree.config.entropy) if judge == model else ()
        for defence in (*kind.defences, *controls):
            yield _answers(tree, found, judge=judge, defence=defence, state=early[defence].state)


def _sweep_answers(tree: Tree, model: str, found: Records) -> Iterator[Correct]:
    """Per T_f and R, which decide at the early state of Sec. 3.2: (points, images)."""
    state = decisions.early_states(tree, model)["entropy"].state
    for setting in gridpoints.entropy_settings(tree.config):
        yield _answers(tree, found, judge=model, defence=setting.defence, state=state)


def _answers(tree: Tree, found: Records, *, judge: str, defence: str, state: int) -> Correct:
    rows = found.where((found["model"] == judge) & (found["defence"] == defence))
    right = decisions.before_race(rows, tree.config, where=f"attack records of {judge}, {defence},")
    return right[:, :, state - 1]
