"""What `make test-slurm` says where it cannot start, and how it counts: the rest needs a SLURM."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.slurm import __main__ as slurm
from tests.slurm import cases, packages
from tests.slurm.cluster import Cluster, ClusterError, running
from tests.slurm.experiment import TRAINING, Experiment, Run
from tests.slurm.trial import Case, Trial, Wrong


def test_what_is_missing_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program, **_: None if program in ("slurmd", "slurmdbd") else program)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert slurm.main(["--case", "account"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("install them as root: apt-get install -y --no-install-recommends slurm-wlm slurmdbd")


def test_a_folder_whose_sockets_would_have_too_long_names_is_refused() -> None:
    long = Cluster(Path("/tmp", 70 * "x"), 1)
    with pytest.raises(ClusterError, match="--scratch names a shorter one"), running(long):
        pass


def right(trial: Trial) -> None:
    trial.sigterms.append(1.5)
    trial.seen.append("saved")


def wrong(trial: Trial) -> None:
    right(trial)
    trial.lost += 1
    raise Wrong("results differ")


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cases on a cluster that is not there and has no jobs."""

    @contextmanager
    def pretended(cluster: Cluster) -> Iterator[Cluster]:
        yield cluster

    monkeypatch.setattr(slurm, "running", pretended)
    monkeypatch.setattr(packages, "provide", lambda **_: None)
    monkeypatch.setattr(packages, "versions", lambda _: "pretended")
    monkeypatch.setattr("tests.slurm.experiment.jobs_in", lambda *_: [])
    cases = {"right": Case("right", "a", "b", right, twice=True), "wrong": Case("wrong", "c", "d", wrong)}
    monkeypatch.setattr(slurm, "CASES", cases)


@pytest.mark.usefixtures("no_cluster")
def test_a_case_that_went_wrong_is_told_counted_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slurm.main(["--seed", "3", "--scratch", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "right  right (a): expected: b. Seen: saved. 0 s\n" in told
    assert "wrong  wrong (c): expected: d. Seen: saved; WRONG: results differ. 0 s\n" in told
    assert "again: python -m tests.slurm --case wrong --seed 3 --no-accounting\n" in told
    assert "0 requeued, 1 lost with their node\nSIGTERM seen by the training 3 times, 1.5 to 1.5 s from" in told
    assert "2 of 3 cases right" in told


@pytest.mark.usefixtures("no_cluster")
def test_nothing_is_left_where_all_went_right(tmp_path: Path) -> None:
    assert slurm.main(["--case", "right", "--scratch", str(tmp_path)]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("jobs", "status"), [(2, None), (1, 0)])
def test_a_plugin_that_notices_what_our_pages_say_it_does_not_is_a_case_gone_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, status: int | None
) -> None:
    monkeypatch.setattr(cases, "_SILENCE", 0)
    trial = Pretended("sacct", tmp_path, Cluster(tmp_path, 1), random.Random(1), lambda _: tmp_path)
    trial.runs = SimpleNamespace(
        training=lambda _: None, jobs=lambda: jobs * [None], process=SimpleNamespace(poll=lambda: status)
    )
    with pytest.raises(Wrong, match=r"say so in docs/cluster\.md"):
        cases._sacct(trial)
    trial.runs = SimpleNamespace(
        training=lambda _: None, jobs=lambda: [None], process=SimpleNamespace(poll=lambda: None)
    )
    cases._sacct(trial)
    assert trial.seen == ["Snakemake waits"]


class Pretended(Trial):
    """A trial whose run is `runs`, and whose jobs end as they should."""

    runs: Any

    def write(self, what: Experiment, **profile: Any) -> None:
        """Nothing."""

    @contextmanager
    def run(self, what: Experiment = TRAINING, *options: str) -> Iterator[Run]:
        """What there is."""
        yield self.runs

    def stop(self, run: Run, do: Callable[[], object]) -> None:
        """It does."""
