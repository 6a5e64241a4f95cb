"""How fast the four methods train (Table 9)."""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from deqpipe.compute.timing import Sitting, Timed, in_rounds
from deqpipe.compute.ways import NOTHING_ASKED, Asked
from deqpipe.config import TimingConfig
from deqpipe.counts import NO_EVALUATIONS, Evaluations, sum_of
from deqpipe.data import Dataset, Split, load
from deqpipe.errors import UserError
from deqpipe.machine import stopwatch
from deqpipe.machine.device import describe
from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import speeds
from deqpipe.results.provenance import provenance
from deqpipe.results.speeds import Speed, Speeds
from deqpipe.settings import Settings
from deqpipe.training import run
from deqpipe.training.loop import check, descend
from deqpipe.training.objectives import Batch
from deqpipe.training.tally import Tally
from deqpipe.workflow import vocabulary

_logger = logging.getLogger(__name__)

JACOBIAN = "left out"
"""The Jacobian term falls on a small, random share of the steps: in so few steps its part of the time would be luck."""


@dataclass(frozen=True)
class TimingJob:
    """What the command was called with.

    Attributes:
        spec: of the job.
        data: prepared dataset.
        trunk: handoff of pretraining.
        output: file to write.
        device: where it computes.
        threads: of the CPU.
        state: folder of finished rounds.
        budget_minutes: it leaves, with its finished rounds kept, when they are over.
        ways: faster ways to the same numbers that may be taken.
        begun: when the budget began, by `time.monotonic`.
    """

    spec: Mapping[str, Any]
    data: Path
    trunk: Path
    output: Path
    device: torch.device
    threads: int
    state: Path
    budget_minutes: float = math.inf
    ways: Asked = NOTHING_ASKED
    begun: float = field(default_factory=time.monotonic)


class Method:
    """The training of one model, some steps of it at a time, all of them from the trunk's weights."""

    def __init__(self, job: TimingJob, dataset: Dataset, model: str) -> None:
        """Prepare model, optimiser and images."""
        prepared = run.prepare_deq(_training_job(job, model), dataset)
        assert isinstance(prepared.model, DEQClassifier)
        settings = Settings(job.spec["config"])
        self.images = 0
        self.model = prepared.model
        self._after_warm_up = NO_EVALUATIONS, 0
        self._optimizer = run.hand_over(prepared)
        # With a learning rate of 0 the optimiser does all its work, and every repeat starts from the same weights.
        self._plan = replace(prepared.plan, learning_rate=lambda step: 0.0)
        self._batch = _batch(dataset.train, settings.section("timing", TimingConfig), job.device)
        self._steps = steps_per_repeat(settings)

    def __call__(self) -> int:
        """The steps of one repeat; on how many images.

        All repeats draw the same random states, those of the first steps behind the trunk: repeats differ by the
        machine alone.
        """
        return self._run(self._steps)

    def warm_up(self, times: int) -> None:
        """Take the first step so many times."""
        for _ in range(times):
            self._run(1)
        self._after_warm_up = self.model.counter.counted, self.images

    def count_earlier(self, timed: Timed) -> None:
        """Count what the rounds of earlier tries took, which were all alike."""
        counted, images = self._after_warm_up
        own = Evaluations(forward=self.images - images)
        self.images += int(timed.earlier(own).forward)
        self.model.counter.add(timed.earlier(self.model.counter.counted - counted))

    @property
    def evaluations_per_image(self) -> dict[str, float]:
        """Evaluations of f of a training step, forward and backward, on average over all so far."""
        counted = asdict(self.model.counter.counted)
        return {way: round(number / self.images, 2) for way, number in counted.items()}

    def _run(self, steps: int) -> int:
        tally = Tally.start(self._batch.x.device)
        for step in range(self._plan.first_step, self._plan.first_step + steps):
            tally = descend(self._plan, self.model, self._optimizer, self._batch, step=step, tally=tally)
        check(tally.read(), self._plan)
        images = steps * len(self._batch.y)
        self.images += images
        return images


def steps_per_repeat(settings: Settings) -> int:
    """How many training steps are timed as one: as many as there are states.

    A step with random states takes the longer the later its states are. Each step draws one for every step of its
    attack and one for its loss, so that those of a repeat are about as many of each.
    """
    steps: int = settings["solver"]["steps"]
    return steps


def time_training(job: TimingJob) -> int:
    """Time training steps of the four methods on the same images; returns the exit status.

    A step is the attack, the loss, its gradient and the optimiser's step; images are on the device already.
    """
    started, before = time.monotonic(), stopwatch.load()
    settings, dataset = Settings(job.spec["config"]), load(job.data)
    config = settings.section("timing", TimingConfig)
    methods = {model: Method(job, dataset, model) for model in vocabulary.DEQS}

    def warm() -> None:
        for model, method in methods.items():
            method.warm_up(config.warmup)
            _logger.info("%s: warmed up", model)

    sitting = Sitting(job.spec, job.device, job.state, job.budget_minutes, job.begun)
    timed = in_rounds(sitting, methods, repeats=config.repeats, warm=warm)
    if timed is None:
        return EXIT_UNFINISHED
    for method in methods.values():
        method.count_earlier(timed)
    measured = Speeds(
        timed="methods",
        speeds={model: _speed(method, timed.rates[model]) for model, method in methods.items()},
        batch_size=config.batch_size,
        warmup=config.warmup,
        repeats=config.repeats,
        steps_per_repeat=steps_per_repeat(settings),
        jacobian=JACOBIAN,
        precision=settings["precision"],
        device=describe(job.device),
        threads=job.threads,
        load=(before, stopwatch.load()),
    )
    for model, speed in measured.speeds.items():
        _logger.info("%s: %.1f images/s", model, speed.median)
    speeds.write(job.output, measured, _provenance(job, methods.values(), started))
    return 0


def _speed(method: Method, rates: Sequence[float]) -> Speed:
    return Speed.of(rates, evaluations_per_image=method.evaluations_per_image)


def _provenance(job: TimingJob, methods: Iterable[Method], started: float) -> dict[str, Any]:
    return provenance(
        job.spec,
        device=describe(job.device),
        inputs={"data": job.data, "trunk": job.trunk},
        seconds=time.monotonic() - started,
        evaluations=sum_of(method.model.counter.counted for method in methods),
    )


def _training_job(job: TimingJob, model: str) -> run.TrainingJob:
    """The training of a model as its own command would start it, but for the Jacobian term."""
    framework = vocabulary.MODELS[model].framework
    without = {**job.spec["config"], f"jacobian.weight.{framework}": 0.0}
    return run.TrainingJob(
        spec={**job.spec, "model": model, "config": without},
        inputs={"data": job.data, "trunk": job.trunk},
        outputs={},
        state=job.output.parent,  # nothing is kept there
        device=job.device,
        threads=job.threads,
        ways=job.ways,
        budget_minutes=math.inf,
        save_interval=math.inf,
    )


def _batch(split: Split, config: TimingConfig, device: torch.device) -> Batch:
    """The first training images."""
    if len(split) < config.batch_size:
        raise UserError(
            f"timing.batch_size is {config.batch_size}, but must be 1 to {len(split)}: the images to train on"
        )
    first = slice(config.batch_size)
    return Batch(x=split.float_images(first, device), y=split.labels[first].to(device))
