"""The model under evaluation with everything that a job needs of it, built from checkpoint and spec."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deqpipe import build
from deqpipe.attack.surrogate import (
    DefendedState,
    IntermediateState,
    StackedStates,
    defended_surrogate_of,
    stacked_surrogate_of,
    surrogate_of,
)
from deqpipe.attack.trial import GradientTrial
from deqpipe.compute.precision import Precision
from deqpipe.compute.replay import DIRECT, Graphs, Runner
from deqpipe.compute.ways import NOTHING_ASKED, Asked, choose
from deqpipe.config import DEFAULT_BATCH, EntropyConfig, parse_solver
from deqpipe.counts import Evaluations, sum_of
from deqpipe.data import Dataset, load
from deqpipe.defence.ensemble import counters
from deqpipe.defence.rule import DecisionRule
from deqpipe.errors import UserError
from deqpipe.evaluation import own_pieces
from deqpipe.evaluation.batching import SHARE, SHARE_WITH_GRAPHS, Batching, automatic
from deqpipe.evaluation.judge import DEQJudge, Judge, NetworkJudge
from deqpipe.gradient import Unrolled
from deqpipe.machine.device import set_up
from deqpipe.model.alone import TRIED
from deqpipe.model.architecture import Loaded, fitting, load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.interface import FixedPointModel
from deqpipe.seeding import Stream
from deqpipe.settings import Settings
from deqpipe.shapes import Logits
from deqpipe.threat_model import LinfBall, ball_of
from deqpipe.workflow import defences, gridpoints, vocabulary
from deqpipe.workflow.defences import DefenceName

LONGEST_UNROLL = 9
"""Steps of the unroll that memory is measured with: the paper's largest K_a."""


@dataclass(frozen=True)
class EvaluationJob:
    """What an evaluation command was called with.

    Attributes:
        spec: of the job.
        data: prepared dataset.
        checkpoint: trained model.
        further: the same model of other seeds, if networks are evaluated together.
        output: file to write.
        device: where it computes.
        threads: of the CPU.
        batch_size: images at once, or None: as many as fit; no influence on results, unless the solver couples them.
        ways: faster ways to the same numbers that may be taken.
        other: trained model whose decisions the images are transferred to.
        strongest: ranked points of the grid, as `analysis.ranking` writes them.
        results: earlier results that it reads beside, by name.
    """

    spec: Mapping[str, Any]
    data: Path
    checkpoint: Path
    output: Path
    device: torch.device
    threads: int
    batch_size: int | None
    ways: Asked = NOTHING_ASKED
    further: tuple[Path, ...] = ()
    other: Path | None = None
    strongest: Path | None = None
    results: Mapping[str, Path] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Path]:
        """Files that it reads."""
        named = {"data": self.data, "checkpoint": self.checkpoint, "other": self.other, "strongest": self.strongest}
        further = {f"checkpoint{number}": path for number, path in enumerate(self.further, start=2)}
        return {name: path for name, path in named.items() if path is not None} | further | dict(self.results)


@dataclass(frozen=True)
class EvaluatedModel:
    """A trained model under evaluation.

    Attributes:
        name: in `vocabulary.MODELS`.
        loaded: the model.
        dataset: what it is evaluated on.
        settings: of the job.
        judges: one per test-time defence.
        controls: the decisions that Sec. 3.2 is to be compared with, beside the undefended one.
        job: the call.
        batching: images at once.
        run: runs attack steps.
        other: another trained model, whose decisions attacked images are transferred to; None: no transfer.
        transferred: its judges.
    """

    name: str
    loaded: Loaded
    dataset: Dataset
    settings: Settings
    judges: tuple[Judge, ...]
    controls: tuple[Judge, ...]
    job: EvaluationJob
    batching: Batching
    run: Runner = DIRECT
    other: Loaded | None = None
    transferred: tuple[Judge, ...] = ()

    @property
    def evaluations(self) -> Evaluations:
        """Evaluations of f so far; none for a ResNet."""
        models = [loaded.model for loaded in (self.loaded, self.other) if loaded]
        return sum_of(counter.counted for model in models for counter in counters(model))

    @property
    def weights(self) -> str:
        """Digest of all models that have a say in the results."""
        return "-".join(loaded.weights for loaded in (self.loaded, self.other) if loaded)

    @property
    def ball(self) -> LinfBall:
        """The threat model."""
        return ball_of(self.settings)

    @property
    def batch_size(self) -> int:
        """Images at once, at this moment."""
        return self.batching.size

    @property
    def is_deq(self) -> bool:
        """Whether there are states to attack."""
        return isinstance(self.loaded.model, FixedPointModel)

    @property
    def evaluates_f(self) -> bool:
        """Whether there is an f to evaluate, of the model or of those that it consists of."""
        return bool(counters(self.loaded.model))

    def stream(self, purpose: str) -> Stream:
        """Random numbers for a purpose, of the job's seed; of the first one where a job has all seeds."""
        spec = self.job.spec
        return Stream(spec["seed"] if "seed" in spec else self.settings["seeds"][0], purpose)

    def final_point(self) -> gridpoints.GridPoint | None:
        """The ready-made attack: the final state of a DEQ; None for an ordinary network."""
        if not self.is_deq:
            return None
        solver, steps = self.settings.variant("solver", parse_solver), self.settings["evaluation.final_unroll_steps"]
        return gridpoints.GridPoint(damping=gridpoints.FINAL_DAMPING, state=solver.steps, steps=steps)

    def rule(self, defence: DefenceName) -> DecisionRule | None:
        """What decisions with a defence go by; None: the logits of a state."""
        return build.rule(self.settings, defence, classes=len(self.dataset.classes))

    def logits_of(
        self, point: gridpoints.GridPoint | None, *, through: DefenceName = "plain"
    ) -> Callable[[Tensor], Logits]:
        """Differentiable logits: the surrogate of a point, or an ordinary network itself.

        Args:
            point: the surrogate; None for an ordinary network.
            through: the defence whose states the surrogate starts from; plain: the undefended ones.
        """
        model = self.loaded.model
        if point is None:
            return model
        assert isinstance(model, FixedPointModel)
        lead_step: bool = self.settings["attack.unroll"]["lead_step"]
        if through == "plain":
            return LogitsOf(
                model, surrogate_of(point, dynamics=build.plain_dynamics(self.settings), lead_step=lead_step)
            )
        dynamics, rule = build.dynamics(self.settings, through), self.rule(through)
        return LogitsOf(model, defended_surrogate_of(point, dynamics=dynamics, lead_step=lead_step, rule=rule))

    def logits_of_several(self, points: Sequence[gridpoints.GridPoint]) -> Callable[[Tensor], Logits]:
        """Differentiable logits of several surrogates with one i and one lambda, each on its part of the batch.

        Args:
            points: the largest K_a first.
        """
        model, lead_step = self.loaded.model, self.settings["attack.unroll"]["lead_step"]
        assert isinstance(model, FixedPointModel), "only DEQs have surrogates"
        return LogitsOf(
            model, stacked_surrogate_of(points, dynamics=build.plain_dynamics(self.settings), lead_step=lead_step)
        )


def load_evaluated_model(job: EvaluationJob, *, beside: Sequence[defences.DefenceName] | None = None) -> EvaluatedModel:
    """The evaluated model of a job.

    Args:
        job: the call.
        beside: the control decisions that are asked for; None: those that attacked images are scored on.

    Raises:
        UserError: checkpoint or data are missing, damaged, or do not fit each other; or as `own_pieces.check`.
    """
    settings, name = Settings(job.spec["config"]), job.spec["model"]
    set_up(precision=settings["precision"], threads=job.threads)
    dataset = load(job.data).evaluated_on(job.device)
    loaded = fitting(load_model(job.checkpoint, job.device), dataset, path=job.checkpoint)
    _check_origin(loaded, job.checkpoint, job.spec, name)
    _check_batch_size(settings, job)
    if isinstance(loaded.model, FixedPointModel):
        own_pieces.check(loaded, settings, name, dataset.test.float_images(slice(0, TRIED), job.device))
    computation = _computation(loaded.model, settings, job)
    declared = vocabulary.MODELS[name].defences
    compared = _controls(settings, name) if beside is None else tuple(beside)
    _check_decisions(job.spec, (*declared, *compared))
    judges = tuple(_judge(loaded, settings, name, defence) for defence in declared)
    controls = tuple(_judge(loaded, settings, name, defence) for defence in compared)
    return EvaluatedModel(name, loaded, dataset, settings, judges, controls, job, computation.batching, computation.run)


@dataclass(frozen=True)
class Computation:
    """How a model computes on a device: images at once, and what runs attack steps."""

    batching: Batching
    run: Runner = DIRECT


def _computation(model: nn.Module, settings: Settings, job: EvaluationJob) -> Computation:
    """Let a DEQ take the fastest way that has proved itself, and find out how many images fit."""
    known = Batching(job.batch_size or DEFAULT_BATCH, fixed=job.batch_size is not None)
    if not isinstance(model, DEQClassifier):
        return Computation(known)
    plain, precision = build.plain_dynamics(settings), Precision(settings["precision"])
    surrogate = IntermediateState(plain.termination.max_steps, Unrolled(steps=LONGEST_UNROLL, damping=0.5), plain)
    trial = GradientTrial(model, surrogate, precision, images=known.size)
    way = choose(job.ways.for_solver(couples=plain.couples_images), job.device, lambda: trial)
    model.compute_with(precision, replace(way, compiled=False))
    if not known.fixed:  # measured as it is called: nothing is compiled for sizes that are not used again
        share = SHARE_WITH_GRAPHS if way.graphs else SHARE
        known = automatic(lambda count: replace(trial, images=count).once(), job.device, share=share)
    model.compute_with(precision, way)
    if not way.graphs:
        return Computation(known)
    graphs = Graphs(model.counter)
    return Computation(replace(known, forget=graphs.forget), graphs)


def load_transferring(job: EvaluationJob) -> EvaluatedModel:
    """The evaluated model of a job, with the model that its attacks are transferred to where the spec says so.

    Raises:
        UserError: as `load_evaluated_model`; or a model to transfer to is missing, not asked for, or another one.
    """
    asked = "transfer" in job.spec["upstream"]
    if asked and job.other is None:
        other = vocabulary.other_trades(job.spec["model"])
        raise UserError(f"--other is missing, but the spec transfers the attacks on {job.spec['model']} to {other}")
    if job.other is not None and not asked:
        raise UserError(f"--other is {job.other}, but the spec transfers the attacks on {job.spec['model']} nowhere")
    evaluated = load_evaluated_model(job)
    return evaluated if job.other is None else _transferring(evaluated, job.other)


def _transferring(evaluated: EvaluatedModel, path: Path) -> EvaluatedModel:
    name, settings = vocabulary.other_trades(evaluated.name), evaluated.settings
    other = fitting(load_model(path, evaluated.job.device), evaluated.dataset, path=path)
    _computation(other.model, settings, evaluated.job)
    _check_origin(other, path, evaluated.job.spec, name)
    judges = tuple(_judge(other, settings, name, defence) for defence in vocabulary.MODELS[name].defences)
    return replace(evaluated, other=other, transferred=judges)


def _controls(settings: Settings, name: str) -> tuple[defences.DefenceName, ...]:
    if "entropy" not in settings:
        return ()
    return vocabulary.MODELS[name].controls(settings.section("entropy", EntropyConfig))


def _check_decisions(spec: Mapping[str, Any], judging: Sequence[str]) -> None:
    """Refuse a spec of other decisions than those that would judge the images: its records would claim them."""
    asked = spec.get("decisions", judging)
    if list(asked) != list(judging):
        raise UserError(f"spec has the decisions {', '.join(asked)}, but this version has {', '.join(judging)}")


def _check_batch_size(settings: Settings, job: EvaluationJob) -> None:
    if "evaluation.batch_size" in settings and settings["evaluation.batch_size"] != job.batch_size:
        raise UserError(
            f"--batch-size is {job.batch_size}, but the spec has evaluation.batch_size "
            f"{settings['evaluation.batch_size']}, and its solver couples the images of a batch"
        )


def _check_origin(loaded: Loaded, path: Path, spec: Mapping[str, Any], model: str) -> None:
    """Refuse what is not this model of the spec's seed."""
    trained = loaded.provenance["spec"]
    if trained.get("stage") == "import" and trained["model"] is None:
        raise UserError(
            f"checkpoint {path} was imported without --model and --seed, "
            f"but the spec is of {model} of seed {spec['seed']}: import it again with both"
        )
    there = (trained.get("model", vocabulary.TRUNK), trained["seed"])
    wanted = (vocabulary.MODELS[model].weights_of or model, spec["seed"])
    if there != wanted:
        asks = "is of" if model == spec["model"] else "transfers to"
        raise UserError(
            f"checkpoint {path} is {there[0]} of seed {there[1]}, but the spec {asks} {wanted[0]} of seed {wanted[1]}"
        )


def _judge(loaded: Loaded, settings: Settings, name: str, defence: defences.DefenceName) -> Judge:
    model = loaded.model
    if not isinstance(model, FixedPointModel):
        return NetworkJudge(model, name)
    classes = len(loaded.architecture["classes"])
    dynamics, rule = build.dynamics(settings, defence), build.rule(settings, defence, classes=classes)
    return DEQJudge(model, dynamics, defence, build.final_unroll(settings), name, rule=rule)


@dataclass(frozen=True)
class LogitsOf:
    """Images to the logits of a surrogate; equal for equal surrogates of one model."""

    model: FixedPointModel
    surrogate: IntermediateState | StackedStates | DefendedState

    def __call__(self, x: Tensor) -> Logits:
        """The logits, differentiable."""
        return self.surrogate(self.model, x)
