"""The file of a race."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deqpipe.errors import UserError
from deqpipe.results import race
from deqpipe.results.race import Race
from deqpipe.workflow.gridpoints import GridPoint
from tests.results.edits import edit, without_digest

RACE = Race((GridPoint(0.5, 4, 2), GridPoint(1.0, 3, 1)), of=17, images=120, confidence=0.8)
ORIGIN = {"spec": {"stage": "race"}}
TEXT = """{
 "confidence": 0.8,
 "images": 120,
 "of": 17,
 "points": [
  "state4_steps2_damping0.5",
  "state3_steps1_damping1.0"
 ],
 "provenance": {
  "spec": {
   "stage": "race"
  }
 }
}
"""


def test_a_race_is_written_as_ever_and_read_as_it_was(tmp_path: Path) -> None:
    race.write(tmp_path / "race.json", RACE, ORIGIN)
    assert without_digest(tmp_path / "race.json") == TEXT
    assert race.read(tmp_path / "race.json") == (RACE, ORIGIN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(points=[]), "names nothing, but must name points of the grid"),
        (lambda raw: raw.update(points="state1_steps1_damping0.5"), "is no result of a race: its points are 'state1"),
        (lambda raw: raw.update(points=[3]), "is no result of a race: 3 is no text"),
        (
            lambda raw: raw.update(points=["third"]),
            "is no result of a race: point is 'third', but must look like state3_steps5",
        ),
        (lambda raw: raw.update(images="all"), "is no result of a race: 'all' is no whole number"),
        (lambda raw: raw.pop("confidence"), "lacks 'confidence', so it is no result of a race"),
    ],
)
def test_what_is_no_race_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = tmp_path / "race.json"
    race.write(path, RACE, ORIGIN)
    edit(path, change)
    with pytest.raises(UserError, match=message) as refused:
        race.read(path)
    assert str(refused.value).startswith(str(path))
    assert str(refused.value).count(str(path)) == 1
