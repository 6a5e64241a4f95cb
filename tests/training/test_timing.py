"""Table 9's clock: what a timed training step is, and what is written about it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from deqpipe import data
from deqpipe.counts import Evaluations
from deqpipe.machine import stopwatch
from deqpipe.results import rounds
from deqpipe.training import run
from deqpipe.training import timing as training_timing
from deqpipe.workflow import vocabulary
from tests import tiny
from tests.evaluation.commands import until_done
from tests.tiny import Trained

TIMING = {"timing": {"batch_size": 8, "warmup": 1, "repeats": 3}}


def job(trained: Trained, folder: Path, changes: Mapping[str, Any] = TIMING) -> training_timing.TimingJob:
    return training_timing.TimingJob(
        spec=json.loads(tiny.spec("time_training", changes)),
        data=trained.data,
        trunk=trained.file(vocabulary.TRUNK, "handoff"),
        output=folder / "timing.json",
        device=torch.device("cpu"),
        threads=1,
        state=folder / "state",
    )


@pytest.fixture(scope="module")
def written(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the job writes."""
    timed = job(trained, tmp_path_factory.mktemp("timing"))
    assert training_timing.time_training(timed) == 0
    found: dict[str, Any] = json.loads(timed.output.read_text())
    return found


def test_all_methods_are_timed_and_conditions_stand_beside_them(written: dict[str, Any]) -> None:
    assert tuple(written["methods"]) == vocabulary.DEQS
    for speed in written["methods"].values():
        rates = speed["images_per_second"]
        assert len(rates) == 3
        assert min(rates) == speed["low"] <= speed["median"] == sorted(rates)[1] <= speed["high"] == max(rates)
    assert (written["batch_size"], written["warmup"], written["repeats"], written["threads"]) == (8, 1, 3, 1)
    assert written["steps_per_repeat"] == 4
    assert (len(written["load"]["before"]), len(written["load"]["after"])) == (3, 3)
    assert written["precision"] == "fp32"
    assert "CPU" in written["device"]
    assert written["provenance"]["spec"]["stage"] == "time_training"


def test_a_timed_step_is_a_whole_training_step(written: dict[str, Any]) -> None:
    # N = 4, unroll of 2 with no first step, 2 attack steps and the loss; TRADES: natural logits for both, too
    steps = {model: Evaluations(**speed["evaluations_per_image"]) for model, speed in written["methods"].items()}
    assert steps["deq_pgd_at_base"] == Evaluations(3 * (4 + 2), 3 * 2, 2)
    assert steps["deq_trades_base"] == Evaluations(5 * (4 + 2), 4 * 2, 2 * 2)
    random = steps["deq_pgd_at_random_states"]
    assert 3 * (1 + 2) < random.forward < steps["deq_pgd_at_base"].forward
    assert (random.backward_input, random.backward_weights) == (3 * 2, 2)


def test_every_repeat_starts_from_the_trunk_and_draws_the_same_states(trained: Trained, tmp_path: Path) -> None:
    method = training_timing.Method(job(trained, tmp_path), data.load(trained.data), "deq_trades_random_states")
    before = {name: value.clone() for name, value in method.model.named_parameters()}
    counts = []
    for _ in range(2):
        before_repeat = method.model.counter.counted
        assert method() == 4 * 8
        counts.append(method.model.counter.counted - before_repeat)
    assert counts[0] == counts[1]
    assert all(torch.equal(value, before[name]) for name, value in method.model.named_parameters())


def test_a_timed_step_does_what_a_step_of_the_training_does(trained: Trained, tmp_path: Path) -> None:
    timed, model = job(trained, tmp_path), "deq_trades_random_states"
    assert json.loads(tiny.spec("train_deq", model=model))["config"].items() <= timed.spec["config"].items()
    prepared = run.prepare_deq(training_timing._training_job(timed, model), data.load(trained.data))
    trained_by = prepared.plan.objective
    assert type(trained_by).__name__ == "TradesAdversarial"
    assert prepared.plan.first_step == tiny.OVERLAY["pretrain"]["steps"]


def test_too_few_images_to_train_on_are_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tiny.spec("time_training", {"timing": {"batch_size": tiny.TRAIN + 1}})
    output = tmp_path / "timing.json"
    trunk = trained.file(vocabulary.TRUNK, "handoff")
    line = ("time-training", "--spec", spec, "--data", trained.data, "--trunk", trunk, "--output", output,
            "--state", tmp_path / "state")  # fmt: skip
    assert tiny.run(*line) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "deqpipe: timing.batch_size is 41, but must be 1 to 40: the images to train on"
    )
    assert not output.exists()


def test_a_trunk_that_is_none_is_refused(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, wrong = tmp_path / "timing.json", trained.file(vocabulary.TRUNK)
    line = ("--spec", tiny.spec("time_training"), "--data", trained.data, "--trunk", wrong, "--output", output,
            "--state", tmp_path / "state")  # fmt: skip
    assert tiny.run("time-training", *line) == 2
    assert "is no handoff of pretraining: 'model'" in capsys.readouterr().err
    assert not output.exists()


def test_kinds_take_turns_so_that_a_change_of_the_machine_reaches_all() -> None:
    order: list[str] = []

    def work(name: str) -> stopwatch.Pass:
        def once() -> int:
            order.append(name)
            return 5

        return once

    passes = {"a": work("a"), "b": work("b")}
    stopwatch.warm_up(passes, 1)
    for _ in range(3):
        assert stopwatch.one_round(passes, torch.device("cpu")).keys() == {"a", "b"}
    assert "".join(order) == "ab" + "ababab"


@pytest.mark.slow
def test_rounds_that_are_over_are_kept_and_the_same_cost_is_told(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: dict[str, Any]
) -> None:
    timed = job(trained, tmp_path)
    tries = until_done(lambda: training_timing.time_training(timed), 1000, monkeypatch, where="deqpipe.compute.timing")
    assert tries > 1
    found = json.loads(timed.output.read_text())
    assert found["provenance"]["evaluations"] == written["provenance"]["evaluations"]
    for model, speed in found["methods"].items():
        assert speed["evaluations_per_image"] == written["methods"][model]["evaluations_per_image"]
        assert len(speed["images_per_second"]) == 3


def test_rounds_of_another_device_or_spec_and_damaged_ones_are_not_believed(tmp_path: Path) -> None:
    path, spec = tmp_path / "rounds.json", {"stage": "time_training"}
    rounds.write(path, [{"a": 1.5, "b": 2.0}], spec=spec, device="one")
    assert rounds.read(path, names=("b", "a"), spec=spec, device="one") == ({"b": 2.0, "a": 1.5},)
    assert rounds.read(path, names=("a",), spec=spec, device="another") == ()
    assert rounds.read(path, names=("a",), spec={"stage": "time_inference"}, device="one") == ()
    path.write_text(path.read_text().replace("1.5", "9.5"))
    assert rounds.read(path, names=("a",), spec=spec, device="one") == ()
    assert path.with_name("rounds.json.damaged").exists()
