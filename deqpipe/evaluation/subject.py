"""The model under evaluation with everything that a job needs of it, built from checkpoint and spec."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deqpipe import specs
from deqpipe.attack.surrogate import surrogate_of
from deqpipe.config import Entropy, Solver, ThreatModel
from deqpipe.data import Dataset, load
from deqpipe.defence.entropy import build_entropy_reduction, control
from deqpipe.device import set_up
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.errors import UserError
from deqpipe.evaluation.judge import DEQJudge, Judge, NetworkJudge
from deqpipe.gradient import Unrolled
from deqpipe.model.architecture import Loaded, fitting, load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.seeding import Stream
from deqpipe.settings import Settings
from deqpipe.shapes import Logits
from deqpipe.solver.solve import build_solver, build_termination
from deqpipe.threat_model import LinfBall


@dataclass(frozen=True)
class Job:
    """What an evaluation command was called with.

    Attributes:
        spec: of the job.
        data: prepared dataset.
        checkpoint: trained model.
        output: file to write.
        device: where it computes.
        threads: of the CPU.
        batch_size: images at once; no influence on results, unless the solver couples them.
    """

    spec: Mapping[str, Any]
    data: Path
    checkpoint: Path
    output: Path
    device: torch.device
    threads: int
    batch_size: int

    @property
    def inputs(self) -> dict[str, Path]:
        """Files that it reads."""
        return {"data": self.data, "checkpoint": self.checkpoint}


@dataclass(frozen=True)
class Subject:
    """A trained model under evaluation.

    Attributes:
        name: in `specs.MODELS`.
        loaded: the model.
        dataset: what it is evaluated on.
        settings: of the job.
        judges: one per test-time defence.
        controls: the decisions that Sec. 3.2 is to be compared with, beside the undefended one.
        job: the call.
    """

    name: str
    loaded: Loaded
    dataset: Dataset
    settings: Settings
    judges: tuple[Judge, ...]
    controls: tuple[Judge, ...]
    job: Job

    @property
    def f_evaluations(self) -> int:
        """Applications of f so far, times images; 0 for a ResNet."""
        return getattr(self.loaded.model, "f_evaluations", 0)

    @property
    def ball(self) -> LinfBall:
        """The threat model."""
        return LinfBall(self.settings.section("threat_model", ThreatModel).epsilon_255 / 255)

    @property
    def is_deq(self) -> bool:
        """Whether there are states to attack."""
        return isinstance(self.loaded.model, DEQClassifier)

    def stream(self, purpose: str) -> Stream:
        """Random numbers for a purpose, of the job's seed."""
        return Stream(self.job.spec["seed"], purpose)

    def final_point(self) -> specs.GridPoint | None:
        """The ready-made attack: the final state of a DEQ; None for an ordinary network."""
        if not self.is_deq:
            return None
        solver, steps = self.settings.section("solver", Solver), self.settings["evaluation.final_unroll_steps"]
        return specs.GridPoint(damping=specs.FINAL_DAMPING, state=solver.steps, steps=steps)

    def logits_of(self, point: specs.GridPoint | None) -> Callable[[Tensor], Logits]:
        """Differentiable logits: the surrogate of a point, or an ordinary network itself."""
        model = self.loaded.model
        if point is None:
            return model
        assert isinstance(model, DEQClassifier)
        lead_step: bool = self.settings["attack.unroll"]["lead_step"]
        surrogate = surrogate_of(point, dynamics=build_plain(self.settings), lead_step=lead_step)
        return lambda x: surrogate(model, x)


def load_subject(job: Job) -> Subject:
    """The subject of a job.

    Raises:
        UserError: checkpoint or data are missing, damaged, or do not fit each other.
    """
    settings, name = Settings(job.spec["config"]), job.spec["model"]
    set_up(precision=settings["precision"], threads=job.threads)
    dataset = load(job.data)
    loaded = fitting(load_model(job.checkpoint, job.device), dataset, path=job.checkpoint)
    _check_origin(loaded, job)
    _check_batch_size(settings, job)
    judges = tuple(_judge(loaded, settings, defence) for defence in specs.MODELS[name].defences)
    controls = tuple(_judge(loaded, settings, defence) for defence in _controls(settings, name))
    return Subject(name, loaded, dataset, settings, judges, controls, job)


def _controls(settings: Settings, name: str) -> tuple[specs.Defence, ...]:
    if "entropy" not in settings:
        return ()
    return specs.MODELS[name].controls(settings.section("entropy", Entropy))


def _check_batch_size(settings: Settings, job: Job) -> None:
    if "evaluation.batch_size" in settings and settings["evaluation.batch_size"] != job.batch_size:
        raise UserError(
            f"--batch-size is {job.batch_size}, but the spec has evaluation.batch_size "
            f"{settings['evaluation.batch_size']}, and its solver couples the images of a batch"
        )


def _check_origin(loaded: Loaded, job: Job) -> None:
    trained = loaded.provenance["spec"]
    if trained.get("stage") == "import" and trained["model"] is None:
        raise UserError(
            f"checkpoint {job.checkpoint} was imported without --model and --seed, "
            f"but the spec is of {job.spec['model']} of seed {job.spec['seed']}: import it again with both"
        )
    there = (trained.get("model", specs.TRUNK), trained["seed"])
    wanted = (job.spec["model"], job.spec["seed"])
    if there != wanted:
        raise UserError(
            f"checkpoint {job.checkpoint} is {there[0]} of seed {there[1]}, "
            f"but the spec is of {wanted[0]} of seed {wanted[1]}"
        )


def _judge(loaded: Loaded, settings: Settings, defence: specs.Defence) -> Judge:
    model = loaded.model
    if not isinstance(model, DEQClassifier):
        return NetworkJudge(model)
    return DEQJudge(model, build_dynamics(settings, defence), defence, build_final_unroll(settings))


def build_dynamics(settings: Settings, defence: specs.Defence) -> Dynamics:
    """The dynamics of a defence, or of a control of Sec. 3.2, that settings describe."""
    plain = build_plain(settings)
    if defence == "plain":
        return plain
    entropy = settings.section("entropy", Entropy)
    if defence != "entropy":
        entropy = control(entropy, defence, steps=plain.termination.max_steps)
    ball = LinfBall(settings.section("threat_model", ThreatModel).epsilon_255 / 255)
    return build_entropy_reduction(
        entropy, solver=plain.solver, termination=plain.termination, ball=ball, returned=plain.returned
    )


def build_plain(settings: Settings) -> PlainDynamics:
    """The undefended dynamics that settings describe."""
    solver = settings.section("solver", Solver)
    return PlainDynamics(build_solver(solver), build_termination(solver), solver.returned)


def build_final_unroll(settings: Settings) -> Unrolled:
    """The unroll from z* to the final state that settings describe."""
    return Unrolled(
        steps=settings["evaluation.final_unroll_steps"],
        damping=specs.FINAL_DAMPING,
        lead_step=settings["attack.unroll"]["lead_step"],
    )
