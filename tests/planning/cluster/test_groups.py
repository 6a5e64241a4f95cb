"""What a profile submits together, and how long that asks for."""

from math import inf
from pathlib import Path

import pytest

from deqpipe.cluster import profile
from deqpipe.errors import UserError
from deqpipe.planning.cluster import groups
from deqpipe.workflow.dry_run import PlannedJob

TEXT = "groups: {clean: few, attack_pgd: few}\n"
JOBS = [PlannedJob(rule, {}, ("weights",), (f"{n}",)) for n, rule in enumerate(3 * ("clean", "attack_pgd", "other"))]
ASKED = [{"clean": 40.0, "attack_pgd": 80.0, "other": 240.0}[job.rule] for job in JOBS]


def words(folder: Path, text: str, *, jobs: list[PlannedJob] = JOBS, minutes: list[float] = ASKED) -> list[str]:
    (folder / "profile.yaml").write_text(text)
    return [one.words for one in groups.shared(profile.read(folder), jobs, minutes)]


def test_the_limits_of_the_longest_jobs_that_share_a_submission_add_up(tmp_path: Path) -> None:
    told = words(tmp_path, TEXT + "group-components: {few: 3}\n")
    assert told == ["clean and attack_pgd: up to 3 share a submission of up to 240 minutes"]
    assert words(tmp_path, TEXT + "group-components: {few: 5}\n")[0].endswith("of up to 320 minutes")
    told = words(tmp_path, TEXT + "group-components: {few: 2}\n", minutes=[inf] * len(JOBS))
    assert told == ["clean and attack_pgd: up to 2 share a submission without a time limit"]


def test_jobs_that_share_nothing_are_not_told(tmp_path: Path) -> None:
    assert words(tmp_path, "jobs: 1\n") == words(tmp_path, TEXT) == []


def test_jobs_that_wait_for_each_other_are_submitted_together(tmp_path: Path) -> None:
    chain = [PlannedJob("clean", {}, (f"{n - 1}",), (f"{n}",)) for n in (2, 0, 1, 5)]
    told = words(tmp_path, "groups: {clean: few}\n", jobs=chain, minutes=[10, 20, 30, 90])
    assert told == ["clean: up to 3 share a submission of up to 90 minutes"]


def test_a_mistake_in_groups_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"profile .*: Invalid group components definition"):
        words(tmp_path, TEXT + "group-components: {few: none}\n")
