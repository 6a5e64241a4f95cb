"""The file of the states that decide."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deqpipe.errors import UserError
from deqpipe.results import early_states
from deqpipe.results.early_states import EarlyState
from tests.results.edits import edit, without_digest

CHOSEN = {"plain": EarlyState(2, (0.25, 0.5), 0.5, 8), "entropy": EarlyState(1, (0.75, 0.5), 0.25, 8)}
ORIGIN = {"spec": {"stage": "select"}}
TEXT = """{
 "entropy": {
  "accuracy": [
   0.75,
   0.5
  ],
  "final": 0.25,
  "n": 8,
  "state": 1
 },
 "plain": {
  "accuracy": [
   0.25,
   0.5
  ],
  "final": 0.5,
  "n": 8,
  "state": 2
 },
 "provenance": {
  "spec": {
   "stage": "select"
  }
 }
}
"""


def test_early_states_are_written_as_ever_and_read_as_they_were(tmp_path: Path) -> None:
    early_states.write(tmp_path / "select.json", CHOSEN, ORIGIN)
    assert without_digest(tmp_path / "select.json") == TEXT
    assert early_states.read(tmp_path / "select.json", ("plain", "entropy")) == (CHOSEN, ORIGIN)


def test_only_the_defences_that_are_asked_for_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "select.json"
    early_states.write(path, {"plain": CHOSEN["plain"]}, ORIGIN)
    assert early_states.read(path, ("plain",))[0] == {"plain": CHOSEN["plain"]}
    with pytest.raises(UserError, match="lacks 'entropy', so it is no file of early states"):
        early_states.read(path, ("plain", "entropy"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("final"), "lacks 'final', so it is no file of early states"),
        (lambda one: one.update(state=1.5), "is no file of early states: 1.5 is no whole number"),
        (lambda one: one.update(accuracy=None), "is no file of early states: "),
        (lambda one: one.update(accuracy=["0.5", 0.5]), "is no file of early states: '0.5' is no number"),
        (lambda one: one.update(state=0), "choose state 0, but the solver has states 1 to 2"),
        (lambda one: one.update(state=3), "choose state 3, but the solver has states 1 to 2"),
        (lambda one: one.update(final=50), r"have accuracies of 0.25 to 50.0, but these are in \[0, 1\]"),
    ],
)
def test_what_is_no_early_state_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "select.json"
    early_states.write(path, CHOSEN, ORIGIN)
    edit(path, lambda raw: change(raw["plain"]))
    with pytest.raises(UserError, match=message):
        early_states.read(path, ("plain", "entropy"))
