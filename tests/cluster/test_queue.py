"""Jobs that an earlier run of Snakemake has left in SLURM's queue."""

import os
import pwd
from pathlib import Path

import pytest

from deqpipe.cluster import queue
from tests.cluster.conftest import put

RUN = "8b88d5cc-7114-4a76-b28b-5db3de11f202"


def in_queue(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *jobs: tuple[str, str, Path], of: str | None = None
) -> None:
    """An `squeue` that lists these jobs: number, name, where it was submitted; of this user, or of another."""
    folder.mkdir()
    owner = of or pwd.getpwuid(os.geteuid()).pw_name
    lines = "\n".join(f"{number}|{owner}|{name}|{where}" for number, name, where in jobs)
    put(folder, "squeue", f"case \"$*\" in *--me*) exit ;; esac; echo '{lines}'" if of else f"echo '{lines}'")
    monkeypatch.setenv("PATH", str(folder))


def test_jobs_of_an_earlier_run_in_this_folder_stop_a_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, link = tmp_path / "here", tmp_path / "link"
    here.mkdir()
    link.symlink_to(here)
    in_queue(tmp_path / "bin", monkeypatch, ("7", RUN, here), ("8", f"mine_{RUN}", link), ("9", RUN, tmp_path))
    assert [job.number for job in queue.jobs_of(here)] == ["7", "8"]
    told = queue.refusal(here, {})
    assert told.startswith("2 jobs of an earlier run in this folder still in SLURM's queue: cancel first (scancel 7 8)")


def test_what_no_snakemake_submitted_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_queue(tmp_path / "bin", monkeypatch, ("7", "bash", tmp_path), ("8", RUN[:-1], tmp_path), ("", "", tmp_path))
    assert queue.refusal(tmp_path, {}) == ""


def test_a_snakemake_that_runs_in_a_job_does_not_count_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_queue(tmp_path / "bin", monkeypatch, ("7", RUN, tmp_path))
    assert queue.refusal(tmp_path, {"SLURM_JOB_ID": "7"}) == ""
    assert "1 job of" in queue.refusal(tmp_path, {"SLURM_JOB_ID": "8"})


def test_jobs_that_another_user_left_in_a_shared_folder_are_told_with_their_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_queue(tmp_path / "bin", monkeypatch, ("7", RUN, tmp_path), of="somebody")
    assert "1 job of an earlier run in this folder" in queue.refusal(tmp_path, {})
    assert "ask somebody to cancel first (scancel 7)" in queue.refusal(tmp_path, {})


def test_a_queue_that_does_not_answer_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "squeue", "echo 'slurm_load_jobs error: Socket timed out' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queue.refusal(tmp_path, {}) == ""
    (line,) = capsys.readouterr().err.splitlines()
    assert "earlier run are still in the queue is not known: slurm_load_jobs error: Socket timed out" in line


def test_without_a_queue_there_is_nothing_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queue.jobs_of(tmp_path) == []
