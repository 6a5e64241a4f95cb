"""The points that a race left, which alone are attacked on the later images (JSON)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqpipe.errors import UserError
from deqpipe.results import document
from deqpipe.workflow.gridpoints import GridPoint


@dataclass(frozen=True)
class Race:
    """The result of a race.

    Attributes:
        points: that go on.
        of: how many took part.
        images: on how many test images, counted from the first.
        confidence: with which the strongest point of every decision is among those that go on.
    """

    points: tuple[GridPoint, ...]
    of: int
    images: int
    confidence: float


def write(path: Path, race: Race, provenance: Mapping[str, Any]) -> None:
    """Write a race; one that is run again must write the same file, or every job behind it would run again."""
    names = [point.name for point in race.points]
    content = {"points": names, "of": race.of, "images": race.images, "confidence": race.confidence}
    document.write(path, content, provenance)


def read(path: Path) -> tuple[Race, dict[str, Any]]:
    """A race and its provenance.

    Raises:
        UserError: the file is missing or no result of a race, or no point is left, which never happens.
    """
    content, provenance = document.read(path)
    with document.understood(path, as_what="result of a race"):
        race = Race(
            points=tuple(GridPoint.parse(document.text(name)) for name in _listed(content["points"])),
            of=document.whole(content["of"]),
            images=document.whole(content["images"]),
            confidence=document.number(content["confidence"]),
        )
    if not race.points:
        raise UserError(f"{path} names nothing, but must name points of the grid")
    return race, provenance


def _listed(names: Any) -> list[Any]:
    if not isinstance(names, list):
        raise TypeError(f"its points are {names!r}, and not a list")
    return names
