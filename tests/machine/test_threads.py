"""How many threads a command computes with."""

import os

import pytest

from deqpipe.cli import build_parser
from deqpipe.machine import threads


@pytest.mark.parametrize(
    ("told", "asked", "settled"), [(None, None, "1"), (None, 4, "4"), ("6", None, "6"), ("6", 4, "6")]
)
def test_what_the_user_has_set_stands_and_otherwise_what_the_command_was_asked_for(
    told: str | None, asked: int | None, settled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(threads.VARIABLE, told or "")
    if told is None:
        monkeypatch.delenv(threads.VARIABLE)
    threads.settle(asked)
    assert os.environ[threads.VARIABLE] == settled


@pytest.mark.parametrize(("told", "usual"), [("", 1), ("3", 3), ("3,2", 3), ("0", 1), ("all", 1)])
def test_a_command_takes_as_many_as_the_user_has_set_for_all(
    told: str, usual: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(threads.VARIABLE, told)
    files = ["predict", "model", "images", "output"]
    assert build_parser().parse_args(files).threads == usual
    assert build_parser().parse_args([*files, "--threads", "2"]).threads == 2
