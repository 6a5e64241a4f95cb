"""When jobs start: what others wait for first, timing jobs last, and Snakemake itself at rest in between."""

import re
from pathlib import Path

import pytest

from deqpipe.workflow import dry_run
from tests.workflow.conftest import DEMO, Workspace


def test_what_has_the_longer_way_to_the_end_has_no_lower_priority(workspace: Workspace) -> None:
    printed = workspace.dry_run(*DEMO, "--forceall")
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?: +[^\n]*\n)*)", printed, re.MULTILINE)
    priorities = {rule: int(found[1]) if (found := re.search(r"priority: (\d+)", text)) else 0 for rule, text in blocks}
    jobs = dry_run.parse_jobs(printed)
    makers = {output: job.rule for job in jobs for output in job.outputs}
    wrong = {
        (makers[name], job.rule)
        for job in jobs
        for name in job.inputs
        if name in makers and priorities[makers[name]] < priorities[job.rule] and makers[name] != "write_config"
    }
    assert not wrong
    assert priorities["pretrain"] > priorities["train_deq"] > priorities["attack_grid"] > priorities["table1"]


def test_timing_jobs_start_when_nothing_else_is_left(finished: Workspace) -> None:
    calls = [" ".join(call.split()[:2]) if call.startswith("table") else call.split()[0] for call in finished.calls()]
    assert set(calls[-5:-1]) == {"time-training", "time-inference", "table 9", "table 10"}
    assert calls[-1] == "report"
    assert {calls[-5], calls[-4]} == {"time-training", "time-inference"}


@pytest.mark.slow
def test_snakemake_looks_for_work_when_a_job_has_ended_and_not_in_between(workspace: Workspace) -> None:
    """Ten jobs, two at a time: a look at the start, and one after each."""
    environment = {"FAKE_SECONDS": "1.3"}
    result = workspace.run("select_all", *DEMO, "--cores", "2", "--verbose", environment=environment)
    assert result.returncode == 0, result.stderr
    rounds = len(re.findall(r"^Ready jobs: \d+$", result.stderr, re.MULTILINE))
    assert 4 <= rounds <= 11


def test_the_profile_takes_jobs_by_priority() -> None:
    assert "scheduler: greedy" in Path("profiles/default/profile.yaml").read_text()
