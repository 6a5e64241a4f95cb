"""Faster ways are taken only where they prove themselves; everything else ends in the plain way and one line."""

import errno
import json
import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deqpipe.compute import ways
from deqpipe.compute.ways import PLAIN, Asked, TrialOutcome, Verdict, Way, choose, difference, judge
from deqpipe.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EVERYTHING = Asked(compiled=None, graphs=None)
VALUES = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)


@dataclass
class Scripted:
    """A trial whose ways do as they are told.

    Attributes:
        seconds: of a way; 1 where nothing stands.
        away: what a way adds to the values; 0 where nothing stands.
        failing: ways that raise.
        noise: what another order of the images adds.
        rounding: of a convolution.
    """

    seconds: Mapping[Way, float] = field(default_factory=dict)
    away: Mapping[Way, float] = field(default_factory=dict)
    failing: tuple[Way, ...] = ()
    noise: float = 1e-6
    rounding: float = torch.finfo(torch.float64).eps
    ran: list[Way] = field(default_factory=list)
    card: str = "a card"

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"device": self.card}

    def run(self, way: Way) -> TrialOutcome:
        self.ran.append(way)
        if way in self.failing:
            raise RuntimeError("no kernel\nfor this")
        return TrialOutcome((VALUES + self.away.get(way, 0.0),), self.seconds.get(way, 1.0))

    def reordered(self, way: Way) -> tuple[Tensor, ...]:
        return (VALUES + self.noise,)


FAST = Way("channels_last", compiled=True, graphs=True)
SECOND = Way("channels_first", compiled=True)


def test_fastest_way_that_agrees_is_taken() -> None:
    trial = Scripted(seconds={FAST: 0.2, SECOND: 0.4}, away={FAST: 1e-6})
    assert choose(EVERYTHING, CUDA, lambda: trial) == FAST
    assert set(trial.ran) == {PLAIN, *EVERYTHING.candidates()}


@pytest.mark.parametrize("away", [3e-6, float("nan"), float("inf")])
def test_way_that_differs_by_more_than_twice_the_noise_is_left_out(away: float) -> None:
    trial = Scripted(seconds={FAST: 0.2, SECOND: 0.4}, away={FAST: away})
    verdict = judge(EVERYTHING, trial)
    assert verdict.way == SECOND
    assert any("differs by" in line and FAST.name in line and "plain way stays" in line for line in verdict.seen)


def test_rounding_is_forgiven_where_the_order_changes_nothing() -> None:
    eps = torch.finfo(torch.float64).eps
    assert judge(EVERYTHING, Scripted(seconds={FAST: 0.2}, away={FAST: 100 * eps}, noise=0.0)).way == FAST
    assert judge(EVERYTHING, Scripted(seconds={FAST: 0.2}, away={FAST: 1e-9}, noise=0.0)).way == PLAIN


def test_where_the_plain_way_gives_no_numbers_there_is_nothing_to_compare_with() -> None:
    assert judge(EVERYTHING, Scripted(seconds={FAST: 0.2}, away={PLAIN: float("nan")})).way == PLAIN


def test_graphs_are_not_tried_where_images_are_coupled() -> None:
    assert Asked(compiled=None, graphs=None).for_solver(couples=True) == Asked(compiled=None, graphs=False)
    assert EVERYTHING.for_solver(couples=False) == EVERYTHING
    with pytest.raises(UserError, match="graphs is true, but the solver couples the images of a batch"):
        Asked(graphs=True).for_solver(couples=True)


def test_way_that_fails_is_left_out_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    trial = Scripted(seconds={FAST: 0.2}, failing=(FAST,))
    with caplog.at_level(logging.INFO):
        assert choose(EVERYTHING, CUDA, lambda: trial) == PLAIN
    (line,) = [record.message for record in caplog.records if "failed" in record.message]
    assert "RuntimeError: no kernel for this" in line


def test_way_that_is_slower_is_left_out() -> None:
    assert choose(EVERYTHING, CUDA, lambda: Scripted(seconds={FAST: 1.1, SECOND: 1.2})) == PLAIN


def test_nothing_is_tried_on_a_cpu_or_where_nothing_is_open() -> None:
    def trial() -> Scripted:
        raise AssertionError("no trial was asked for")

    assert choose(EVERYTHING, CPU, trial) == PLAIN
    assert choose(Asked(), CUDA, trial) == PLAIN
    assert choose(Asked(compiled=True, graphs=True), CUDA, trial) == Way(compiled=True, graphs=True)
    assert choose(Asked(compiled=True, graphs=None), CPU, trial) == Way(compiled=True)


def test_graphs_on_a_cpu_are_refused() -> None:
    with pytest.raises(
        UserError, match="graphs is true, but CUDA graphs need a CUDA device; allowed here: auto, false"
    ):
        choose(Asked(graphs=True), CPU, Scripted)


def test_only_what_is_open_is_tried() -> None:
    trial = Scripted(seconds={FAST: 0.1})
    assert choose(Asked(compiled=False, graphs=None), CUDA, lambda: trial).compiled is False
    assert not any(way.compiled for way in trial.ran)
    trial = Scripted()
    choose(Asked(compiled=True, graphs=None), CUDA, lambda: trial)
    assert all(way.compiled for way in trial.ran)


def test_verdict_is_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    asked = Asked(compiled=None, graphs=None, verdicts=tmp_path / "verdicts")
    assert choose(asked, CUDA, lambda: Scripted(seconds={FAST: 0.2})) == FAST
    again = Scripted()
    assert choose(asked, CUDA, lambda: again) == FAST
    assert again.ran == []
    (file,) = (tmp_path / "verdicts").glob("*.json")
    told = json.loads(file.read_text())
    assert told["facts"]["device"] == "a card"
    assert "5.00 times as fast" in told["reason"]


def test_another_device_is_tried_anew(tmp_path: Path) -> None:
    asked = Asked(compiled=None, graphs=None, verdicts=tmp_path)
    choose(asked, CUDA, lambda: Scripted(seconds={FAST: 0.2}))
    other = Scripted(card="another card")
    assert choose(asked, CUDA, lambda: other) == PLAIN
    assert other.ran


def test_trial_that_took_its_process_down_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(compiled=None, graphs=None, verdicts=tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(ways, "judge", lambda *_: Verdict(FAST, "never written"))
        patch.setattr(ways, "_write", first_of(ways._write))
        choose(asked, CUDA, Scripted)
    again = Scripted(seconds={FAST: 0.2})
    assert choose(asked, CUDA, lambda: again) == PLAIN
    assert again.ran == []


def first_of(write: Callable[..., None]) -> Callable[..., None]:
    """Writes once, as a process does that is killed after that."""
    calls: list[int] = []

    def once(*arguments: Any) -> None:
        if not calls:
            write(*arguments)
        calls.append(1)

    return once


def test_trial_that_was_interrupted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(compiled=None, graphs=None, verdicts=tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ways, "judge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            choose(asked, CUDA, Scripted)
    assert choose(asked, CUDA, lambda: Scripted(seconds={FAST: 0.2})) == FAST


def test_verdict_that_cannot_be_read_means_the_plain_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked(compiled=None, graphs=None, verdicts=tmp_path)
    choose(asked, CUDA, lambda: Scripted(seconds={FAST: 0.2}))
    (file,) = tmp_path.glob("*.json")
    file.write_text("{")
    assert choose(asked, CUDA, Scripted) == PLAIN
    assert f"verdict {file} cannot be read" in caplog.text


def test_difference_is_relative_to_the_largest_number_and_the_worst_of_all() -> None:
    one = (torch.tensor([100.0, 1.0]), torch.tensor([2.0, 0.0]))
    assert difference(one, one) == 0
    assert difference(one, (torch.tensor([100.0, 2.0]), torch.tensor([2.0, 0.5]))) == pytest.approx(0.25)
    assert difference((torch.zeros(2),), (torch.full((2,), 0.1),)) == pytest.approx(0.1)
    assert difference((torch.zeros(2),), (torch.tensor([0.0, torch.nan]),)) == float("inf")


def test_a_verdict_holds_for_what_was_open_alone(tmp_path: Path) -> None:
    fastest = {FAST: 0.2, Way("channels_last", graphs=True): 0.3, SECOND: 0.4}
    for compiled, graphs, way in (
        (None, None, FAST),
        (False, None, Way("channels_last", graphs=True)),
        (None, False, SECOND),
        (None, None, FAST),
    ):
        asked = Asked(compiled=compiled, graphs=graphs, verdicts=tmp_path)
        assert choose(asked, CUDA, lambda: Scripted(seconds=fastest)) == way
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_a_gain_within_the_noise_of_a_clock_is_none() -> None:
    assert choose(EVERYTHING, CUDA, lambda: Scripted(seconds={FAST: 0.97})) == PLAIN
    assert choose(EVERYTHING, CUDA, lambda: Scripted(seconds={FAST: 0.94})) == FAST


def test_a_trial_that_is_terminated_says_nothing_of_any_way(tmp_path: Path) -> None:
    class Terminated(Scripted):
        def run(self, way: Way) -> TrialOutcome:
            signal.raise_signal(signal.SIGTERM)
            return super().run(way)

    asked = Asked(compiled=None, graphs=None, verdicts=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        choose(asked, CUDA, Terminated)
    assert list(tmp_path.glob("*.json")) == []
    assert choose(asked, CUDA, lambda: Scripted(seconds={FAST: 0.2})) == FAST


def test_a_full_disk_says_nothing_of_a_way_and_is_not_remembered(tmp_path: Path) -> None:
    class OnFullDisk(Scripted):
        def run(self, way: Way) -> TrialOutcome:
            if way != PLAIN:
                try:
                    raise OSError(errno.ENOSPC, "No space left on device", "cache/compiled")
                except OSError as error:
                    raise RuntimeError("the compiler failed") from error
            return super().run(way)

    asked = Asked(compiled=None, graphs=None, verdicts=tmp_path)
    with pytest.raises(UserError, match=r"cannot be tried: cache/compiled: No space left on device: free some there"):
        choose(asked, CUDA, OnFullDisk)
    assert list(tmp_path.glob("*.json")) == []
    assert choose(asked, CUDA, lambda: Scripted(seconds={FAST: 0.2})) == FAST
