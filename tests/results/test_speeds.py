"""The file of a timing job."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deqpipe.errors import UserError
from deqpipe.results import speeds
from deqpipe.results.speeds import Speed, Speeds
from tests.results.edits import edit, without_digest

OF_DECISIONS = Speeds(
    timed="settings", speeds={"plain": Speed.of((2.0, 1.5, 4.0))}, batch_size=96, warmup=1, repeats=3,
    precision="fp32", device="a processor", threads=1, load=((0.5, 0.4, 0.3), (1.0, 0.6, 0.4)),
)  # fmt: skip
OF_TRAININGS = replace(
    OF_DECISIONS, timed="methods", speeds={"a": Speed.of((2.0,), evaluations_per_image={"forward": 6.5})},
    steps_per_repeat=8, jacobian="left out",
)  # fmt: skip
ORIGIN = {"spec": {"stage": "time_inference"}}
TEXT = """{
 "batch_size": 96,
 "device": "a processor",
 "load": {
  "after": [
   1.0,
   0.6,
   0.4
  ],
  "before": [
   0.5,
   0.4,
   0.3
  ]
 },
 "precision": "fp32",
 "provenance": {
  "spec": {
   "stage": "time_inference"
  }
 },
 "repeats": 3,
 "settings": {
  "plain": {
   "high": 4.0,
   "images_per_second": [
    2.0,
    1.5,
    4.0
   ],
   "low": 1.5,
   "median": 2.0
  }
 },
 "threads": 1,
 "warmup": 1
}
"""


def test_speeds_of_decisions_are_written_as_ever_and_read_as_they_were(tmp_path: Path) -> None:
    speeds.write(tmp_path / "speeds.json", OF_DECISIONS, ORIGIN)
    assert without_digest(tmp_path / "speeds.json") == TEXT
    assert speeds.read(tmp_path / "speeds.json", "settings") == (OF_DECISIONS, ORIGIN)


def test_speeds_of_trainings_say_what_a_repeat_is_and_what_an_image_costs(tmp_path: Path) -> None:
    speeds.write(tmp_path / "speeds.json", OF_TRAININGS, ORIGIN)
    text = (tmp_path / "speeds.json").read_text()
    assert '"evaluations_per_image": {\n    "forward": 6.5\n   },' in text
    assert '"jacobian": "left out",' in text
    assert '"steps_per_repeat": 8,' in text
    assert speeds.read(tmp_path / "speeds.json", "methods") == (OF_TRAININGS, ORIGIN)


def test_a_speed_is_the_median_of_its_repeats_between_lowest_and_highest() -> None:
    assert Speed.of((3.0, 1.0, 2.0, 9.0)) == Speed((3.0, 1.0, 2.0, 9.0), 2.5, 1.0, 9.0)


def test_speeds_of_something_else_are_refused(tmp_path: Path) -> None:
    speeds.write(tmp_path / "speeds.json", OF_DECISIONS, ORIGIN)
    with pytest.raises(UserError, match="lacks 'methods', so it is no result of a timing job"):
        speeds.read(tmp_path / "speeds.json", "methods")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("load"), "lacks 'load', so it is no result of a timing job"),
        (lambda raw: raw.update(batch_size="many"), "is no result of a timing job: 'many' is no whole number"),
        (lambda raw: raw.update(device=None), "is no result of a timing job: None is no text"),
        (lambda raw: raw.update(settings=[]), "is no result of a timing job: "),
        (lambda raw: raw["settings"].update(other={}), "lacks 'images_per_second'"),
        (lambda raw: raw["settings"]["plain"].update(low=0.0), "ran at 2 images/s, 0 to 4, which must be positive"),
        (lambda raw: raw["settings"]["plain"].update(median=9), "ran at 9 images/s, 1.5 to 4, which must be"),
        (lambda raw: raw["settings"]["plain"].update(high=float("inf")), "which must be positive and in order"),
    ],
)
def test_what_is_no_result_of_a_timing_job_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "speeds.json"
    speeds.write(path, OF_DECISIONS, ORIGIN)
    edit(path, change)
    with pytest.raises(UserError, match=message) as refused:
        speeds.read(path, "settings")
    assert str(refused.value).startswith(str(path))
