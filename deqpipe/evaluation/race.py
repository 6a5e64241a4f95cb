"""The points of the grid that are left in a race."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from deqpipe.errors import UserError
from deqpipe.evaluation.evaluated_model import EvaluatedModel
from deqpipe.workflow.gridpoints import GridPoint


def left_in_race(
    path: Path,
    subject: EvaluatedModel,
    images: range,
    *,
    among: Collection[GridPoint],
    of: Literal["race", "race_sweep"],
) -> set[GridPoint]:
    """The points that `deqpipe race` left for the images behind the race.

    Args:
        path: the file that it wrote.
        subject: whose points race.
        images: that are to be attacked.
        among: the points that took part.
        of: the stage of the race: over the grid, or over Table 5.

    Raises:
        UserError: the file cannot be read, is of another race or model, or names other points; or some of the images
            face every attack.
    """
    if "racing" not in subject.settings:
        raise UserError(f"--race is {path}, but the spec has no racing")
    cut = subject.settings["racing"]["images"]
    if images.start < cut:
        raise UserError(
            f"test images {images.start} to {images.stop - 1} were asked for with --race, "
            f"but images 0 to {cut - 1} face every attack"
        )
    names = _read(path, subject.job.spec, stage=of).get("points")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"race {path} holds no list of points")
    left = {GridPoint.parse(name) for name in names}
    unknown = sorted(left - set(among))
    if unknown:
        raise UserError(
            f"race {path} has the point {unknown[0].name}, which is none of the {len(among)} that are attacked"
        )
    return left


def _read(path: Path, spec: Mapping[str, Any], *, stage: str) -> dict[str, Any]:
    """A JSON object of a stage, of the same model and seed as the spec."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made_by = found["provenance"]["spec"]
        there = (made_by["stage"], made_by["model"], made_by["seed"])
    except OSError as error:
        raise UserError(f"race {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} holds no race: not written by `deqpipe race`") from None
    wanted = (stage, spec["model"], spec["seed"])
    if there != wanted:
        raise UserError(
            f"race {path} is a {there[0]} of {there[1]} of seed {there[2]}, but must be a {wanted[0]} of {wanted[1]} "
            f"of seed {wanted[2]}"
        )
    return found
