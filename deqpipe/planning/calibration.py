"""What units of work take on this machine, measured with the code that does the work.

It runs in processes of its own (`python -m deqpipe.planning.calibration`): nothing of the calling process slows it, and
its threads are nobody else's. Models have random weights and images are noise: neither changes how long things take.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deqpipe import build
from deqpipe import config as configuration
from deqpipe.attack.pgd import PGD, cross_entropy_objective
from deqpipe.attack.surrogate import surrogate_of
from deqpipe.config import Config
from deqpipe.counts import Number
from deqpipe.data import Dataset, Split
from deqpipe.errors import UserError, line
from deqpipe.evaluation.judge import DEQJudge
from deqpipe.machine import device, stopwatch
from deqpipe.model import architecture
from deqpipe.model.classifier import DEQClassifier
from deqpipe.planning import cost, formulas
from deqpipe.planning.sources import images_of
from deqpipe.settings import Settings
from deqpipe.shapes import Images, Labels
from deqpipe.threat_model import LinfBall
from deqpipe.training import run
from deqpipe.training.loop import TrainingPlan, descend
from deqpipe.training.objectives import Batch
from deqpipe.workflow import defences, gridpoints, specs, vocabulary
from deqpipe.workflow.endings import PROGRAM
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.stages import StageName

BOX, PATIENCE = 0.7, 4.0  # seconds, for some twenty pieces


@dataclass(frozen=True)
class Bench:
    """What pieces are measured with.

    Attributes:
        config: the experiment.
        images: how many there are, and of which shape.
        where: the device.
        box: seconds of repeating a piece.
        patience: seconds that one call may take; what must take longer is reckoned from its evaluations.
    """

    config: Config
    images: cost.Images
    where: torch.device
    box: float = BOX
    patience: float = PATIENCE

    def noise(self, count: int) -> tuple[Images, Labels]:
        """Random images and labels."""
        generator = torch.Generator().manual_seed(count)
        x = torch.rand(count, *self.images.shape, generator=generator)
        return x.to(self.where), (torch.arange(count) % self.images.classes).to(self.where)

    def seconds(self, once: Callable[[int], object], size: int) -> float:
        """How long a piece takes on so many images; on a CPU only the time that it computes, whoever else does here."""
        if self.where.type == "cuda":
            return stopwatch.seconds(lambda: once(size), self.where)
        started = time.process_time()
        once(size)
        return time.process_time() - started

    def per_image(self, once: Callable[[int], object], *, most: int, fewest: int = 1) -> float:
        """Seconds per image of a piece that takes any number of images, with as many as the box allows."""
        size, taken = self.sized(once, most=most, fewest=fewest)
        calls = max(1, min(20, int(self.box / taken)))
        return min(taken, *(self.seconds(once, size) for _ in range(calls))) / size

    def sized(self, once: Callable[[int], object], *, most: int, fewest: int = 1) -> tuple[int, float]:
        """A number of images that a call takes patience with, and the seconds of a call with them.

        It grows fourfold from call to call: few images take hardly longer than one, and their price would be too high.
        """
        size = min(fewest, most)
        taken = self.seconds(once, size)
        if taken < self.patience:  # a first call also prepares
            taken = min(self.seconds(once, size) for _ in range(2))
        while size < most and (factor := min(4.0, most / size)) * taken < self.patience:
            size = min(most, int(size * factor))
            taken = self.seconds(once, size)
        return size, taken


def prices(bench: Bench) -> dict[cost.Part, Number]:
    """Seconds per unit of every part but the start of jobs."""
    device.set_up(precision=bench.config.precision, threads=1)
    known = _surrogate_prices(bench)
    known |= _decision_prices(bench, known)
    known |= _training_prices(bench, known)
    return known | _feedforward_prices(bench)


def _deq(bench: Bench) -> DEQClassifier:
    images = bench.images
    described = architecture.deq_for(
        bench.config.model, image_shape=images.shape, classes=_names(images), dataset="noise"
    )
    model = architecture.build(described, seed=0).to(bench.where)
    assert isinstance(model, DEQClassifier)
    return model


def _names(images: cost.Images) -> tuple[str, ...]:
    return tuple(str(number) for number in range(images.classes))


def _settings(bench: Bench, *keys: str) -> Settings:
    return Settings(specs.pick(bench.config.model_dump(mode="json"), *keys))


_EVALUATION = ("solver", "entropy", "threat_model", "attack.unroll", "evaluation.final_unroll_steps")


def _largest(config: Config) -> int:
    return min(cost.batch_size(config), config.attack.images_per_job)


def _surrogate_prices(bench: Bench) -> dict[cost.Part, Number]:
    """From three surrogates: what a state more, an unroll step more, and all the rest of an attack step take."""
    config, model = bench.config, _deq(bench).eval().requires_grad_(False)
    settings, last, most = _settings(bench, *_EVALUATION), config.solver.steps, _largest(config)
    attack = PGD(LinfBall(config.threat_model.epsilon_255 / 255), steps=1, step_size=0.01)

    def attack_step(state: int, steps: int) -> float:
        point = GridPoint(damping=gridpoints.FINAL_DAMPING, state=state, steps=steps)
        surrogate = surrogate_of(
            point, dynamics=build.plain_dynamics(settings), lead_step=config.attack.unroll.lead_step
        )

        def once(count: int) -> None:
            x, y = bench.noise(count)
            attack(cross_entropy_objective(lambda image: surrogate(model, image), y), x, start=x)

        return bench.per_image(once, most=most)

    steps = max(2, *config.attack.grid.steps)
    lead = config.attack.unroll.lead_step
    short, deep, long = attack_step(1, 1), attack_step(last, 1), attack_step(1, steps)
    solve = max(0.0, deep - short) / (last - 1) if last > 1 else short / 4
    unroll = max(0.0, long - short) / (steps - 1)
    rest = max(0.0, short - solve - unroll * (1 + lead))
    return {"solve": solve, "unroll": unroll, "pass": rest}


def _decision_prices(bench: Bench, known: Mapping[cost.Part, Number]) -> dict[cost.Part, Number]:
    """From two decisions: what the head takes per state, and what Sec. 3.2 takes longer, per evaluation."""
    config, model = bench.config, _deq(bench).eval().requires_grad_(False)
    settings = _settings(bench, *_EVALUATION)

    def decide(defence: defences.DefenceName) -> float:
        judge = DEQJudge(model, build.dynamics(settings, defence), defence, build.final_unroll(settings))
        return bench.per_image(lambda count: judge(*bench.noise(count)), most=_largest(config))

    plain = formulas.decision(config, "plain").total
    added = formulas.decision(config, "entropy").total - plain
    alone = decide("plain")
    read = max(0.0, alone - plain * known["solve"]) / (config.solver.steps + 1)
    if not added or added * _expected(known) > bench.patience:
        return {"read": read, "descent": _expected(known)}
    return {"read": read, "descent": max(0.0, decide("entropy") - alone) / added}


def _training_prices(bench: Bench, known: Mapping[cost.Part, Number]) -> dict[cost.Part, Number]:
    """Of training steps, per evaluation, whichever way."""
    config, taken, expected = bench.config, dict[cost.Part, Number](), _expected(known)
    jobs: dict[cost.Part, tuple[str, Number, Number]]
    jobs = {"pretrain": (vocabulary.TRUNK, formulas.pretraining_step(config).total, known["unroll"] / 2)}
    jobs |= {f"train/{model}": (model, cost.training_step(config, model).total, expected) for model in vocabulary.DEQS}
    for part, (model, evaluations, price) in jobs.items():
        if 2 * evaluations * price > bench.patience:
            taken[part] = price
        else:
            taken[part] = _training_price(bench, model)
    return taken


def _expected(known: Mapping[cost.Part, Number]) -> Number:
    """Seconds per evaluation where none was measured: half of a solve, half of an unroll with its gradients."""
    return (known["solve"] + known["unroll"] / 2) / 2


def _training_price(bench: Bench, model: str) -> float:
    """Seconds per evaluation of training steps, whichever random states they draw."""
    stages: dict[StageName, str | None] = {"pretrain": None}
    if model != vocabulary.TRUNK:
        stages["train_deq"] = model
    plan = _plan(bench, stages, model)
    network, counted = _deq(bench), [0, 0]
    optimizer = plan.optimizer(network)

    def once(count: int) -> None:
        x, y = bench.noise(count)
        before = network.counter.counted
        descend(plan, network, optimizer, Batch(x, y), step=counted[0] % 7)
        counted[0] += 1
        counted[1] = int((network.counter.counted - before).total)

    return _per_evaluation(bench, once, counted, most=bench.config.training.batch_size)


def _per_evaluation(bench: Bench, once: Callable[[int], None], counted: list[int], *, most: int) -> float:
    """Seconds per evaluation of the best of several calls; with random states no call is like another."""
    size, _ = bench.sized(once, most=most, fewest=2)
    measured, spent = list[float](), 0.0
    while not measured or (spent < bench.box and len(measured) < 20):
        taken = bench.seconds(once, size)
        spent += taken
        measured.append(taken / counted[1])
    return min(measured)


def _plan(bench: Bench, stages: Mapping[StageName, str | None], model: str) -> TrainingPlan:
    """The training of a model as its job plans it, but for a learning rate of 0: weights stay as they are."""
    values: dict[str, Any] = {}
    for stage, of_model in stages.items():
        values |= specs.build(stage, bench.config, model=of_model, seed=0)["config"]
    called = run.TrainingJob(
        spec={"seed": 0, "model": model, "config": values}, inputs={}, outputs={}, state=Path(),
        device=bench.where, threads=1, budget_minutes=math.inf, save_interval=math.inf,
    )  # fmt: skip
    plan = _planned(called, Settings(values), _dataset(bench), model)
    return replace(plan, learning_rate=lambda step: 0.0)


def _planned(called: run.TrainingJob, settings: Settings, dataset: Dataset, model: str) -> TrainingPlan:
    if model == vocabulary.TRUNK:
        return run.pretraining_plan(called, settings, dataset)
    if not vocabulary.MODELS[model].architecture.has_states:
        return run.feedforward_plan(called, settings, dataset)
    return run.adversarial_plan(called, settings, dataset, first_step=settings["pretrain"]["steps"])


def _dataset(bench: Bench) -> Dataset:
    """As many images as the source has, without any memory behind them: nobody looks at them."""

    def split(count: int) -> Split:
        black = torch.zeros(1, *bench.images.shape, dtype=torch.uint8)
        return Split(black.expand(count, -1, -1, -1), torch.zeros(1, dtype=torch.int64).expand(count))

    images = bench.images
    train, validation, test = (split(count) for count in (images.train, images.validation, images.test))
    return Dataset(train, validation, test, classes=_names(images), name="noise")


def _feedforward_prices(bench: Bench) -> dict[cost.Part, Number]:
    """Per image, of networks without states: of training steps, of an attack's gradient, of a decision."""
    taken: dict[cost.Part, Number] = {}
    for model in vocabulary.FEEDFORWARD:
        kind = vocabulary.MODELS[model]
        name, settings = kind.architecture.name, vocabulary.feedforward(bench.config, model)
        described, most = (
            architecture.describe_feedforward(name, settings, _dataset(bench)),
            settings.training.batch_size,
        )
        if f"{name}/decide" not in taken:
            taken |= {f"{name}/{part}": price for part, price in _passes(bench, described, most=most).items()}
        taken[f"{name}/train/{kind.framework}"] = _descent_price(bench, described, model, most=most)
    return taken


def _passes(bench: Bench, described: Mapping[str, Any], *, most: int) -> dict[cost.Part, Number]:
    frozen = architecture.build(described, seed=0).to(bench.where).eval().requires_grad_(False)
    attack = PGD(LinfBall(bench.config.threat_model.epsilon_255 / 255), steps=1, step_size=0.01)

    def gradient(count: int) -> None:
        x, y = bench.noise(count)
        attack(cross_entropy_objective(frozen, y), x, start=x)

    def decide(count: int) -> None:
        with torch.no_grad():
            frozen(bench.noise(count)[0])

    return {"gradient": bench.per_image(gradient, most=most), "decide": bench.per_image(decide, most=most)}


def _descent_price(bench: Bench, described: Mapping[str, Any], model: str, *, most: int) -> float:
    plan = _plan(bench, {"train_feedforward": model}, model)
    network = architecture.build(described, seed=0).to(bench.where)
    optimizer = plan.optimizer(network)

    def once(count: int) -> None:
        descend(plan, network, optimizer, Batch(*bench.noise(count)), step=0)

    return bench.per_image(once, most=most, fewest=2)


def main() -> int:
    """Print, as JSON, the seconds until this process was ready to work, its device, and the prices."""
    ready = time.process_time()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), required=True)
    parser.add_argument("--box", type=float, default=BOX)
    options = parser.parse_args()
    try:
        config = configuration.load(options.files)
        bench = Bench(config, images_of(config), device.choose(options.device), options.box)
        measured = prices(bench)
    except UserError as error:
        print(f"{PROGRAM}: {line(error)}", file=sys.stderr)
        return 2
    facts = {"start": ready, "device": device.describe(bench.where), "kind": bench.where.type, "prices": measured}
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
