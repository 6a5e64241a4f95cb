"""The points of the grid that earlier jobs chose: those left in a race, and the strongest."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from deqpipe.errors import UserError
from deqpipe.evaluation.evaluated_model import EvaluatedModel
from deqpipe.results import race, ranking
from deqpipe.results.ranking import Ranking
from deqpipe.workflow import vocabulary
from deqpipe.workflow.gridpoints import GridPoint


def left_in_race(
    path: Path,
    evaluated: EvaluatedModel,
    images: range,
    *,
    among: Collection[GridPoint],
    of: Literal["race", "race_sweep"],
) -> set[GridPoint]:
    """The points that `deqpipe race` left for the images behind the race.

    Args:
        path: the file that it wrote.
        evaluated: whose points race.
        images: that are to be attacked.
        among: the points that took part.
        of: the stage of the race: over the grid, or over Table 5.

    Raises:
        UserError: the file cannot be read, is of another race or model, or names other points; or some of the images
            face every attack.
    """
    if "racing" not in evaluated.settings:
        raise UserError(f"--race is {path}, but the spec has no racing")
    cut = evaluated.settings["racing"]["images"]
    if images.start < cut:
        raise UserError(
            f"test images {images.start} to {images.stop - 1} were asked for with --race, "
            f"but images 0 to {cut - 1} face every attack"
        )
    result, provenance = race.read(path)
    _refuse_other_job(path, provenance, evaluated.job.spec, stage=of)
    unknown = sorted(set(result.points) - set(among))
    if unknown:
        raise UserError(
            f"race {path} has the point {unknown[0].name}, which is none of the {len(among)} that are attacked"
        )
    return set(result.points)


def strongest_points(evaluated: EvaluatedModel) -> Ranking:
    """The ranked points of a job's model.

    Raises:
        UserError: the file is not named, missing, no such file, or of another model or seed.
    """
    path = evaluated.job.strongest
    if path is None:
        raise UserError(f"--strongest is missing, but {evaluated.name} is attacked at the strongest point of its grid")
    result, provenance = ranking.read(
        path, states=evaluated.settings["solver"]["steps"], defences=vocabulary.MODELS[evaluated.name].defences
    )
    _refuse_other_job(path, provenance, evaluated.job.spec, stage="strongest")
    return result


def _refuse_other_job(path: Path, provenance: Mapping[str, Any], spec: Mapping[str, Any], *, stage: str) -> None:
    made_by = provenance["spec"]
    there = (made_by.get("stage"), made_by.get("model"), made_by.get("seed"))
    wanted = (stage, spec["model"], spec["seed"])
    if there != wanted:
        told, asked = (f"stage {one[0]}, {one[1]} of seed {one[2]}" for one in (there, wanted))
        raise UserError(f"{path} is of {told}, but must be of {asked}")
