"""What SLURM says of jobs before they are submitted."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from deqpipe.cluster import asking, submission
from deqpipe.cluster.check import Verdict
from deqpipe.cluster.submission import Request, check_submission
from tests.cluster.conftest import put, request


def refusing(folder: Path, words: str) -> None:
    put(folder, "sbatch", f"echo '{words}' >&2; exit 1")


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def test_jobs_that_would_be_taken_are_no_news_and_nothing_is_submitted(commands: Path) -> None:
    assert check_submission([request(), request("train_deq")]) == []
    (line,) = asked(commands)  # one question for both
    assert "--test-only" in line
    assert " -A ours -p gpu -t 240 --mem 16000 --cpus-per-task=4 --gpus=1 " in line


def test_a_request_of_another_kind_is_another_question(commands: Path) -> None:
    check_submission([request(), request("clean", gpu=0, gres="gpu:a100:1"), request("pretrain", runtime=60)])
    assert len(asked(commands)) == 3
    assert "--gres=gpu:a100:1" in asked(commands)[1]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("allocation failure: Invalid account or account/partition combination specified", "account"),
        ("sbatch: error: invalid partition specified: gpu", "partition"),
        ("allocation failure: Invalid qos specification", "qos"),
        ("allocation failure: Requested time limit is invalid (missing or exceeds some limit)", "runtime"),
        ("sbatch: error: Invalid generic resource (gres) specification", "GPU"),
        ("allocation failure: Requested node configuration is not available", "node"),
        ("sbatch: unrecognized option --gpus=1", "GPU"),
        ("sbatch: unrecognized option --exclusively", "options"),
        ("sbatch: error: a rule of this site", "submission"),
    ],
)
def test_what_is_refused_is_said_once_in_plain_words_with_the_rules(commands: Path, words: str, name: str) -> None:
    refusing(commands, words)
    (refusal,) = check_submission([request(), request("train_deq")])
    assert (refusal.name, refusal.verdict) == (name, Verdict.WRONG)
    assert words.split(": ")[-1] in refusal.words  # SLURM's own words are never lost
    assert refusal.words.endswith("(clean, train_deq)")
    assert refusal.advice


def test_a_controller_that_is_away_for_a_moment_is_no_refusal(commands: Path) -> None:
    refusing(commands, "allocation failure: Unable to contact slurm controller (connect failure)")
    (answer,) = check_submission([request()])
    assert answer.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "words",
    [
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "AssocMaxSubmitJobLimit",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Requested nodes are busy",
    ],
)
def test_what_may_be_taken_once_other_jobs_have_ended_is_no_refusal(commands: Path, words: str) -> None:
    put(commands, "sbatch", f'echo "allocation failure: {words}" >&2; exit 1')
    (answer,) = check_submission([request()])
    assert (answer.name, answer.verdict, words in answer.words) == ("queue", Verdict.UNKNOWN, True)


def test_an_sbatch_that_hangs_is_waited_for_a_while(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(commands, "sbatch", "exec /bin/sleep 60")
    monkeypatch.setattr(submission, "ask", lambda line: asking.ask(line, seconds=0.1))
    (answer,) = check_submission([request()])
    assert (answer.verdict, "no answer within 0.1 s" in answer.words) == (Verdict.UNKNOWN, True)


@pytest.mark.parametrize("resource", ["slurm_account", "slurm_partition"])
def test_what_nobody_has_filled_in_is_told_without_asking(commands: Path, resource: str) -> None:
    (refusal,) = check_submission([request(**{resource: "CHANGE_ME"})])
    assert f"{resource.removeprefix('slurm_')} of the profile is still CHANGE_ME" in refusal.words
    assert not (commands / "asked").exists()


def test_an_account_that_the_plugin_would_refuse_is_refused(commands: Path) -> None:
    (refusal,) = check_submission([request(slurm_account="theirs")])
    assert refusal.name == "account"
    assert "theirs" in refusal.words
    assert "ours" in refusal.words  # those that there are


def test_options_that_the_plugin_keeps_to_itself_are_refused(commands: Path) -> None:
    (refusal,) = check_submission([request(slurm_extra="--mem=5")])
    assert (refusal.name, "slurm_extra" in refusal.words) == ("options", True)


def test_a_machine_without_slurm_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (refusal,) = check_submission([request()])
    assert "no sbatch on this machine" in str(refusal)
    assert check_submission([]) == []


def test_a_job_of_snakemake_asks_for_what_its_resources_say() -> None:
    resources = {"_cores": 4, "_nodes": 1, "tmpdir": "/tmp", "gpu": 1, "runtime": 240, "slurm_account": "ours"}
    job = SimpleNamespace(rule="clean", resources=resources, threads=4)
    asked_for = Request.of_job(job, SimpleNamespace(qos="fast"))
    assert asked_for == Request("clean", {"gpu": 1, "runtime": 240, "slurm_account": "ours"}, threads=4, qos="fast")
