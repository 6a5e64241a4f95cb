"""Prices that an earlier plan has left."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deqpipe.config import Config
from deqpipe.planning import estimate, known
from deqpipe.planning.printed import CostPlan, Measured
from deqpipe.workflow import expected
from deqpipe.workflow.dry_run import PlannedJob
from tests.planning.test_estimate import ENTERING, MEASURED, demo

JOBS = [PlannedJob("clean", {}, (), ("a",)), PlannedJob("clean", {}, (), ("b",)), PlannedJob("report", {}, (), ("c",))]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The demo's, with a state folder of its own."""
    whole = demo()
    paths = whole.pathvars.model_copy(update={"state": str(tmp_path)})
    return whole.model_copy(update={"pathvars": paths})


def read(config: Config, *, device: str = "cpu", processes: int = 2) -> Measured | None:
    found = known.read(config, device=device, processes=processes)
    return None if found is None else found.measured


def test_prices_are_known_until_something_changes_that_they_depend_on(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(config) is None
    known.write(config, MEASURED, JOBS, [1.0, 3.0, 5.0], device="cpu")
    assert read(config) == MEASURED
    assert read(config, device="cuda") is None
    assert read(config, processes=1) is None
    other = config.model_copy(update={"protocol": "release"})
    assert read(other) is None
    monkeypatch.setattr(known, "code_hash", lambda: "of another version")
    assert read(config) is None


def test_what_jobs_of_a_rule_take_is_known_to_the_workflow(config: Config) -> None:
    assert expected.seconds_of_rules(config) == {}
    known.write(config, MEASURED, JOBS, [1.0, 3.0, 5.0], device="cpu")
    assert expected.seconds_of_rules(config) == {"clean": 2.0, "report": 5.0}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"config": "KEY", "rules": 3}', '{"config": "KEY", "measured": 1}']
)
def test_prices_that_are_damaged_are_not_known(config: Config, content: str) -> None:
    known.write(config, MEASURED, JOBS, [1.0, 3.0, 5.0], device="cpu")
    circumstances = json.loads(expected.path(config).read_text())["circumstances"]
    text = content.replace("KEY", expected.key(config))
    expected.path(config).write_text(text.removesuffix("}") + f', "circumstances": {json.dumps(circumstances)}}}'
                                     if "KEY" in content else text)  # fmt: skip
    assert read(config) is None
    assert expected.seconds_of_rules(config) == {}


def test_a_state_folder_that_cannot_be_written_keeps_nothing_and_refuses_nothing(
    config: Config, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    paths = config.pathvars.model_copy(update={"state": str(tmp_path / "file")})
    inside = config.model_copy(update={"pathvars": paths})
    known.write(inside, MEASURED, JOBS, [1.0, 3.0, 5.0], device="cpu")
    assert read(inside) is None


def test_a_second_plan_does_not_measure(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And takes several files of a configuration."""
    calls: list[object] = []

    def measure(*told: object, **named: object) -> Measured:
        calls.append(told)
        return replace(MEASURED, processes=estimate.processes_of("cpu", 2))

    monkeypatch.setattr(estimate, "jobs", lambda *_, **__: JOBS)
    monkeypatch.setattr(estimate, "config_files", lambda overlays: overlays)
    monkeypatch.setattr("deqpipe.config.load", lambda files: config)
    monkeypatch.setattr(estimate, "measure", measure)
    monkeypatch.setattr(estimate, "text", lambda plan: "the plan")
    monkeypatch.setattr(estimate, "entering", lambda *_: ENTERING)
    monkeypatch.setattr(CostPlan, "seconds", lambda self, jobs: [1.0] * len(jobs))
    for again in (False, False, True):
        assert estimate.plan([Path("a"), Path("b")], cores=2, device="cpu", measure_again=again) == 0
    first, second, third = (line for line in capsys.readouterr().out.splitlines() if line != "the plan")
    assert first.startswith("Measured in")
    assert "nothing has changed since" in second
    assert third.startswith("Measured in")
    assert len(calls) == 2
