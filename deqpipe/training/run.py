"""The training jobs, from a spec to published files: the shared trunk, a DEQ from it, a network without states."""

import csv
import io
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deqpipe.attack.pgd import PGD
from deqpipe.attack.surrogate import IntermediateState
from deqpipe.attack.trial import GradientTrial
from deqpipe.build import build_solver, build_termination, plain_dynamics
from deqpipe.compute.precision import Precision
from deqpipe.compute.replay import DIRECT, Graphs, Runner
from deqpipe.compute.ways import NOTHING_ASKED, Asked, choose
from deqpipe.config import (
    AnySolverConfig,
    FeedforwardConfig,
    ModelConfig,
    PretrainConfig,
    RandomStateConfig,
    SelectionConfig,
    TradesConfig,
    TrainingAttackConfig,
    Unroll,
    parse_gradient,
    parse_solver,
)
from deqpipe.data import Dataset, Split, augmentation, load, steps_per_epoch
from deqpipe.dynamics import PlainDynamics
from deqpipe.errors import UserError
from deqpipe.gradient import Implicit, StateGradient, Unrolled
from deqpipe.machine import faults
from deqpipe.machine.device import describe, set_up
from deqpipe.machine.stopping import EXIT_UNFINISHED, StopRequest
from deqpipe.model import architecture
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.interface import FixedPointModel
from deqpipe.results import checkpoint, history, metrics, records
from deqpipe.results.lock import locked
from deqpipe.results.provenance import checked, provenance
from deqpipe.seeding import Stream
from deqpipe.settings import Settings
from deqpipe.shapes import Logits
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Termination, lowest_of
from deqpipe.threat_model import ball_of
from deqpipe.training.forward import (
    CraftingLogits,
    DEQForward,
    Forward,
    LogitsOf,
    PlainForward,
    RandomStates,
    UnrolledForward,
)
from deqpipe.training.jacobian import JacobianRegularisation
from deqpipe.training.loop import HISTORY, Progress, Setting, Store, TrainingPlan, cosine, multistep, train
from deqpipe.training.meter import Meter, flops_of_f, peak
from deqpipe.training.objectives import (
    AdversarialObjective,
    CleanUnrolled,
    PGDAdversarial,
    TradesAdversarial,
    TrainingObjective,
)
from deqpipe.training.optimizers import SGD, Adam
from deqpipe.training.tally import largest_loss
from deqpipe.training.validation import Crafting, Scoring, SelectingAttack, Validator
from deqpipe.training.weight_perturbation import WeightPerturbed
from deqpipe.workflow import vocabulary
from deqpipe.workflow.endings import GO_ON

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingJob:
    """What a training command was called with.

    Attributes:
        spec: of the job.
        inputs: files it reads, by name: data and, for a DEQ, trunk.
        outputs: files it publishes, by name: best, last, history and, for the trunk, handoff.
        state: folder of its resumable state.
        device: where it computes.
        threads: of the CPU.
        ways: faster ways to the same numbers that may be taken.
        budget_minutes: it saves and leaves when they are over.
        save_interval: seconds between two saves within an epoch.
        begun: when the budget began, by `time.monotonic`.
    """

    spec: Mapping[str, Any]
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    state: Path
    device: torch.device
    threads: int
    budget_minutes: float
    save_interval: float
    ways: Asked = NOTHING_ASKED
    begun: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Prepared:
    """A plan, and the model that it is for."""

    plan: TrainingPlan
    model: nn.Module
    architecture: Mapping[str, Any]
    handed_over: checkpoint.Checkpoint | None = None


def pretrain(job: TrainingJob) -> int:
    """Train the trunk; returns the exit status."""
    dataset = load(job.inputs["data"])
    settings = _set_up(job, job.spec["config"])
    described = architecture.describe_deq(settings.section("model", ModelConfig), dataset)
    model = _fresh(described, job)
    # Clean images are not attacked: there is no step to replay.
    _fastest(
        model, _pretraining_surrogate(settings.section("pretrain", PretrainConfig).layers), settings, job, replay=False
    )
    return _run(job, Prepared(pretraining_plan(job, settings, dataset), model, described))


def pretraining_plan(job: TrainingJob, settings: Settings, dataset: Dataset) -> TrainingPlan:
    """The training of the trunk.

    Raises:
        UserError: it takes all epochs.
    """
    pretraining = settings.section("pretrain", PretrainConfig)
    forward = UnrolledForward(pretraining.layers)
    total = _total_steps(settings, dataset)
    if not 1 <= pretraining.steps < total:
        raise UserError(
            f"pretrain.steps is {pretraining.steps}, but must be 1 to {total - 1}: "
            f"the {settings['training.epochs']} epochs have {total} steps"
        )
    return _deq_plan(
        job,
        settings,
        dataset,
        phase="pretrain",
        objective=CleanUnrolled(forward),
        steps=range(pretraining.steps),
        validate=_clean_validator(job, settings, dataset, forward),
        select_from_epoch=None,
    )


def train_deq(job: TrainingJob) -> int:
    """Train a DEQ adversarially from the trunk's handoff; returns the exit status."""
    return _run(job, prepare_deq(job, load(job.inputs["data"])))


def prepare_deq(job: TrainingJob, dataset: Dataset) -> Prepared:
    """The adversarial training of a DEQ from the trunk's handoff, before its first step.

    Raises:
        UserError: the trunk is no handoff of pretraining.
    """
    trunk = checkpoint.read(job.inputs["trunk"])
    if trunk.metadata.get("kind") != "handoff" or not {"architecture", "provenance", "step"} <= set(trunk.metadata):
        raise UserError(f"trunk {job.inputs['trunk']} is no handoff of pretraining: {trunk.metadata.get('kind')!r}")
    origin = checked(trunk.metadata["provenance"], job.inputs["trunk"])
    settings = _set_up(job, {**origin["spec"]["config"], **job.spec["config"]})
    step, steps = trunk.metadata["step"], settings.section("pretrain", PretrainConfig).steps
    if step != steps:
        raise UserError(f"trunk {job.inputs['trunk']} says that it took {step!r} steps, but its spec has {steps}")
    described = trunk.metadata["architecture"]
    model = _fresh(described, job)
    # An exact gradient's backward pass is a solve: nobody has tried to capture it.
    replay = settings.variant("training.gradient", parse_gradient).name != "exact"
    run = _fastest(model, _adversarial_surrogate(settings), settings, job, replay=replay)
    plan = adversarial_plan(job, settings, dataset, first_step=step, run=run)
    return Prepared(plan, model, described, trunk)


def _fastest(
    model: nn.Module, surrogate: IntermediateState, settings: Settings, job: TrainingJob, *, replay: bool
) -> Runner:
    """Let a DEQ compute in the fastest way that has proved itself on a surrogate; what runs the steps of attacks.

    Without `replay` nothing is captured: ways are compared as they are called.
    """
    assert isinstance(model, DEQClassifier)
    precision, images = Precision(settings["precision"]), settings["training.batch_size"]
    ways = job.ways.for_solver(couples=surrogate.dynamics.couples_images)
    ways = ways if replay else replace(ways, graphs=False)
    way = choose(ways, job.device, lambda: GradientTrial(model, surrogate, precision, images, weights=True))
    model.compute_with(precision, way)
    return Graphs(model.counter) if way.graphs else DIRECT


def _pretraining_surrogate(layers: int) -> IntermediateState:
    """The weight-tied network: a step of fixed-point iteration, and the others with gradient."""
    dynamics = PlainDynamics(FixedPointIteration(), Termination(1))
    return IntermediateState(1, Unrolled(steps=layers - 1, damping=1.0), dynamics)


def _adversarial_surrogate(settings: Settings) -> IntermediateState:
    """z^[N], unrolled as in training."""
    dynamics = plain_dynamics(settings)
    return IntermediateState(dynamics.termination.max_steps, _unroll(settings), dynamics)


def adversarial_plan(
    job: TrainingJob, settings: Settings, dataset: Dataset, *, first_step: int, run: Runner = DIRECT
) -> TrainingPlan:
    """The adversarial training of a DEQ.

    Args:
        job: the call.
        settings: of the job.
        dataset: what is trained on.
        first_step: where pretraining ended.
        run: runs the steps of its attacks.
    """
    kind = vocabulary.MODELS[job.spec["model"]]
    forward = _deq_forward(settings, kind, dataset)
    objective = _adversarial_objective(job, settings, kind, forward, run)
    per_epoch = steps_per_epoch(len(dataset.train), settings["training.batch_size"])
    return _deq_plan(
        job,
        settings,
        dataset,
        phase="adversarial",
        objective=_perturbed(objective, settings, kind, steps_before=first_step, per_epoch=per_epoch),
        steps=range(first_step, _total_steps(settings, dataset)),
        validate=_deq_validator(job, settings, dataset, replace(forward, gradient=_unroll(settings)), run),
        select_from_epoch=settings.section("selection", SelectionConfig).first_epoch,
        penalty=Setting(
            f"jacobian.{'other_weight' if kind.other_jacobian else 'weight'}.{kind.framework}", forward.jacobian.weight
        ),
        counts_attacked=kind.framework == "pgd_at",
    )


def train_feedforward(job: TrainingJob) -> int:
    """Train a network without states adversarially; returns the exit status."""
    dataset = load(job.inputs["data"])
    settings = _set_up(job, job.spec["config"])
    name = vocabulary.MODELS[job.spec["model"]].architecture.name
    described = architecture.describe_feedforward(name, _feedforward(job, settings), dataset)
    return _run(job, Prepared(feedforward_plan(job, settings, dataset), _fresh(described, job), described))


def train_own(job: TrainingJob) -> int:
    """Train a model that a user's file defines adversarially, from scratch; returns the exit status."""
    dataset = load(job.inputs["data"])
    settings = _set_up(job, job.spec["config"])
    described = architecture.describe_own(vocabulary.MODELS[job.spec["model"]].architecture.name, dataset)
    plan = adversarial_plan(job, settings, dataset, first_step=0)
    return _run(job, Prepared(plan, _fresh(described, job), described))


def _feedforward(job: TrainingJob, settings: Settings) -> FeedforwardConfig:
    kind = vocabulary.MODELS[job.spec["model"]].architecture
    return settings.section(kind.section, architecture.FEEDFORWARD[kind.name].settings)


def feedforward_plan(job: TrainingJob, settings: Settings, dataset: Dataset) -> TrainingPlan:
    """The adversarial training of a network without states."""
    recipe, kind = _feedforward(job, settings).training, vocabulary.MODELS[job.spec["model"]]
    per_epoch = steps_per_epoch(len(dataset.train), recipe.batch_size)
    objective = _adversarial_objective(job, settings, kind, PlainForward())
    return TrainingPlan(
        phase="adversarial",
        objective=_perturbed(objective, settings, kind, steps_before=0, per_epoch=per_epoch),
        train=dataset.train,
        augment=augmentation(settings["data.augment"]),
        seed=job.spec["seed"],
        batch_size=recipe.batch_size,
        first_step=0,
        last_step=recipe.epochs * per_epoch,
        learning_rate=partial(
            multistep,
            steps_per_epoch=per_epoch,
            start=recipe.learning_rate,
            milestones=recipe.milestones,
            factor=recipe.factor,
        ),
        optimizer=lambda model: SGD(
            model.parameters(),
            recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        ),
        validate=_robust_validator(job, settings, dataset, _network_logits, recipe.batch_size),
        select_from_epoch=settings.section("selection", SelectionConfig).first_epoch,
        largest_loss=largest_loss(len(dataset.classes)),
        pace=Setting(f"{kind.architecture.section}.training.learning_rate", recipe.learning_rate),
        counts_attacked=kind.framework == "pgd_at",
    )


def _set_up(job: TrainingJob, values: Mapping[str, Any]) -> Settings:
    settings = Settings(values)
    set_up(precision=settings["precision"], threads=job.threads)
    return settings


def _run(job: TrainingJob, prepared: Prepared) -> int:
    store = Store(job.state, job.spec, _digests(job), job.save_interval)
    model = prepared.model
    with locked(job.state), StopRequest(job.budget_minutes, since=job.begun) as stop:
        records.remove_leftovers(job.state)
        optimizer = hand_over(prepared)
        store.set_aside_damaged(prepared.plan, model, optimizer)
        before = (store.progress() if store.is_usable() else None) or Progress(step=prepared.plan.first_step)
        with _memory_told(prepared.plan, job.threads):
            progress = train(prepared.plan, model, optimizer, store=store, stop=stop, meter=_meter(job, prepared))
        if progress.is_complete(prepared.plan):
            _publish(job, prepared, progress, store)
            return 0
        if (progress.step, progress.seen) == (before.step, before.seen) and not stop.signalled:
            missing = "validation" if progress.awaits_validation(prepared.plan) else "training step"
            raise UserError(f"not one {missing} finished within {job.budget_minutes:g} minutes: allow more time")
    _logger.info("%s: saved at step %d of %d; %s", stop.reason, progress.step, prepared.plan.last_step, GO_ON)
    return EXIT_UNFINISHED


def _meter(job: TrainingJob, prepared: Prepared) -> Meter:
    """What is known of the arithmetic; FLOPs are counted only where there is a peak to compare them with."""
    model = prepared.model
    most = peak(job.device, model.function.precision.name) if isinstance(model, DEQClassifier) else None
    return Meter(
        model=job.spec.get("model", vocabulary.TRUNK),
        seed=job.spec["seed"],
        device=job.device,
        flops=flops_of_f(prepared.architecture) if most else None,
        peak=most,
    )


@contextmanager
def _memory_told(plan: TrainingPlan, threads: int) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not faults.is_out_of_memory(error):
            raise
        said, limit = faults.brief(error), faults.limit()
        raise UserError(
            f"memory does not hold a training step on {plan.batch_size} images ({said}){limit}; their number "
            "(training.batch_size) is part of the result: it needs a device with more, precision: bf16 where the "
            f"device has it, or fewer --threads, now {threads}"
        ) from None


def hand_over(prepared: Prepared) -> Optimizer:
    """The optimiser of a training; where a trunk hands over, the model and the optimiser go on from it."""
    optimizer = prepared.plan.optimizer(prepared.model)
    if prepared.handed_over is not None:
        checkpoint.load_module(prepared.model, prepared.handed_over.part("model"), source="trunk")
        checkpoint.restore_optimizer(optimizer, prepared.model, prepared.handed_over.tensors, source="trunk")
    return optimizer


def _digests(job: TrainingJob) -> dict[str, str]:
    """What stands for the content of each input, whoever wrote its file and when."""
    return {name: checkpoint.read(path).digest for name, path in job.inputs.items()}


def _publish(job: TrainingJob, prepared: Prepared, progress: Progress, store: Store) -> None:
    """Write the outputs from the stored state; doing it again gives the same files."""
    origin = store.origin(
        provenance(
            job.spec,
            device=describe(job.device),
            inputs=job.inputs,
            seconds=progress.seconds,
            evaluations=progress.evaluations,
        )
    )
    stored = checkpoint.read(store.state_file, what="training state")
    common = {"architecture": dict(prepared.architecture), "provenance": origin, "step": progress.step}
    best, told = checkpoint.read(store.best_file), _csv(progress.history)
    facts = {
        "kind": architecture.KIND,
        "epoch": progress.best_epoch,
        "history": history.digest(told.encode()),
        **common,
    }
    checkpoint.write(job.outputs["best"], best.tensors, facts)
    last = {"kind": architecture.KIND, "epoch": progress.history[-1]["epoch"], **common}
    checkpoint.write(job.outputs["last"], stored.part("model"), last)
    if "handoff" in job.outputs:
        checkpoint.write(job.outputs["handoff"], stored.tensors, {"kind": "handoff", **common})
    _publish_metrics(store, job.outputs["history"].with_name(metrics.NAME))
    records.write_text(job.outputs["history"], told)


def _publish_metrics(store: Store, path: Path) -> None:
    """A copy beside the history. It is no output of the rule: trainings of before would be run again for lack of it."""
    if store.metrics_file.exists():
        records.write_text(path, store.metrics_file.read_text(encoding="utf-8"))


def _csv(history: tuple[Mapping[str, Any], ...]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _fresh(described: Mapping[str, Any], job: TrainingJob) -> nn.Module:
    return architecture.build(described, seed=job.spec["seed"]).to(job.device)


def _total_steps(settings: Settings, dataset: Dataset) -> int:
    epochs: int = settings["training.epochs"]
    return epochs * steps_per_epoch(len(dataset.train), settings["training.batch_size"])


def _deq_plan(
    job: TrainingJob,
    settings: Settings,
    dataset: Dataset,
    *,
    phase: str,
    objective: TrainingObjective,
    steps: range,
    validate: Validator,
    select_from_epoch: int | None,
    penalty: Setting | None = None,
    counts_attacked: bool = False,
) -> TrainingPlan:
    """What both phases share: order of the data, augmentation, optimiser, one cosine schedule."""
    start = settings["training.learning_rate"]
    return TrainingPlan(
        phase=phase,
        objective=objective,
        train=dataset.train,
        augment=augmentation(settings["data.augment"]),
        seed=job.spec["seed"],
        batch_size=settings["training.batch_size"],
        first_step=steps.start,
        last_step=steps.stop,
        learning_rate=partial(
            cosine, total=_total_steps(settings, dataset), start=start, end=settings["training.learning_rate_min"]
        ),
        optimizer=lambda model: Adam(
            model.parameters(),
            start,
            betas=tuple(settings["training.betas"]),
            weight_decay=settings["training.weight_decay"],
            fused=True,
        ),
        validate=validate,
        select_from_epoch=select_from_epoch,
        largest_loss=largest_loss(len(dataset.classes)),
        pace=Setting("training.learning_rate", start),
        penalty=penalty,
        counts_attacked=counts_attacked,
    )


def _deq_forward(settings: Settings, kind: vocabulary.TrainedModel, dataset: Dataset) -> DEQForward:
    solver = settings.variant("solver", parse_solver)
    random = settings.section("random_state", RandomStateConfig) if kind.random_states else None
    per_epoch = steps_per_epoch(len(dataset.train), settings["training.batch_size"])
    low, high = settings["jacobian.length_jitter"]
    return DEQForward(
        solver=build_solver(solver),
        termination=build_termination(solver),
        gradient=_training_gradient(settings, solver),
        random_states=_random_states(random, solver) if random else None,
        jacobian=JacobianRegularisation(
            weight=settings[f"jacobian.weight.{kind.framework}"],
            frequency=settings["jacobian.frequency"],
            last_step=settings["jacobian.stop_epoch"] * per_epoch,
            probes=settings["jacobian.probes"],
            length_jitter=(low, high),
        ),
        returned=solver.returned,
    )


def _random_states(config: RandomStateConfig, solver: AnySolverConfig) -> RandomStates:
    returned = "last" if config.pick == "iterate" else lowest_of(solver.scope)
    return RandomStates(in_attack=config.in_attack, natural=config.natural, returned=returned)


def _training_gradient(settings: Settings, solver: AnySolverConfig) -> StateGradient:
    gradient = settings.variant("training.gradient", parse_gradient)
    if gradient.name == "exact":
        return Implicit(solver=build_solver(solver), steps=gradient.steps)
    return _unroll(settings)


def _unroll(settings: Settings) -> Unrolled:
    unroll = settings.section("training.unroll", Unroll)
    return Unrolled(steps=unroll.steps, damping=unroll.damping, lead_step=unroll.lead_step)


def _attack(settings: Settings, attack: TrainingAttackConfig, run: Runner) -> PGD:
    ball = ball_of(settings)
    return PGD(ball, steps=attack.steps, step_size=attack.step_size_255 / 255, run=run)


def _adversarial_objective(
    job: TrainingJob, settings: Settings, kind: vocabulary.TrainedModel, forward: Forward, run: Runner = DIRECT
) -> AdversarialObjective:
    attack = _attack(settings, settings.section("training.attack", TrainingAttackConfig), run)
    stream = Stream(job.spec["seed"], "training/attack")
    if kind.framework == "pgd_at":
        return PGDAdversarial(forward, attack, stream)
    trades = settings.section("training.trades", TradesConfig)
    return TradesAdversarial(
        forward,
        attack,
        stream,
        inverse_lambda=trades.inverse_lambda,
        start_noise=trades.start_noise,
        both_penalised="jacobian.trades_terms" in settings and settings["jacobian.trades_terms"] == "both",
    )


def _perturbed(
    objective: AdversarialObjective,
    settings: Settings,
    kind: vocabulary.TrainedModel,
    *,
    steps_before: int,
    per_epoch: int,
) -> TrainingObjective:
    """The objective at perturbed weights, for models that are trained so.

    Args:
        objective: at the weights themselves.
        settings: of the job.
        kind: of the model.
        steps_before: that come before the adversarial training.
        per_epoch: steps of an epoch.
    """
    if not kind.perturbed_weights:
        return objective
    return WeightPerturbed(
        objective,
        size=settings[f"weight_perturbation.size.{kind.framework}"],
        first_step=steps_before + settings["weight_perturbation.warmup_epochs"] * per_epoch,
    )


def _clean_validator(job: TrainingJob, settings: Settings, dataset: Dataset, forward: UnrolledForward) -> Validator:
    logits = partial(_unrolled_logits, forward)
    return Validator(dataset.validation.to(job.device), logits, settings["training.batch_size"], attack=None)


def _robust_validator(
    job: TrainingJob,
    settings: Settings,
    dataset: Dataset,
    logits: Scoring,
    batch_size: int,
    *,
    crafting: Crafting | None = None,
    run: Runner = DIRECT,
) -> Validator:
    selection = settings.section("selection", SelectionConfig)
    split: Split = getattr(dataset, selection.split)
    attack = SelectingAttack(
        _attack(settings, selection.attack, run), job.spec["seed"], crafting, freeze_fooled=selection.freeze_fooled
    )
    return Validator(split.to(job.device), logits, batch_size, attack)


def _deq_validator(
    job: TrainingJob, settings: Settings, dataset: Dataset, forward: DEQForward, run: Runner
) -> Validator:
    """Scores the final state, unrolled as in training, whatever the training gradient is."""
    random = settings.section("selection", SelectionConfig).attack_random_state and forward.random_states is not None
    crafting = partial(_random_logits, forward) if random else None
    return _robust_validator(
        job,
        settings,
        dataset,
        partial(_final_logits, forward),
        settings["training.batch_size"],
        crafting=crafting,
        run=run,
    )


def _unrolled_logits(forward: UnrolledForward, model: nn.Module, x: Tensor) -> Logits:
    assert isinstance(model, DEQClassifier)
    return forward.logits(model, x, None)


def _network_logits(model: nn.Module, x: Tensor) -> Logits:
    logits: Tensor = model(x)
    return logits


def _final_logits(forward: DEQForward, model: nn.Module, x: Tensor) -> Logits:
    assert isinstance(model, FixedPointModel)
    return forward.logits(model, x, forward.final)


def _random_logits(forward: DEQForward, model: nn.Module, generator: torch.Generator) -> LogitsOf:
    assert isinstance(model, FixedPointModel)
    assert forward.random_states is not None
    return CraftingLogits(forward, model, forward.random_states.draw(generator, final=forward.final).adversarial)
