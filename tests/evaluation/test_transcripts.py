"""Transcripts in files."""

from pathlib import Path

import pytest
import torch

from deqpipe.attack.transcript import Kept
from deqpipe.counts import NO_EVALUATIONS
from deqpipe.evaluation.transcripts import transcript
from deqpipe.machine.stopping import Interrupted

SPEC = {"stage": "autoattack", "seed": 0}


def leave(path: Path, *, questions: int = 1) -> Interrupted:
    """An attack that is left after some questions."""
    with (  # noqa: PT012
        pytest.raises(Interrupted) as caught,
        transcript(path, SPEC, counted=lambda: NO_EVALUATIONS) as recorder,
    ):
        ask = recorder.watching(lambda x: 2 * x)
        for number in range(questions):
            ask(torch.full((1, 2), float(number)))
        raise Interrupted("SIGTERM")
    return caught.value


def known(path: Path, spec: dict[str, object] = SPEC) -> Kept:
    with transcript(path, spec, counted=lambda: NO_EVALUATIONS) as recorder:
        return recorder._earlier


def test_what_was_asked_is_kept_and_said(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    why = leave(path, questions=3)
    assert (why.reason, why.kept) == ("SIGTERM", "3 more answers to the attack under way")
    assert [answer.value.tolist() for answer in known(path).answers] == [[[0, 0]], [[2, 2]], [[4, 4]]]
    assert leave(path, questions=4).kept == "1 more answer to the attack under way"


def test_nothing_new_is_nothing_kept(tmp_path: Path) -> None:
    assert leave(tmp_path / "x.safetensors", questions=0).kept == ""
    assert not list(tmp_path.iterdir())


def test_a_damaged_transcript_is_set_aside_and_one_of_another_spec_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.safetensors"
    leave(path)
    assert known(path, {"stage": "autoattack", "seed": 1}) == Kept()
    assert path.exists()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert known(path) == Kept()
    assert "is damaged" in caplog.messages[-1]
    assert [left.name for left in tmp_path.iterdir()] == ["x.safetensors.damaged"]
