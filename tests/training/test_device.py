"""Training on devices that are not there: every tensor is where it belongs, and no step waits for the device."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from deqpipe import config
from deqpipe.attack.pgd import PGD, unfooled_objective
from deqpipe.config import ModelConfig
from deqpipe.data import crop_flip, steps_per_epoch
from deqpipe.gradient import Implicit
from deqpipe.model import architecture
from deqpipe.results import checkpoint
from deqpipe.settings import Settings
from deqpipe.threat_model import LinfBall
from deqpipe.training import run
from deqpipe.training.feed import Feed
from deqpipe.training.forward import Draws
from deqpipe.training.loop import TrainingPlan, descend
from deqpipe.training.objectives import Batch, Loss, TrainingObjective
from deqpipe.training.tally import Tally
from deqpipe.training.validation import Validator
from deqpipe.workflow import specs, stages, vocabulary
from tests import tiny
from tests.pretend import HostSynchronisation, Kind, WrongDevice, pretended, put
from tests.sampling import one_in

KINDS: tuple[Kind, ...] = ("meta", "cuda")
both = pytest.mark.parametrize("kind", KINDS)
MODELS = (vocabulary.TRUNK, *vocabulary.DEQS, *vocabulary.FEEDFORWARD)
every_model = pytest.mark.parametrize("model", MODELS)

# No scope over the batch: such a solve asks after every step whether it is over, and waits for the answer.
RELEASE = {key: value for key, value in config.PROTOCOLS["release"].items() if key != "solver.scope"}
JACOBIAN = {"jacobian": {"frequency": 1.0}}
EXACT = {"training": {"gradient": {"name": "exact", "steps": 2}}}
GRADIENTS: dict[str, Mapping[str, Any]] = {
    "phantom, Jacobian": JACOBIAN,
    "exact": EXACT,
    "exact, Jacobian": {**JACOBIAN, **EXACT},
}
SOLVERS: dict[str, Mapping[str, Any]] = {
    "tolerance": {"solver": {"tolerance": 0.1, "returned": "lowest_sample"}},
    "Anderson": {"solver": {"name": "anderson", "memory": 5}},
    "iteration": {"solver": {"name": "fixed_point"}},
}


TWO_SCALES = {"model": {"channels": [4, 8], "head_channels": [2, 4]}}
RANDOM = "deq_pgd_at_random_states"
SMALL: Mapping[str, Any] = {  # every operation once or twice, as each takes a hundred times as long as it should
    "model": {"channels": [4], "head_channels": [2]},
    "solver": {"steps": 2},
    "jacobian": {"length_jitter": [0, 1], "frequency": 0.0},
    "pretrain": {"layers": 2},
    "training": {"unroll": {"steps": 1}, "attack": {"steps": 1}},
    "selection": {"attack": {"steps": 1}},
    "attack": {"grid": {"states": [1, 2], "steps": [1]}},
}


def released() -> Mapping[str, Any]:
    """The keys of the authors' code that allow it, over the tiny experiment."""
    changes: dict[str, Any] = {"training": {"epochs": 18}}
    for key, value in RELEASE.items():
        inner: Any = value
        for name in reversed(key.split(".")):
            inner = {name: inner}
        changes = config.merge(changes, inner)
    return config.merge(changes, {"training": {"epochs": 18}, "selection": {"first_epoch": 1}})


@dataclass(frozen=True)
class World:
    """A training as its job would set it up, on a device that is not there."""

    plan: TrainingPlan
    model: nn.Module
    device: torch.device

    def batch(self) -> Batch:
        """Its first one, augmented there."""
        return self.plan.feed(self.device)(self.plan.first_step)

    def steps(self, count: int = 1) -> Tally:
        """Whole training steps."""
        return steps(self.plan, self.model, self.device, count)


def steps(plan: TrainingPlan, model: nn.Module, device: torch.device, count: int) -> Tally:
    """Batch, attack, loss, gradient, update."""
    optimizer, batches, tally = plan.optimizer(model), plan.feed(device), Tally.start(device)
    for step in range(plan.first_step, plan.first_step + count):
        tally = descend(plan, model, optimizer, batches(step), step=step, tally=tally)
    return tally


def world(device: torch.device, name: str, changes: Mapping[str, Any] | None = None) -> World:
    """The plan of a model's training job, and the model."""
    settings, dataset = tiny.settings(config.merge(SMALL, changes or {})), tiny.dataset()
    stage, of_model = stages.training_stage(name), None if name == vocabulary.TRUNK else name
    values: dict[str, Any] = {}
    for one, which in {"pretrain": None, stage: of_model}.items():
        wanted = one != "train_feedforward" or which
        values |= specs.build(one, settings, model=which, seed=0)["config"] if wanted else {}
    job = run.TrainingJob(
        spec={"seed": 0, "model": name, "config": values}, inputs={}, outputs={}, state=Path(),
        device=device, threads=1, budget_minutes=math.inf, save_interval=math.inf,
    )  # fmt: skip
    if stage == "train_feedforward":
        plan = run.feedforward_plan(job, Settings(values), dataset)
        described = architecture.describe_feedforward("resnet", settings.resnet, dataset)
    else:
        plan = _deq_plan(job, Settings(values), stage)
        described = architecture.describe_deq(Settings(values).section("model", ModelConfig), dataset)
    return World(plan, put(architecture.build(described, seed=0), device), device)


def _deq_plan(job: run.TrainingJob, values: Settings, stage: str) -> TrainingPlan:
    if stage == "pretrain":
        return run.pretraining_plan(job, values, tiny.dataset())
    return run.adversarial_plan(job, values, tiny.dataset(), first_step=values["pretrain"]["steps"])


def assert_there(model: nn.Module, tally: Tally, kind: Kind) -> None:
    """Parameters, their gradients and what was counted."""
    parameters = list(model.parameters())
    found = [*parameters, *(p.grad for p in parameters if p.grad is not None), *vars(tally).values()]
    assert len(found) > len(parameters) + 4
    assert {tensor.device.type for tensor in found} == {kind}


@both
@every_model
def test_a_training_step_of_every_model_stays_on_its_device_and_waits_for_nothing(kind: Kind, model: str) -> None:
    with pretended(kind) as device:
        there = world(device, model, TWO_SCALES)
        assert_there(there.model, there.steps(), kind)


@both
@pytest.mark.parametrize("model", [vocabulary.TRUNK, "resnet18_pgd_at"])
def test_so_do_several_steps(kind: Kind, model: str) -> None:
    with pretended(kind) as device:
        there = world(device, model)
        assert_there(there.model, there.steps(4), kind)


@pytest.mark.parametrize("what", GRADIENTS)
@pytest.mark.parametrize("model", one_in(3, vocabulary.DEQS))
def test_so_do_steps_with_other_gradients_and_the_jacobian_term(model: str, what: str) -> None:
    with pretended("meta") as device:
        there = world(device, model, GRADIENTS[what])
        objective: Any = there.plan.objective
        assert isinstance(objective.forward.gradient, Implicit) == ("exact" in what)
        assert_there(there.model, there.steps(), "meta")


@pytest.mark.parametrize("what", SOLVERS)
def test_so_do_steps_with_other_solvers(what: str) -> None:
    with pretended("meta") as device:
        there = world(device, "deq_trades_random_states", SOLVERS[what])
        assert_there(there.model, there.steps(), "meta")


@pytest.mark.parametrize("model", ["deq_pgd_at_random_states", "deq_trades_random_states", "resnet18_trades"])
def test_so_do_steps_by_the_authors_code_as_far_as_it_allows(model: str) -> None:
    with pretended("meta") as device:
        there = world(device, model, released())
        assert_there(there.model, there.steps(), "meta")


@both
def test_sums_are_read_in_one_copy(kind: Kind) -> None:
    with pretended(kind, reads=1) as device:
        tally = world(device, vocabulary.TRUNK).steps()
        assert tally.read().loss_sum == 0
        with pytest.raises(HostSynchronisation):
            tally.read()


@both
@pytest.mark.parametrize(
    ("model", "changes"),
    [(vocabulary.TRUNK, {}), (RANDOM, {}), (RANDOM, released()), ("resnet18_pgd_at", {})],
    ids=["trunk", "paper", "release", "resnet"],
)
def test_validation_waits_for_the_device_once(kind: Kind, model: str, changes: Mapping[str, Any]) -> None:
    with pretended(kind, reads=1) as device:
        there = world(device, model, changes)
        assert isinstance(there.plan.validate, Validator)
        assert there.plan.validate.split.images.device.type == kind
        found = replace(there.plan.validate, batch_size=8)(there.model)
        assert (found.clean, found.robust) == (0, None if model == vocabulary.TRUNK else 0)


@both
def test_images_are_picked_and_augmented_where_they_are(kind: Kind) -> None:
    with pretended(kind) as device:
        split = tiny.dataset().train.to(device)
        assert split.images.dtype == torch.uint8
        assert crop_flip(split.images, torch.Generator()).device.type == kind
        assert split.float_images(slice(0, 3), device).device.type == kind
        batches = Feed(split, crop_flip, seed=0, batch_size=16, device=device)
        for step in range(steps_per_epoch(tiny.TRAIN, 16) + 1):
            batch = batches(step)
            assert (batch.x.device.type, batch.y.device.type, batch.x.dtype) == (kind, kind, torch.float32)


@both
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter.*:UserWarning")
def test_a_trunk_hands_its_optimiser_over_to_the_device(kind: Kind, fused: bool) -> None:
    """Counters of steps as well, which an unfused optimiser keeps on the CPU."""
    trunk = trunk_of(fused=fused)
    with pretended(kind, blocking_uploads=True) as device:
        there = world(device, "deq_trades_base")
        optimizer = run.hand_over(run.Prepared(there.plan, there.model, {}, trunk))
        states = list(optimizer.state.values())
        assert len(states) == len(list(there.model.parameters()))
        assert {value.device.type for state in states for value in state.values()} == {kind}
        tally = descend(there.plan, there.model, optimizer, there.batch(), step=there.plan.first_step)
        assert_there(there.model, tally, kind)


def trunk_of(*, fused: bool) -> checkpoint.Checkpoint:
    """A handoff after one step of the optimiser."""
    described = architecture.describe_deq(tiny.settings(SMALL).model, tiny.dataset())
    model = architecture.build(described, seed=1)
    optimizer = Adam(model.parameters(), fused=fused)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = checkpoint.prefixed("model", model.state_dict()) | checkpoint.optimizer_tensors(optimizer, model)
    return checkpoint.Checkpoint(tensors, {}, checkpoint.digest(tensors))


@both
def test_an_attack_that_leaves_the_fooled_alone_waits_for_nothing(kind: Kind) -> None:
    with pretended(kind) as device:
        network, x = put(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), device), world(device, vocabulary.TRUNK).batch()
        attack = PGD(LinfBall(0.1), steps=2, step_size=0.05)
        assert attack(unfooled_objective(network, x.y), x.x, start=x.x).images.device.type == kind


# That the tests above notice: one mistake each, in what is trained and in the code that trains.


def masked(loss: Loss) -> Loss:
    """A mask that was drawn on the CPU and not moved."""
    return Loss(loss.value, loss.logits * (torch.rand(loss.logits.shape) < 0.5))


def allocated(loss: Loss) -> Loss:
    """An allocation without `device=`."""
    return Loss(torch.stack([loss.value, torch.zeros(())]).sum(), loss.logits)


def printed(loss: Loss) -> Loss:
    """One `.item()`."""
    return Loss(loss.value * (loss.value.item() < 9), loss.logits)


def picked(loss: Loss) -> Loss:
    """An index of booleans."""
    return Loss(loss.value + loss.logits[loss.logits > 0].sum(), loss.logits)


def branched(loss: Loss) -> Loss:
    """A decision of the host."""
    return loss if loss.value.isfinite() else Loss(loss.value.nan_to_num(), loss.logits)


@dataclass(frozen=True)
class Mistaken:
    """An objective with one mistake."""

    objective: TrainingObjective
    mistake: Callable[[Loss], Loss]

    def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        return self.mistake(self.objective(model, batch, sources))


@both
@pytest.mark.parametrize(
    ("mistake", "noticed"),
    [
        (masked, WrongDevice),
        (allocated, WrongDevice),
        (printed, HostSynchronisation),
        (picked, HostSynchronisation),
        (branched, HostSynchronisation),
    ],
)
def test_a_mistake_in_an_objective_is_noticed(
    kind: Kind, mistake: Callable[[Loss], Loss], noticed: type[Exception]
) -> None:
    with pretended(kind) as device:
        there = world(device, vocabulary.TRUNK)
        plan = replace(there.plan, objective=Mistaken(there.plan.objective, mistake))
        with pytest.raises(noticed):
            steps(plan, there.model, device, 1)


UPLOADS = {
    "order of the images": ("training.feed", "deq_pgd_at_base"),
    "places of the crops": ("data.augment", "deq_pgd_at_base"),
    "start of PGD": ("training.objectives", "deq_pgd_at_base"),
    "start of TRADES": ("training.objectives", "deq_trades_base"),
    "Jacobian's probes": ("training.jacobian", "deq_trades_base"),
}


@both
@pytest.mark.parametrize("what", UPLOADS)
@pytest.mark.parametrize("how", ["not at all", "waiting"])
def test_a_tensor_that_is_not_moved_or_waited_for_is_noticed(
    kind: Kind, what: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, model = UPLOADS[what]
    with pretended(kind) as device:
        there = world(device, model, JACOBIAN)
        moved: Callable[..., Tensor] = (lambda x, to: x) if how == "not at all" else (lambda x, to: x.to(to))
        monkeypatch.setattr(f"deqpipe.{module}.upload", moved)
        # that probes are elsewhere, autograd says by itself
        with pytest.raises((WrongDevice, RuntimeError) if how == "not at all" else HostSynchronisation):
            there.steps()
