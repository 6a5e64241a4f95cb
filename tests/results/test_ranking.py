"""The file of ranked points."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deqpipe.errors import UserError
from deqpipe.results import ranking
from deqpipe.results.ranking import RankedPoint, Ranking
from deqpipe.workflow.gridpoints import GridPoint
from tests.results.edits import edit, without_digest

STRONG, WEAK = RankedPoint(GridPoint(0.5, 4, 2), 3, 12), RankedPoint(GridPoint(1.0, 3, 1), 5, 12)
RANKING = Ranking({"plain": 4, "entropy": 3}, {"plain": (STRONG, WEAK), "entropy": (WEAK,)})
ORIGIN = {"spec": {"stage": "strongest"}, "seed": 0}
TEXT = """{
 "early": {
  "plain": 4,
  "entropy": 3
 },
 "plain": [
  {
   "state": 4,
   "steps": 2,
   "damping": 0.5,
   "correct": 3,
   "n": 12
  },
  {
   "state": 3,
   "steps": 1,
   "damping": 1.0,
   "correct": 5,
   "n": 12
  }
 ],
 "entropy": [
  {
   "state": 3,
   "steps": 1,
   "damping": 1.0,
   "correct": 5,
   "n": 12
  }
 ],
 "provenance": {
  "spec": {
   "stage": "strongest"
  },
  "seed": 0
 }
}
"""


def test_a_ranking_is_written_as_ever_and_read_as_it_was(tmp_path: Path) -> None:
    ranking.write(tmp_path / "strongest.json", RANKING, ORIGIN)
    assert without_digest(tmp_path / "strongest.json") == TEXT
    assert ranking.read(tmp_path / "strongest.json", states=4) == (RANKING, ORIGIN)
    assert RANKING.points("plain") == (STRONG.point, WEAK.point)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("entropy"), "lacks 'entropy', so it is no ranking of points"),
        (lambda raw: raw["early"].pop("plain"), "lacks 'plain', so it is no ranking of points"),
        (lambda raw: raw["plain"][0].pop("steps"), "lacks 'steps', so it is no ranking of points"),
        (lambda raw: raw["plain"][0].update(n="many"), "is no ranking of points: 'many' is no whole number"),
        (lambda raw: raw.update(plain=[3]), "is no ranking of points: "),
        (lambda raw: raw.update(entropy=[]), "ranks no point: its grid is empty"),
        (lambda raw: raw["early"].update(plain=9), "has states 3 to 9, but the solver has states 1 to 4"),
        (lambda raw: raw["entropy"][0].update(state=0), "has states 0 to 4, but the solver has states 1 to 4"),
        (lambda raw: raw["plain"][1].update(steps=0), "ranks state3_steps0_damping1.0, but steps are at least 1"),
        (lambda raw: raw["plain"][1].update(damping=1.5), r"damping1.5, but .* damping is in \(0, 1\]"),
    ],
)
def test_what_is_no_ranking_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "strongest.json"
    ranking.write(path, RANKING, ORIGIN)
    edit(path, change)
    with pytest.raises(UserError, match=message) as refused:
        ranking.read(path, states=4)
    assert str(refused.value).startswith(str(path))
