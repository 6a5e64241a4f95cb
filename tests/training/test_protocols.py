"""`protocol: release` in training: every key it sets reaches what trains, and a whole training runs and resumes."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqpipe import config
from deqpipe.attack.pgd import uniform_start
from deqpipe.gradient import Implicit, Unrolled
from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.model import architecture
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import checkpoint
from deqpipe.seeding import Stream
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination, solve
from deqpipe.threat_model import LinfBall
from deqpipe.training import loop
from deqpipe.workflow import specs, stages, vocabulary
from tests import tiny
from tests.sampling import one_in
from tests.tiny import Trained, Training
from tests.training.slow_states import slow_batch_residuals, slow_returned
from tests.training.test_run import ThreeSteps, assert_same_results, history

RELEASE = {"protocol": "release"}
MODEL = "deq_trades_random_states"
TRAINED = ("deq_pretrain", MODEL)
SECTIONS = ("solver", "training", "random_state", "selection")
LAST_EPOCH = 18  # the tiny experiment's


def changed(key: str, value: object) -> dict[str, Any]:
    """An overlay that sets one key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def handoff(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk two epochs before the end, of a step each, with weights on which states, decisions and attacks differ."""
    stored = checkpoint.read(trained.file("deq_pretrain", "handoff"))
    generator = torch.Generator().manual_seed(0)
    model = architecture.build(stored.metadata["architecture"], seed=0)
    parameters = {f"model.{name}" for name, _ in model.named_parameters()}
    rough = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) if name in parameters else tensor
        for name, tensor in stored.tensors.items()
    }
    path = tmp_path_factory.mktemp("rough") / "handoff.safetensors"
    short = {"training": {"batch_size": tiny.TRAIN}, "pretrain": {"steps": LAST_EPOCH - 2}}
    checkpoint.write(path, rough, {**of_settings(stored.metadata, short), "step": LAST_EPOCH - 2})
    return path


def of_settings(metadata: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a handoff as if its trunk had been trained with other settings."""
    origin = {**metadata["provenance"], "spec": specs.loads(tiny.spec("pretrain", changes))}
    return {**metadata, "provenance": origin, "step": tiny.settings(changes).pretrain.steps}


@dataclass(frozen=True)
class Laboratory:
    """Where trainings of the same trunk under different settings are compared."""

    data: Path
    handoff: Path
    folder: Path

    def training(self, changes: Mapping[str, Any], *, model: str = MODEL, seed: int = 0) -> Training:
        text = tiny.spec("train_deq", changes, model=model, seed=seed)
        folder = self.folder / f"{model}_{specs.fingerprint(specs.loads(text))}"
        return Training("train-deq", text, self.data, folder, trunk=self.handoff)

    def result(self, changes: Mapping[str, Any], *, model: str = MODEL) -> Training:
        """A training that is over; the same settings train once."""
        training = self.training(changes, model=model)
        if not training.folder.exists():
            assert training.run() == 0
        return training


@pytest.fixture(scope="module")
def laboratory(trained: Trained, handoff: Path, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(trained.data, handoff, tmp_path_factory.mktemp("laboratory"))


@pytest.fixture
def planned(
    trained: Trained, laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """The plan that a model is trained by, without training it."""
    plans: list[loop.TrainingPlan] = []

    def look(plan: loop.TrainingPlan, model: nn.Module, optimizer: Any, **named: Any) -> loop.Progress:
        plans.append(plan)
        return loop.Progress(step=plan.first_step + 1)

    def build(changes: Mapping[str, Any], *, model: str = MODEL, seed: int = 0) -> Any:
        plans.clear()
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        if model in vocabulary.FEEDFORWARD:
            text = tiny.spec("train_feedforward", changes, model=model, seed=seed)
            training = Training("train-feedforward", text, trained.data, folder)
        else:
            stored, trunk = checkpoint.read(laboratory.handoff), folder / "trunk.safetensors"
            checkpoint.write(trunk, stored.tensors, of_settings(stored.metadata, changes))
            training = replace(laboratory.training(changes, model=model, seed=seed), folder=folder, trunk=trunk)
        assert training.run() == EXIT_UNFINISHED
        return plans[0]

    monkeypatch.setattr("deqpipe.training.run.train", look)
    return build


# Where each key shows in what trains, its value by the paper's text and its value in the authors' code.

WIRING: dict[str, tuple[str, object, object]] = {
    "solver.returned": ("objective.forward.returned", "last", "lowest_batch"),
    "solver.tolerance": ("objective.forward.termination.rtol", 0.0, 1e-3),
    "solver.scope": ("objective.forward.termination.scope", "sample", "batch"),
    "training.unroll.lead_step": ("objective.forward.gradient.lead_step", False, True),
    "training.epochs": ("last_step", 210 * 3, 220 * 3),
    "training.learning_rate_min": ("learning_rate.keywords", {"end": 0.0}, {"end": 1e-6}),
    "random_state.pick": ("objective.forward.random_states.returned", "last", "lowest_sample"),
    "random_state.natural": ("objective.forward.random_states.natural", "final", "independent"),
    "selection.split": ("validate.split.labels.shape", (tiny.VALIDATION,), (tiny.TEST,)),
    "selection.first_epoch": ("select_from_epoch", 1, 30),
    "selection.attack_random_state": ("validate.attack.crafting.__class__.__name__", "NoneType", "partial"),
    "selection.freeze_fooled": ("validate.attack.freeze_fooled", False, True),
}


def test_every_key_that_a_protocol_sets_and_training_reads_is_looked_at() -> None:
    settable = {key for key in config.PROTOCOLS["release"] if key.split(".")[0] in SECTIONS}
    assert settable == WIRING.keys()


def seen(plan: Any, attribute: str) -> Any:
    found = operator.attrgetter(attribute)(plan)
    return {"end": found["end"]} if isinstance(found, dict) else found


@pytest.mark.parametrize("key", WIRING)
def test_a_key_of_the_protocol_reaches_what_trains(planned: Callable[..., Any], key: str) -> None:
    attribute, *expected = WIRING[key]
    found = []
    for protocol in ("paper", "release"):
        overlay = changed(key, config.PROTOCOLS[protocol][key])
        room = {} if key == "training.epochs" else {"training": {"epochs": 220}}  # for selection from epoch 30 on
        found.append(seen(planned(config.merge(room, overlay)), attribute))
    assert found == expected


def test_the_protocol_as_a_whole_reaches_what_trains(planned: Callable[..., Any]) -> None:
    plan = planned({**RELEASE, "training": {"epochs": 220}, "selection": {"first_epoch": 30}})
    for key, (attribute, _, expected) in WIRING.items():
        wanted = "lowest_batch" if key == "random_state.pick" else expected  # by solver.scope, here batch
        assert seen(plan, attribute) == wanted, key


def test_scoring_and_crafting_of_the_selection_read_states_as_training_does(planned: Callable[..., Any]) -> None:
    plan = planned(RELEASE)
    for logits in (plan.validate.logits, plan.validate.attack.crafting):
        (forward,) = logits.args
        assert forward == plan.objective.forward
    assert plan.validate.batch_size == plan.batch_size == 16  # the batch that images are coupled in


def test_selection_unrolls_the_state_even_where_training_has_the_exact_gradient(planned: Callable[..., Any]) -> None:
    plan = planned({**RELEASE, "training": {"gradient": {"name": "exact", "steps": 7}}})
    assert isinstance(plan.objective.forward.gradient, Implicit)
    for logits in (plan.validate.logits, plan.validate.attack.crafting):
        (forward,) = logits.args
        assert forward.gradient == Unrolled(steps=2, damping=0.5, lead_step=True)
        assert replace(forward, gradient=plan.objective.forward.gradient) == plan.objective.forward


@pytest.mark.parametrize("model", ["deq_pgd_at_base", "deq_trades_base", "resnet18_pgd_at", "resnet18_trades"])
def test_a_model_without_random_states_is_selected_without_them(planned: Callable[..., Any], model: str) -> None:
    plan = planned(RELEASE, model=model)
    assert plan.validate.attack.crafting is None
    assert plan.validate.attack.freeze_fooled
    assert len(plan.validate.split) == tiny.TEST


@pytest.mark.parametrize("model", [MODEL, "resnet18_trades"])
def test_a_selecting_attack_has_the_seed_of_its_training(planned: Callable[..., Any], model: str) -> None:
    plan = planned(RELEASE, model=model, seed=7)
    assert plan.validate.attack.seed == plan.seed == 7


# The same keys by what a training puts out: each changes the history or the published weights, some of them only over
# a setting that gives them something to decide. Two values are not the release's: an epoch that the experiment has,
# and a tolerance that its four solver steps reach.

SHOWN_OVER: dict[str, Mapping[str, Any]] = {
    "solver.returned": {},
    "solver.tolerance": {},
    "solver.scope": {"random_state": {"pick": "prefix_lowest"}},
    "training.unroll.lead_step": {},
    "random_state.pick": {},
    "random_state.natural": {},
    "selection.split": {},
    "selection.first_epoch": {},
    "selection.attack_random_state": {},
    "selection.freeze_fooled": {"selection": {"attack_random_state": True}},
}
VALUES = {**config.PROTOCOLS["release"], "selection.first_epoch": LAST_EPOCH, "solver.tolerance": 0.5}


def weights(training: Training, name: str) -> Mapping[str, Tensor]:
    return checkpoint.read(training.outputs[name]).tensors


def differ(left: Training, right: Training) -> bool:
    pairs = [(weights(left, name), weights(right, name)) for name in ("best", "last")]
    same = all(torch.equal(tensor, other[key]) for one, other in pairs for key, tensor in one.items())
    return not same or history(left) != history(right)


@pytest.mark.parametrize("key", one_in(3, SHOWN_OVER))
def test_a_key_of_the_protocol_changes_what_a_training_puts_out(laboratory: Laboratory, key: str) -> None:
    below = SHOWN_OVER[key]
    paper, release = (
        laboratory.result(config.merge(below, changed(key, value)))
        for value in (config.PROTOCOLS["paper"][key], VALUES[key])
    )
    assert differ(paper, release)


@pytest.mark.parametrize(
    "key", ["selection.split", "selection.first_epoch", "selection.attack_random_state", "selection.freeze_fooled"]
)
def test_selection_decides_which_weights_are_published_and_not_what_they_are(laboratory: Laboratory, key: str) -> None:
    below = SHOWN_OVER[key]
    paper, release = (
        laboratory.result(config.merge(below, changed(key, value)))
        for value in (config.PROTOCOLS["paper"][key], VALUES[key])
    )
    left, right = weights(paper, "last"), weights(release, "last")
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_a_model_without_random_states_ignores_that_others_are_selected_with_them(laboratory: Laboratory) -> None:
    plain, random = (
        laboratory.result({"selection": {"attack_random_state": value}}, model="deq_trades_base")
        for value in (False, True)
    )
    assert not differ(plain, random)


# The selecting attack of the release, written out from the parts that it is made of.


def slow_solve(fn: Callable[[Tensor], Tensor], z0: Tensor, steps: int) -> list[Tensor]:
    solver = Broyden()
    states = solve(solver, fn, solver.init(fn, z0), termination=Termination(steps))[0].states
    assert (slow_batch_residuals(fn, list(states)) > 1e-3).all()  # the tolerance
    return list(states)


def slow_logits(model: DEQClassifier, x: Tensor, steps: int) -> Tensor:
    """Behind the lowest of `steps` states: one undamped and two damped steps."""
    fn = model.bind(x)
    z = fn(slow_returned(fn, slow_solve(fn, model.initial_state(x), steps), "lowest_batch"))
    for _ in range(2):
        z = 0.5 * z + 0.5 * fn(z)
    return model.logits(z)


def slow_attack(model: DEQClassifier, x: Tensor, y: Tensor) -> Tensor:
    """Two steps of 10/255 within 20/255, each at a new random state, of the images that are right there."""
    ball, lengths = LinfBall(20 / 255), Stream(0, "selection/states").generator(0)
    current = uniform_start(x, ball=ball, stream=Stream(0, "selection"), images=range(len(x)), clamp=True)
    for _ in range(2):
        length, _second = (int(torch.randint(1, 5, (), generator=lengths)) for _ in range(2))
        current = current.detach().requires_grad_()
        logits = slow_logits(model, current, length)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), current)
        moved = (current + 10 / 255 * gradient.sign()).clamp(x - ball.epsilon, x + ball.epsilon).clamp(0, 1)
        right = (logits.argmax(1) == y)[:, None, None, None]
        current = torch.where(right, moved, current)
    return current.detach()


@pytest.fixture
def rough(handoff: Path) -> DEQClassifier:
    """The handed over model in evaluation mode and float64."""
    stored = checkpoint.read(handoff)
    model = architecture.build(stored.metadata["architecture"], seed=0)
    checkpoint.load_module(model, stored.part("model"))
    assert isinstance(model, DEQClassifier)
    return model.double().eval()


def test_selection_scores_the_unrolled_state_of_lowest_residual(
    planned: Callable[..., Any], rough: DEQClassifier
) -> None:
    x = tiny.dataset().test.float_images(slice(None)).double()
    found, expected = planned(RELEASE).validate.logits(rough, x), slow_logits(rough, x, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(planned({}).validate.logits(rough, x), expected, atol=1e-3)


def test_selecting_attack_of_the_release_is_that_of_a_slow_loop(
    planned: Callable[..., Any], rough: DEQClassifier
) -> None:
    plan = planned(RELEASE)
    x = tiny.dataset().test.float_images(slice(None)).double()
    with torch.no_grad():
        y = slow_logits(rough, x, 4).argmax(1)
    y[::4] = (y[::4] + 1) % 3  # some are wrong from the start
    found = plan.validate.attack(rough, plan.validate.logits, x, y, range(tiny.TEST))
    torch.testing.assert_close(found, slow_attack(rough, x, y), rtol=0, atol=1e-12)


# A whole training.


@pytest.fixture(scope="module")
def released(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Training]:
    """Trainings under the release that are over."""
    folder = tmp_path_factory.mktemp("released")
    trainings: dict[str, Training] = {}
    for model in TRAINED:
        stage = stages.training_stage(model)
        text = tiny.spec(stage, RELEASE, model=None if stage == "pretrain" else model)
        trunk = trainings[vocabulary.TRUNK].outputs["handoff"] if stage == "train_deq" else None
        trainings[model] = Training(stage.replace("_", "-"), text, trained.data, folder / model, trunk=trunk)
        assert trainings[model].run() == 0
    return trainings


@pytest.mark.parametrize("model", TRAINED)
def test_a_training_under_the_release_runs_to_its_end(released: Mapping[str, Training], model: str) -> None:
    rows = history(released[model])
    assert int(rows[-1]["epoch"]) == (15 if model == "deq_pretrain" else LAST_EPOCH)
    for row in rows:
        assert float(row["loss"]) < 100
        hits = float(row["clean_accuracy"]) * (tiny.VALIDATION if model == "deq_pretrain" else tiny.TEST)
        assert hits == pytest.approx(round(hits))


def test_learning_rate_under_the_release_ends_above_zero(released: Mapping[str, Training]) -> None:
    rows = history(released[MODEL])
    assert float(rows[-1]["learning_rate"]) == pytest.approx(loop.cosine(53, total=54, start=0.02, end=1e-6))
    assert float(rows[-1]["learning_rate"]) > loop.cosine(53, total=54, start=0.02, end=0.0)


@pytest.mark.slow
def test_attempts_with_a_budget_under_the_release_end_like_one_without(
    released: Mapping[str, Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(released[MODEL], folder=tmp_path)
    monkeypatch.setattr("deqpipe.training.run.StopRequest", ThreeSteps)
    assert [training.run() for _ in range(5)] == [*[EXIT_UNFINISHED] * 4, 0]
    assert_same_results(training, released[MODEL])


def test_accuracy_under_the_release_is_that_of_the_unrolled_state_of_lowest_residual(
    released: Mapping[str, Training],
) -> None:
    """The clean accuracy of the last row, computed again from the last weights."""
    training = released[MODEL]
    stored = checkpoint.read(training.outputs["last"])
    model = architecture.build(stored.metadata["architecture"], seed=0)
    checkpoint.load_module(model, stored.tensors)
    assert isinstance(model, DEQClassifier)
    model.eval()
    split = tiny.dataset().test
    with torch.no_grad():
        predicted = slow_logits(model, split.float_images(slice(None)), 4).argmax(1)
    assert float(history(training)[-1]["clean_accuracy"]) == int((predicted == split.labels).sum()) / tiny.TEST
