"""How fast decisions are taken (Table 10)."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from deqpipe import build
from deqpipe.compute.timing import Sitting, in_rounds
from deqpipe.config import EntropyConfig, TimingConfig
from deqpipe.counts import Evaluations
from deqpipe.dynamics import Dynamics
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.resumable import origin
from deqpipe.machine import stopwatch
from deqpipe.machine.device import describe
from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import speeds
from deqpipe.results.speeds import Speed, Speeds
from deqpipe.settings import Settings
from deqpipe.shapes import Images
from deqpipe.workflow.gridpoints import EntropySetting, swept

_logger = logging.getLogger(__name__)


def time_inference(job: EvaluationJob, *, state: Path, budget_minutes: float) -> int:
    """Time decisions on clean test images, without Sec. 3.2 and with every T_f and R; returns the exit status.

    Args:
        job: the call.
        state: folder of finished rounds.
        budget_minutes: the job leaves, with its finished rounds kept, when they are over.
    """
    sitting = Sitting(job.spec, job.device, state, budget_minutes)
    started, before = time.monotonic(), stopwatch.load()
    evaluated = load_evaluated_model(_of_whole_batches(job))
    config = evaluated.settings.section("timing", TimingConfig)
    x = _images(evaluated, config.batch_size)
    passes = {name: _decision(evaluated, dynamics, x) for name, dynamics in _dynamics(evaluated.settings).items()}
    after_warm_up: list[Evaluations] = []

    def warm() -> None:
        stopwatch.warm_up(passes, config.warmup)
        after_warm_up.append(evaluated.evaluations)

    timed = in_rounds(sitting, passes, repeats=config.repeats, warm=warm)
    if timed is None:
        return EXIT_UNFINISHED
    by_setting = {name: Speed.of(own) for name, own in timed.rates.items()}
    for name, speed in by_setting.items():
        _logger.info("%s: %.1f images/s", name, speed.median)
    measured = Speeds(
        timed="settings",
        speeds=by_setting,
        batch_size=config.batch_size,
        warmup=config.warmup,
        repeats=config.repeats,
        precision=evaluated.settings["precision"],
        device=describe(job.device),
        threads=job.threads,
        load=(before, stopwatch.load()),
    )
    earlier = timed.earlier(evaluated.evaluations - after_warm_up[0])
    speeds.write(job.output, measured, origin(evaluated, job.spec, started, earlier * -1))
    return 0


def _of_whole_batches(job: EvaluationJob) -> EvaluationJob:
    """The job with the batch size that its spec insists on where the solver couples images; another one is timed."""
    size = job.spec["config"].get("evaluation.batch_size", job.batch_size)
    return replace(job, batch_size=size)


def _images(evaluated: EvaluatedModel, count: int) -> Images:
    """The first test images, from the start again where there are too few."""
    split = evaluated.dataset.test
    return split.float_images(torch.arange(count, device=split.images.device) % len(split), evaluated.job.device)


def _decision(evaluated: EvaluatedModel, dynamics: Dynamics, x: Tensor) -> Callable[[], int]:
    """What it takes to get one class per image: the dynamics to z^[N] and one reading of the head.

    Nothing is unrolled behind z^[N], whose residual is not computed. The class goes to the CPU, as a user would have
    it.
    """
    model = evaluated.loaded.model
    assert isinstance(model, DEQClassifier), "only DEQs have dynamics"

    @torch.no_grad()
    def decide() -> int:
        z = dynamics.up_to(dynamics.termination.max_steps)(model, x, last_residual=False).solution.z
        return len(model.logits(z).argmax(1).cpu())

    return decide


def _dynamics(settings: Settings) -> dict[str, Dynamics]:
    """The undefended dynamics (R = 0), and those of every T_f and R, by the names of the sweep."""
    every, steps = settings["entropy_sweep.solver_steps"], settings["entropy_sweep.input_steps"]
    updating = [setting for setting in swept(every, steps) if setting.input_steps]
    return {"plain": build.plain_dynamics(settings)} | {
        setting.defence: _defended(settings, setting) for setting in updating
    }


def _defended(settings: Settings, setting: EntropySetting) -> Dynamics:
    entropy = settings.section("entropy", EntropyConfig)
    return build.entropy_dynamics(settings, setting.keys(entropy, steps=settings["solver"]["steps"]))
