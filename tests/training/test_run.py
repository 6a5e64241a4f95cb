"""The training commands: what they publish, and that nothing that happens to a run on its way changes it."""

import csv
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Adam

from deqpipe.build import build_solver, build_termination
from deqpipe.data import batches, crop_flip, to_float
from deqpipe.dynamics import PlainDynamics
from deqpipe.errors import UserError
from deqpipe.gradient import Unrolled
from deqpipe.machine import stopping
from deqpipe.machine.stopping import EXIT_UNFINISHED, StopRequest
from deqpipe.model import architecture
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import checkpoint
from deqpipe.results.provenance import file_hash
from deqpipe.seeding import Stream
from deqpipe.training import loop, weight_perturbation
from deqpipe.training import run as training_jobs
from deqpipe.training.feed import Feed
from deqpipe.training.forward import Draws, UnrolledForward, draws
from deqpipe.training.objectives import Batch, CleanUnrolled, Loss, PGDAdversarial, TradesAdversarial
from deqpipe.training.weight_perturbation import WeightPerturbed
from deqpipe.workflow import stages, vocabulary
from tests import tiny
from tests.sampling import one_in
from tests.tiny import Trained, Training

GOLDEN = Path(__file__).parents[1] / "golden" / "first_losses.json"
MODELS = ("deq_pretrain", "deq_pgd_at_base", "deq_trades_random_states", "resnet18_pgd_at")
PER_EPOCH = 3


def history(training: Training) -> list[dict[str, str]]:
    """Rows without what the clock says."""
    with training.outputs["history"].open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def assert_same_results(left: Training, right: Training) -> None:
    """All tensors bit for bit, and the history."""
    assert history(left) == history(right)
    for name in left.outputs.keys() - {"history"}:
        one, other = (checkpoint.read(training.outputs[name]) for training in (left, right))
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(tensor, other.tensors[key]) for key, tensor in one.tensors.items()), name
        assert one.metadata.get("epoch") == other.metadata.get("epoch")
        counts = [stored.metadata["provenance"]["evaluations"] for stored in (one, other)]
        assert counts[0] == counts[1]


def again(training: Training, folder: Path, **changes: Any) -> Training:
    """The same training into another folder."""
    return replace(training, folder=folder, **changes)


def start(training: Training) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "deqpipe.cli", *training.arguments, "--save-interval", "0"]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def reach(training: Training, process: subprocess.Popen[str], step: int) -> None:
    """Wait until the saved state is at a step."""
    store = loop.Store(training.state, {})
    while process.poll() is None and ((saved := store.progress()) is None or saved.step < step):
        time.sleep(0.002)


@pytest.mark.parametrize("model", MODELS)
def test_published_files_say_where_they_come_from(trained: Trained, model: str) -> None:
    training = trained.trainings[model]
    spec = json.loads(training.spec)
    for name in training.outputs.keys() - {"history"}:
        metadata = checkpoint.read_metadata(training.outputs[name])
        origin = metadata["provenance"]
        assert origin["spec"] == spec
        assert origin["seed"] == 0
        assert origin["inputs"]["data"] == file_hash(trained.data)
        assert ("trunk" in origin["inputs"]) == (training.trunk is not None)
        assert {"python", "torch", "deqpipe"} <= origin["versions"].keys()
        assert len(origin["code"]) == 16
        assert origin["device"].startswith("CPU")
        assert origin["seconds"] > 0
        assert all((number > 0) == (model != "resnet18_pgd_at") for number in origin["evaluations"].values())
        assert metadata["kind"] == ("handoff" if name == "handoff" else "model")


def test_history_covers_every_epoch_of_both_phases(trained: Trained) -> None:
    trunk, deq = (history(trained.trainings[model]) for model in ("deq_pretrain", "deq_trades_random_states"))
    whole = [(str(epoch), str(3 * epoch)) for epoch in range(1, 15)]
    assert [(row["epoch"], row["step"]) for row in trunk] == [*whole, ("15", "43")]
    assert [(row["epoch"], row["step"]) for row in deq] == [("15", "45"), ("16", "48"), ("17", "51"), ("18", "54")]
    assert {row["phase"] for row in trunk} == {"pretrain"}
    assert {row["phase"] for row in deq} == {"adversarial"}
    assert all(row["robust_accuracy"] == "" for row in trunk)
    assert all(0 <= float(row[column]) <= 1 for row in deq for column in ("clean_accuracy", "robust_accuracy"))


def test_best_model_is_the_epoch_that_the_history_says(trained: Trained) -> None:
    for model in ("deq_pgd_at_base", "deq_trades_random_states"):
        training = trained.trainings[model]
        rows = history(training)
        robust = [float(row["robust_accuracy"]) for row in rows]
        best = checkpoint.read(training.outputs["best"])
        assert best.metadata["epoch"] == int(rows[robust.index(max(robust))]["epoch"])
        last = checkpoint.read(training.outputs["last"])
        assert last.metadata["epoch"] == 18
        assert last.metadata["step"] == 54


def test_trunk_hands_over_the_last_weights_and_the_optimiser(trained: Trained) -> None:
    handoff = checkpoint.read(trained.file("deq_pretrain", "handoff"))
    last = checkpoint.read(trained.file("deq_pretrain", "last"))
    assert all(torch.equal(tensor, handoff.part("model")[name]) for name, tensor in last.tensors.items())
    assert handoff.metadata["step"] == 43
    steps = [
        tensor for name, tensor in handoff.tensors.items() if name.startswith("optimizer.") and name.endswith("step")
    ]
    assert steps
    assert all(int(step) == 43 for step in steps)


@pytest.mark.slow
def test_two_phases_are_one_uninterrupted_run(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights, moments, schedule and data order: with one objective in both phases, the handoff leaves no trace."""
    monkeypatch.setattr("deqpipe.training.run._adversarial_objective", lambda *arguments: PretrainingObjective())
    monkeypatch.setattr("deqpipe.training.run._perturbed", lambda objective, *arguments, **more: objective)
    deq = again(trained.trainings["deq_trades_random_states"], tmp_path / "two")
    assert deq.run() == 0
    one = Training("pretrain", tiny.spec("pretrain", {"pretrain": {"steps": 53}}), trained.data, tmp_path / "one")
    assert one.run() == 0
    replayed = replay_last_step(checkpoint.read(one.outputs["handoff"]))
    last = checkpoint.read(deq.outputs["last"])
    assert all(torch.equal(tensor, last.tensors[name]) for name, tensor in replayed.state_dict().items())


class PretrainingObjective:
    """What the trunk is trained on, under the name of an adversarial objective."""

    def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        return CleanUnrolled(UnrolledForward(3))(model, batch, sources)


def replay_last_step(handoff: checkpoint.Checkpoint) -> nn.Module:
    """The 54th step behind a handoff after 53, written out."""
    model = architecture.build(handoff.metadata["architecture"], seed=0)
    checkpoint.load_module(model, handoff.part("model"))
    optimizer = Adam(model.parameters(), 0.02, fused=True)
    checkpoint.restore_optimizer(optimizer, model, handoff.tensors)
    optimizer.param_groups[0]["lr"] = loop.cosine(53, total=54, start=0.02, end=0.0)
    train = tiny.dataset().train
    picked = batches(tiny.TRAIN, 16, epoch=17, stream=Stream(0, "order"))[2]
    x = to_float(crop_flip(train.images[picked], Stream(0, "augment").generator(53)))
    loss = PretrainingObjective()(model, Batch(x, train.labels[picked]), draws(0, 53))
    optimizer.zero_grad()
    torch.autograd.backward(loss.value)
    optimizer.step()
    return model


@pytest.mark.parametrize("model", MODELS)
def test_publishing_again_writes_the_same_bytes(trained: Trained, model: str, tmp_path: Path) -> None:
    training = trained.trainings[model]
    moved = {name: tmp_path / path.name for name, path in training.outputs.items()}
    for name, path in training.outputs.items():
        path.rename(moved[name])
    assert training.run() == 0
    assert {name: path.read_bytes() for name, path in moved.items()} == {
        name: path.read_bytes() for name, path in training.outputs.items()
    }


@pytest.mark.slow
def test_a_killed_pretraining_ends_with_the_same_bits(trained: Trained, tmp_path: Path) -> None:
    killed = again(trained.trainings["deq_pretrain"], tmp_path)
    process = start(killed)
    reach(killed, process, 8)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert not any(path.exists() for path in killed.outputs.values())
    assert killed.run() == 0
    assert_same_results(killed, trained.trainings["deq_pretrain"])


def test_a_killed_adversarial_training_ends_with_the_same_bits(trained: Trained, tmp_path: Path) -> None:
    model = "deq_trades_random_states"
    killed = again(trained.trainings[model], tmp_path)
    process = start(killed)
    reach(killed, process, 46)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert not any(path.exists() for path in killed.outputs.values())
    assert killed.run() == 0
    assert_same_results(killed, trained.trainings[model])


@pytest.mark.parametrize(
    ("model", "last", "number"),
    [
        ("deq_pgd_at_base", 46, signal.SIGTERM),
        ("deq_pgd_at_base", 46, signal.SIGINT),
        ("resnet18_pgd_at", 1, signal.SIGHUP),
        ("resnet18_pgd_at", 1, signal.SIGTERM),  # its last weights lie in memory in another order, as its momentum must
    ],
)
def test_a_signal_ends_a_run_resumably(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    model: str,
    last: int,
    number: signal.Signals,
) -> None:
    training = again(trained.trainings[model], tmp_path)

    def step(plan: loop.TrainingPlan, network: nn.Module, optimizer: Any, feed: Feed, so_far: Any) -> Any:
        if so_far[0].step == last:
            signal.raise_signal(number)
        return one_step(plan, network, optimizer, feed, so_far)

    one_step = loop._one_step
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_one_step", step)
        with caplog.at_level(logging.INFO):
            assert training.run() == EXIT_UNFINISHED
    progress = loop.Store(training.state, {}).progress()
    assert progress is not None
    assert progress.step == last  # the step under way was left
    assert re.fullmatch(rf"{number.name}: saved at step {last} of \d+; start again to go on", caplog.messages[-1])
    assert not any(path.exists() for path in training.outputs.values())
    assert training.run() == 0
    assert_same_results(training, trained.trainings[model])


@pytest.mark.parametrize(
    ("model", "beyond"), one_in(3, [("deq_pgd_at_base", 2), ("deq_pgd_at_base", 0), ("resnet18_pgd_at", 0)])
)
def test_a_step_that_is_left_in_the_middle_is_as_if_it_had_not_begun(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, beyond: int
) -> None:
    """Left early in its attack, or at its last question: in the backward pass, when batch norms know its images."""
    asked, ends, original, one_step = [0], [0], stopping.check, loop._one_step

    def check_until(last: float) -> Callable[[], None]:
        asked[0] = 0

        def check() -> None:
            asked[0] += 1
            if asked[0] == last:
                signal.raise_signal(signal.SIGTERM)
            original()

        return check

    def step(*arguments: Any) -> Any:
        found = one_step(*arguments)
        ends.append(asked[0])
        return found

    whole, training = (again(trained.trainings[model], tmp_path / name) for name in ("whole", "left"))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_one_step", step)
        patched.setattr(stopping, "check", check_until(math.inf))
        assert whole.run() == 0
        at = ends[2] + beyond  # the last question of the second step, or one of the third's first
        patched.setattr(stopping, "check", check_until(at))
        assert training.run() == EXIT_UNFINISHED
    assert asked[0] == at
    assert training.run() == 0
    assert_same_results(training, trained.trainings[model])


class ThreeSteps(StopRequest):
    """A time budget that is over after three steps, or two and the validation of an epoch."""

    asked = 0

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked > 3


@pytest.mark.slow
def test_attempts_with_a_budget_each_end_like_one_without(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "deq_pgd_at_base"
    training = again(trained.trainings[model], tmp_path)
    monkeypatch.setattr("deqpipe.training.run.StopRequest", ThreeSteps)
    assert [training.run() for _ in range(5)] == [*[EXIT_UNFINISHED] * 4, 0]
    assert_same_results(training, trained.trainings[model])


def test_a_budget_that_allows_no_step_is_answered_with_one_line(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = again(trained.trainings["deq_pretrain"], tmp_path, options=("--time-budget-minutes", "1e-9"))
    assert training.run() == 2
    assert capsys.readouterr().err == "deqpipe: not one training step finished within 1e-09 minutes: allow more time\n"


def test_a_signal_before_the_first_step_is_no_mistake_of_the_user(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return train(*arguments, **named)

    train = loop.train
    monkeypatch.setattr("deqpipe.training.run.train", interrupted)
    assert again(trained.trainings["deq_pretrain"], tmp_path).run() == EXIT_UNFINISHED


def test_other_inputs_start_the_training_again_and_the_same_ones_in_a_new_file_do_not(
    trained: Trained, tmp_path: Path
) -> None:
    model = "deq_pgd_at_base"
    training = again(trained.trainings[model], tmp_path)
    assert training.run() == 0
    handoff = checkpoint.read(trained.file("deq_pretrain", "handoff"))
    first = checkpoint.read(training.outputs["last"])
    rewritten = tmp_path / "rewritten.safetensors"
    checkpoint.write(rewritten, handoff.tensors, {**handoff.metadata, "note": "the same tensors"})
    repeated = replace(training, trunk=rewritten)
    assert repeated.run() == 0
    assert checkpoint.read(training.outputs["last"]).metadata == first.metadata
    changed = {name: tensor + 0.01 if name.endswith("fc.bias") else tensor for name, tensor in handoff.tensors.items()}
    checkpoint.write(rewritten, changed, handoff.metadata)
    assert repeated.run() == 0
    second = checkpoint.read(training.outputs["last"])
    assert second.metadata["provenance"]["inputs"]["trunk"] == file_hash(rewritten)
    assert not torch.equal(first.tensors["head.fc.bias"], second.tensors["head.fc.bias"])


def test_state_of_another_spec_is_refused(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = again(trained.trainings["deq_pretrain"], tmp_path)
    assert first.run() == 0
    before = {path: path.read_bytes() for path in first.outputs.values()}
    capsys.readouterr()
    other = replace(first, spec=tiny.spec("pretrain", {"training": {"learning_rate": 0.03}}))
    assert other.run() == 2
    assert "belongs to another spec; delete" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in first.outputs.values()} == before


def test_a_diverged_training_publishes_nothing_and_exits_with_1(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = PGDAdversarial.__call__

    def spoiled(self: PGDAdversarial, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        loss = original(self, model, batch, sources)
        return Loss(loss.value * float("nan"), loss.logits) if sources.step == 47 else loss

    monkeypatch.setattr(PGDAdversarial, "__call__", spoiled)
    training = again(trained.trainings["deq_pgd_at_base"], tmp_path, options=("--save-interval", "0"))
    assert training.run() == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deqpipe:")]
    state = training.state / "training.safetensors"
    assert error == [
        f"deqpipe: loss is nan at step 47 of 54: the training diverged; last good state: {state}; "
        "lower training.learning_rate (0.02)"
    ]
    assert not any(path.exists() for path in training.outputs.values())
    progress = loop.Store(training.state, {}).progress()
    assert progress is not None
    assert progress.step == 47
    assert all(tensor.isfinite().all() for tensor in checkpoint.read(state).tensors.values())


@pytest.mark.parametrize(
    ("stage", "model", "section"),
    [("pretrain", "deq_pretrain", "training"), ("train_feedforward", "resnet18_pgd_at", "resnet.training")],
)
def test_a_training_that_explodes_finitely_names_its_learning_rate(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: Any, model: str, section: str
) -> None:
    rate: dict[str, Any] = {"training": {"learning_rate": 1e3}}
    spec = tiny.spec(
        stage, rate if section == "training" else {"resnet": rate}, model=None if stage == "pretrain" else model
    )
    training = again(trained.trainings[model], tmp_path, spec=spec)
    assert training.run() == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deqpipe:")]
    assert re.match(r"deqpipe: loss is [\d,.e+]+, above 1,099, at step \d+ of ", error)
    assert error.endswith(f"; lower {section}.learning_rate (1000)")
    assert not any(path.exists() for path in training.outputs.values())


@pytest.mark.slow
def test_another_seed_gives_another_trunk(trained: Trained, tmp_path: Path) -> None:
    other = again(trained.trainings["deq_pretrain"], tmp_path, spec=tiny.spec("pretrain", seed=1))
    assert other.run() == 0
    left, right = (checkpoint.read(t.outputs["last"]).tensors for t in (other, trained.trainings["deq_pretrain"]))
    assert not torch.equal(left["head.fc.weight"], right["head.fc.weight"])


@pytest.mark.parametrize("steps", [54, 99])
def test_pretraining_must_leave_steps_for_both_phases(
    trained: Trained, tmp_path: Path, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tiny.spec("pretrain", {"pretrain": {"steps": steps}})
    training = again(trained.trainings["deq_pretrain"], tmp_path / "x", spec=text)
    assert training.run() == 2
    assert f"pretrain.steps is {steps}, but must be 1 to 53" in capsys.readouterr().err
    assert not any(path.exists() for path in training.outputs.values())


def test_a_model_is_no_trunk(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deq = trained.trainings["deq_pgd_at_base"]
    training = again(deq, tmp_path / "x", trunk=trained.file("deq_pretrain", "best"))
    assert training.run() == 2
    assert "is no handoff of pretraining: 'model'" in capsys.readouterr().err


def test_what_a_config_says_reaches_the_training(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wiring from config.yaml's keys to the objects that train."""
    plans: list[loop.TrainingPlan] = []

    def look(plan: loop.TrainingPlan, model: nn.Module, optimizer: Any, **named: Any) -> loop.Progress:
        plans.append(plan)
        return loop.Progress(step=plan.first_step + 1)

    monkeypatch.setattr("deqpipe.training.run.train", look)
    changes = {
        "jacobian": {"weight": {"trades": 0.7, "pgd_at": 0.9}, "trades_terms": "adversarial", "length_jitter": [-1, 3]},
        "training": {"unroll": {"steps": 3, "damping": 0.25, "lead_step": True}},
        "random_state": {"natural": "shared", "in_attack": False},
        "selection": {"first_epoch": 4, "split": "test", "attack": {"steps": 9, "step_size_255": 51.0}},
    }
    for model in ("deq_trades_random_states", "deq_pgd_at_base"):
        text = tiny.spec("train_deq", changes, model=model)
        again(trained.trainings[model], tmp_path / model, spec=text).run()
    trades, at = plans
    assert isinstance(trades.objective, TradesAdversarial)
    assert isinstance(at.objective, PGDAdversarial)
    assert (trades.first_step, trades.last_step, trades.steps_per_epoch) == (43, 54, PER_EPOCH)
    assert trades.select_from_epoch == 4
    assert trades.learning_rate(27) == pytest.approx(0.01)
    assert (trades.objective.inverse_lambda, trades.objective.start_noise) == (6.0, 0.001)
    assert not trades.objective.both_penalised
    assert (trades.objective.attack.steps, trades.objective.attack.step_size * 255) == (2, 10)
    assert trades.objective.attack.ball.epsilon == 20 / 255
    forward: Any = trades.objective.forward
    assert (forward.gradient.steps, forward.gradient.damping, forward.gradient.lead_step) == (3, 0.25, True)
    assert (forward.random_states.natural, forward.random_states.in_attack) == ("shared", False)
    assert forward.jacobian.weight == 0.7
    assert (forward.jacobian.frequency, forward.jacobian.last_step, forward.jacobian.probes) == (0.5, 51, 2)
    assert forward.jacobian.length_jitter == (-1, 3)
    assert forward.termination.max_steps == 4
    plain: Any = at.objective.forward
    assert plain.random_states is None
    assert plain.jacobian.weight == 0.9
    validator: Any = trades.validate
    assert len(validator.split) == tiny.TEST
    assert (validator.attack.pgd.steps, validator.attack.pgd.step_size * 255) == (9, 51)
    assert validator.attack.seed == 0
    (scored,) = validator.logits.args
    assert (scored.final.steps, scored.gradient.steps, scored.gradient.lead_step) == (4, 3, True)


@pytest.mark.parametrize(
    ("model", "first", "size"), [("deq_trades_awp", 43 + PER_EPOCH, 0.005), ("resnet18_pgd_at_awp", PER_EPOCH, 0.01)]
)
def test_what_a_config_says_of_weight_perturbation_reaches_the_training(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, first: int, size: float
) -> None:
    def look(plan: loop.TrainingPlan, model: nn.Module, optimizer: Any, **named: Any) -> loop.Progress:
        assert isinstance(plan.objective, WeightPerturbed)
        plain = TradesAdversarial if size == 0.005 else PGDAdversarial
        assert isinstance(plan.objective.objective, plain)
        assert (plan.objective.first_step, plan.objective.size) == (first, size)
        raise UserError("seen")

    monkeypatch.setattr("deqpipe.training.run.train", look)
    assert perturbed(trained, tmp_path, model, warmup=1).run() == 2


def perturbed(trained: Trained, folder: Path, model: str, *, warmup: int) -> Training:
    """The training of a model with perturbed weights, `warmup` epochs of it without."""
    stage, size = stages.training_stage(model), {"pgd_at": 0.01, "trades": 0.005}
    changes = {"weight_perturbation": {"enabled": True, "size": size, "warmup_epochs": warmup}}
    trunk = trained.file(vocabulary.TRUNK, "handoff") if stage == "train_deq" else None
    return Training(stage.replace("_", "-"), tiny.spec(stage, changes, model=model), trained.data, folder, trunk)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["deq_trades_awp_random_states", "resnet18_pgd_at_awp"])
def test_a_training_at_perturbed_weights_that_was_left_ends_with_the_same_bits(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Left within a step, where its ascent is over."""
    whole, left = (perturbed(trained, tmp_path / name, model, warmup=0) for name in ("whole", "left"))
    assert whole.run() == 0

    def leave(network: nn.Module, loss: Any, *, size: float) -> Any:
        found = original(network, loss, size=size)
        calls.append(size)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return found

    calls: list[float] = []
    original = weight_perturbation.ascent
    with monkeypatch.context() as patched:
        patched.setattr(weight_perturbation, "ascent", leave)
        assert left.run() == EXIT_UNFINISHED
    assert left.run() == 0
    assert_same_results(left, whole)


def test_the_trunks_optimiser_is_the_configured_one(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[Mapping[str, Any]] = []

    def look(plan: loop.TrainingPlan, model: nn.Module, optimizer: Any, **named: Any) -> loop.Progress:
        groups.append(optimizer.param_groups[0])
        return loop.Progress(step=plan.first_step + 1)

    monkeypatch.setattr("deqpipe.training.run.train", look)
    changes = {"training": {"betas": [0.8, 0.9], "weight_decay": 0.1}}
    again(trained.trainings["deq_pretrain"], tmp_path, spec=tiny.spec("pretrain", changes)).run()
    changes = {"resnet": {"training": {"momentum": 0.3, "weight_decay": 0.2}}}
    resnet = trained.trainings["resnet18_pgd_at"]
    again(resnet, tmp_path / "r", spec=tiny.spec("train_feedforward", changes, model="resnet18_pgd_at")).run()
    adam, sgd = groups
    assert (adam["betas"], adam["weight_decay"]) == ((0.8, 0.9), 0.1)
    assert (sgd["momentum"], sgd["weight_decay"]) == (0.3, 0.2)


def test_the_selecting_accuracy_is_that_of_the_unrolled_last_state(trained: Trained) -> None:
    """The clean validation accuracy of the last row, computed again from the last weights."""
    training = trained.trainings["deq_trades_random_states"]
    stored = checkpoint.read(training.outputs["last"])
    model = architecture.build(stored.metadata["architecture"], seed=0)
    checkpoint.load_module(model, stored.tensors)
    assert isinstance(model, DEQClassifier)
    model.eval()
    solver = tiny.settings().solver
    split = tiny.dataset().validation
    x = split.float_images(slice(None))
    with torch.no_grad():
        trajectory = PlainDynamics(build_solver(solver), build_termination(solver))(model, x)
        predicted = model.logits(trajectory.final_state(Unrolled(steps=2, damping=0.5))).argmax(1)
    assert float(history(training)[-1]["clean_accuracy"]) == int((predicted == split.labels).sum()) / tiny.VALIDATION


@pytest.mark.parametrize("model", one_in(2, ["deq_pgd_at_base", "deq_trades_random_states"], first=1))
def test_first_losses_are_the_recorded_ones(model: str, tmp_path: Path) -> None:
    """Golden: recorded by `python -m tests.record_first_losses`, in float64; they hold to 1e-6 on any machine."""
    assert first_losses(model, tmp_path) == pytest.approx(json.loads(GOLDEN.read_text())[model], rel=1e-6)


def first_losses(model: str, folder: Path) -> list[float]:
    """The losses of the first ten steps behind the trunk, everything computed in float64.

    In float32 the rounding errors of 43 steps of pretraining grow to a tenth.
    """
    losses: list[float] = []
    kind = TradesAdversarial if "trades" in model else PGDAdversarial
    fresh, original = training_jobs._fresh, kind.__call__

    def note(self: Any, network: nn.Module, batch: Batch, sources: Draws) -> Loss:
        loss: Loss = original(self, network, batch, sources)
        losses.append(loss.value.item())
        return loss

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training_jobs, "_fresh", lambda *arguments: fresh(*arguments).double())
        for module in ("training.feed", "data.dataset"):
            patched.setattr(f"deqpipe.{module}.to_float", lambda pixels: pixels.double() / 255)
        patched.setattr(kind, "__call__", note)
        data = tiny.data_file(folder)
        trunk = Training("pretrain", tiny.spec("pretrain"), data, folder / "trunk")
        handoff = trunk.outputs["handoff"]
        deq = Training("train-deq", tiny.spec("train_deq", model=model), data, folder / model, trunk=handoff)
        assert [trunk.run(), deq.run()] == [0, 0]
    return losses[:10]


def test_every_deq_has_a_training_that_fits_its_name() -> None:
    assert {stages.training_stage(model) for model in vocabulary.EVERY_DEQ} == {"train_deq"}
    assert {stages.training_stage(model) for model in vocabulary.EVERY_FEEDFORWARD} == {"train_feedforward"}
    assert stages.training_stage(vocabulary.TRUNK) == "pretrain"
