"""Table 5: the attacks of the grid, scored on Sec. 3.2 with other T_f and R."""

from dataclasses import replace
from pathlib import Path

from deqpipe import build
from deqpipe.config import EntropyConfig, EntropySweepConfig
from deqpipe.errors import UserError
from deqpipe.evaluation.chosen_points import left_in_race, strongest_points
from deqpipe.evaluation.crafting import Attack
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import Chunk, check_images
from deqpipe.evaluation.judge import CLASSES_ALONG, DEQJudge
from deqpipe.evaluation.resumable import Part, run_groups
from deqpipe.evaluation.scoring import Panel
from deqpipe.evaluation.stages.grid import attack_groups, grid_points
from deqpipe.model.classifier import DEQClassifier
from deqpipe.workflow import gridpoints
from deqpipe.workflow.defences import ENTROPY


def attack_sweep(job: EvaluationJob, part: Part, *, race: Path | None) -> int:
    """Craft the grid's images again and score them with every T_f and R; returns the exit status.

    The images are those of the grid bit for bit: same starts, undefended dynamics.

    Raises:
        UserError: a ranking or a race is missing, not asked for, or of another model; images are not there.
    """
    evaluated = load_evaluated_model(replace(job, results={} if race is None else {"race": race}))
    check_images(evaluated, part.images)
    attacks = {point.name: Attack(point) for point in _points(evaluated, part, race)}
    chunk = Chunk(evaluated.dataset.test, part.images)
    groups = attack_groups(evaluated, attacks, chunk, panel=Panel((), judges(evaluated)))
    return run_groups(evaluated, part, groups, piece_spec=job.spec)


def _points(evaluated: EvaluatedModel, part: Part, race: Path | None) -> list[gridpoints.GridPoint]:
    """The grid, or its strongest points; with a race those that are left in it."""
    job, count = evaluated.job, evaluated.settings.section("entropy_sweep", EntropySweepConfig).points
    if count == "all":
        if job.strongest is not None:
            raise UserError(f"--strongest is {job.strongest}, but the spec has entropy_sweep.points all")
        points = grid_points(evaluated)
    else:
        points = list(strongest_points(evaluated).points(ENTROPY.name)[:count])
    if race is None:
        return points
    left = left_in_race(race, evaluated, part.images, among=points, of="race_sweep")
    return [point for point in points if point in left]


def judges(evaluated: EvaluatedModel) -> tuple[DEQJudge, ...]:
    """One judge per T_f and R; those that are never updated, and R = 0 in Algorithm 1, are the undefended decision."""
    settings, sweep = evaluated.settings, evaluated.settings.section("entropy_sweep", EntropySweepConfig)
    model, entropy = evaluated.loaded.model, settings.section("entropy", EntropyConfig)
    assert isinstance(model, DEQClassifier)
    return tuple(
        DEQJudge(
            model,
            build.entropy_dynamics(settings, setting.keys(entropy, steps=settings["solver"]["steps"])),
            setting.defence,
            build.final_unroll(settings),
            evaluated.name,
            CLASSES_ALONG,
        )
        for setting in gridpoints.swept(sweep.solver_steps, sweep.input_steps)
    )
