"""Table 10's clock: what a timed decision is, and what is written about it."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deqpipe.counts import Evaluations
from deqpipe.errors import UserError
from deqpipe.evaluation.evaluated_model import EvaluationJob, load_evaluated_model
from deqpipe.evaluation.stages import timing
from deqpipe.machine import stopwatch
from deqpipe.model.classifier import DEQClassifier
from deqpipe.workflow import vocabulary
from tests import tiny
from tests.evaluation.commands import until_done
from tests.tiny import Trained

CHANGES: dict[str, Any] = {
    "timing": {"batch_size": 20, "warmup": 1, "repeats": 3},  # more than there are test images
    "entropy_sweep": {"solver_steps": [1, 4, 8], "input_steps": [1, 3]},
}


def job(trained: Trained, folder: Path, changes: Mapping[str, Any] = CHANGES) -> EvaluationJob:
    spec = json.loads(tiny.spec("time_inference", changes, model=vocabulary.SWEEP_MODEL))
    return EvaluationJob(
        spec=spec,
        data=trained.data,
        checkpoint=trained.file(vocabulary.SWEEP_MODEL),
        output=folder / "timing.json",
        device=torch.device("cpu"),
        threads=1,
        batch_size=spec["config"]["timing"]["batch_size"],
    )


def test_every_setting_is_timed_and_conditions_stand_beside_them(trained: Trained, tmp_path: Path) -> None:
    timed = job(trained, tmp_path)
    assert timing.time_inference(timed, state=tmp_path / "state", budget_minutes=math.inf) == 0
    written = json.loads(timed.output.read_text())
    names = {f"entropy_every{every}_steps{steps}" for every in (1, 4, 8) for steps in (1, 3)}
    assert set(written["settings"]) == {"plain"} | names
    for speed in written["settings"].values():
        rates = speed["images_per_second"]
        assert len(rates) == 3
        assert (min(rates), sorted(rates)[1], max(rates)) == (speed["low"], speed["median"], speed["high"])
    assert (written["batch_size"], written["warmup"], written["repeats"], written["threads"]) == (20, 1, 3, 1)
    assert (len(written["load"]["before"]), len(written["load"]["after"])) == (3, 3)
    assert written["provenance"]["spec"]["stage"] == "time_inference"


def test_a_timed_decision_is_the_dynamics_and_nothing_behind_them(trained: Trained, tmp_path: Path) -> None:
    evaluated = load_evaluated_model(job(trained, tmp_path))
    model, x = evaluated.loaded.model, timing._images(evaluated, 20)
    assert isinstance(model, DEQClassifier)
    assert torch.equal(x[12:], x[:8])
    counted = {}
    for name, dynamics in timing._dynamics(evaluated.settings).items():
        before = model.counter.counted
        assert timing._decision(evaluated, dynamics, x)() == 20
        counted[name] = (model.counter.counted - before) * (1 / 20)
    # N = 4: z^[0] .. z^[3] are evaluated once, every update takes R steps with a gradient each, and one evaluation of
    # the new input
    assert counted == {
        "plain": Evaluations(4),
        "entropy_every1_steps1": Evaluations(4 + 4 * 2, 4),
        "entropy_every1_steps3": Evaluations(4 + 4 * 4, 4 * 3),
        "entropy_every4_steps1": Evaluations(4 + 2, 1),
        "entropy_every4_steps3": Evaluations(4 + 4, 3),
        "entropy_every8_steps1": Evaluations(4),  # never updates
        "entropy_every8_steps3": Evaluations(4),
    }


def test_rounds_that_are_over_are_kept_and_the_same_cost_is_told(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, left = (job(trained, tmp_path / name) for name in ("whole", "left"))
    assert timing.time_inference(whole, state=tmp_path / "state", budget_minutes=math.inf) == 0
    one_round, taken = stopwatch.one_round, list[dict[str, float]]()

    def noted(*arguments: Any) -> dict[str, float]:
        taken.append(one_round(*arguments))
        return taken[-1]

    def run() -> int:
        return timing.time_inference(left, state=tmp_path / "state", budget_minutes=math.inf)

    monkeypatch.setattr(stopwatch, "one_round", noted)
    assert until_done(run, 250, monkeypatch, where="deqpipe.compute.timing") > 1
    once, again = (json.loads(one.output.read_text()) for one in (whole, left))
    assert once["provenance"]["evaluations"] == again["provenance"]["evaluations"]
    for name, speed in again["settings"].items():
        assert speed["images_per_second"] == [rates[name] for rates in taken]
    assert not list((tmp_path / "state").glob("rounds*"))


@pytest.mark.slow
def test_a_solver_that_couples_images_changes_nothing_about_what_is_timed(trained: Trained, tmp_path: Path) -> None:
    coupled = {**CHANGES, "protocol": "release", "evaluation": {"batch_size": 6}, "attack": {"images_per_job": 6}}
    timed = job(trained, tmp_path, coupled)
    assert timing.time_inference(timed, state=tmp_path / "state", budget_minutes=math.inf) == 0
    assert json.loads(timed.output.read_text())["batch_size"] == 20


def test_another_model_is_refused(trained: Trained, tmp_path: Path) -> None:
    wrong = replace(job(trained, tmp_path), checkpoint=trained.file("deq_pgd_at_base"))
    with pytest.raises(UserError, match="is deq_pgd_at_base of seed 0, but the spec is of deq_trades_random_states"):
        timing.time_inference(wrong, state=tmp_path / "state", budget_minutes=math.inf)
    assert not wrong.output.exists()
