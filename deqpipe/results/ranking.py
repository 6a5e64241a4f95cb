"""The points of a DEQ's grid from the strongest, for each of its decisions: what later attacks start from (JSON)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqpipe.errors import UserError
from deqpipe.results import document
from deqpipe.results.document import number, whole
from deqpipe.workflow.defences import DECIDING
from deqpipe.workflow.gridpoints import GridPoint


@dataclass(frozen=True)
class RankedPoint:
    """A point, and how the decision fared under it.

    Attributes:
        point: of the grid.
        correct: attacked images that it was right about.
        n: images.
    """

    point: GridPoint
    correct: int
    n: int


@dataclass(frozen=True)
class Ranking:
    """What `deqpipe strongest` found.

    Attributes:
        early: the state that decides, per defence.
        ranked: the points, per defence, the strongest first.
    """

    early: Mapping[str, int]
    ranked: Mapping[str, tuple[RankedPoint, ...]]

    def points(self, defence: str) -> tuple[GridPoint, ...]:
        """The points against a decision, the strongest first."""
        return tuple(one.point for one in self.ranked[defence])


def write(path: Path, ranking: Ranking, provenance: Mapping[str, Any]) -> None:
    """Write a ranking, in the order of its defences."""
    ranked = {defence: [_entry(one) for one in points] for defence, points in ranking.ranked.items()}
    document.write(path, {"early": dict(ranking.early), **ranked}, provenance, sort_keys=False)


def _entry(one: RankedPoint) -> dict[str, Any]:
    point = one.point
    return {"state": point.state, "steps": point.steps, "damping": point.damping, "correct": one.correct, "n": one.n}


def read(path: Path, *, states: int, defences: Iterable[str] = DECIDING) -> tuple[Ranking, dict[str, Any]]:
    """A ranking and its provenance.

    Args:
        path: of the file.
        states: of the solver.
        defences: that it must rank the points for.

    Raises:
        UserError: the file is missing or no ranking for each of these, or holds points or states that there cannot be.
    """
    content, provenance = document.read(path)
    with document.understood(path, as_what="ranking of points"):
        early: dict[str, int] = {defence: whole(content["early"][defence]) for defence in defences}
        ranking = Ranking(early, {defence: _ranked(content[defence]) for defence in early})
    _check(ranking, path, states)
    return ranking, provenance


def _ranked(entries: Sequence[Mapping[str, Any]]) -> tuple[RankedPoint, ...]:
    return tuple(RankedPoint(_point(entry), whole(entry["correct"]), whole(entry["n"])) for entry in entries)


def _point(entry: Mapping[str, Any]) -> GridPoint:
    return GridPoint(damping=number(entry["damping"]), state=whole(entry["state"]), steps=whole(entry["steps"]))


def _check(ranking: Ranking, path: Path, last: int) -> None:
    if not all(ranking.ranked.values()):
        raise UserError(f"{path} ranks no point: its grid is empty")
    points = [one.point for ranked in ranking.ranked.values() for one in ranked]
    states = [*ranking.early.values(), *(point.state for point in points)]
    if not all(1 <= state <= last for state in states):
        raise UserError(f"{path} has states {min(states)} to {max(states)}, but the solver has states 1 to {last}")
    for point in points:
        if point.steps < 1 or not 0 < point.damping <= 1:
            raise UserError(f"{path} ranks {point.name}, but steps are at least 1 and damping is in (0, 1]")
