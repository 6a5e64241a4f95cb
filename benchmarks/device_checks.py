"""Is what a device computes right, does anything wait for it, and do its roundings change answers?"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.operations import METHODS, Method
from benchmarks.ways import Computed
from benchmarks.world import World
from deqpipe import build
from deqpipe.attack.pgd import PGD, cross_entropy_objective, uniform_start
from deqpipe.attack.surrogate import surrogate_of
from deqpipe.compute.precision import PrecisionName
from deqpipe.data import load
from deqpipe.evaluation.evaluated_model import LogitsOf
from deqpipe.gradient import Unrolled
from deqpipe.model.architecture import load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.seeding import Stream
from deqpipe.statistics import intervals
from deqpipe.training.loop import descend
from deqpipe.training.objectives import Batch
from deqpipe.workflow.gridpoints import FINAL_DAMPING, GridPoint


@dataclass(frozen=True)
class Limits:
    """Of relative differences from float64.

    A gradient also jumps where rounding moves a number across the kink of a ReLU; one of single images can be far off.

    Attributes:
        values: of states and logits.
        gradients: to images and to weights, each as one vector.
    """

    values: float
    gradients: float

    def of(self, quantity: str) -> float:
        """Of one of the `quantities`."""
        return self.gradients if quantity.startswith("gradient") else self.values


LIMITS: Mapping[PrecisionName, Limits] = {
    "fp32": Limits(1e-4, 1e-2),
    "tf32": Limits(2e-2, 2e-1),
    "bf16": Limits(1e-1, 6e-1),
}
FEW = 4  # images


# --- 1: against float64 ----------------------------------------------------------------------------------------------


def quantities(world: World, network: DEQClassifier) -> dict[str, Tensor]:
    """States, logits, and gradients to images and to weights, in float64 on the CPU."""
    dynamics = build.plain_dynamics(world.settings)
    x, y = world.images
    with torch.no_grad():
        states = dynamics(network, x).solution.states
        logits = network.trajectory_logits(states)
        flat = torch.stack([network.in_channel_order(z) for z in states])
    found = {"states": flat, "logits": logits}
    run = world.computed.runner(network)
    for name, point in _points(world).items():
        surrogate = surrogate_of(point, dynamics=dynamics, lead_step=False)
        step = partial(_attack_step, LogitsOf(network, surrogate))
        for _ in range(2):  # where steps are replayed: met and captured, with other images than those that count
            run(step, name, (x.flip(0), y.flip(0)))
        (found[f"gradient to images, {name}"],) = run(step, name, (x, y))
    found["gradient to weights"] = _weight_gradient(world, network)
    return {name: tensor.detach().cpu().double() for name, tensor in found.items()}


def _points(world: World) -> dict[str, GridPoint]:
    last = world.config.solver.steps
    middle = GridPoint(damping=FINAL_DAMPING, state=min(3, last), steps=5)
    return {"(3, 5)": middle, "(N, 5)": replace(middle, state=last)}


def _attack_step(logits_of: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        return (_image_gradient(logits_of, x, y),)


def _image_gradient(logits_of: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits_of(x), y, reduction="sum"), x)
    return gradient


def _weight_gradient(world: World, network: DEQClassifier) -> Tensor:
    """Of a loss behind z^[N], as one vector: single tensors may be zero but for rounding."""
    x, y = world.images
    plain = build.plain_dynamics(world.settings)
    network.requires_grad_(True)
    f = network.bind(x)
    z = plain.state(network, f, x, index=world.config.solver.steps)
    loss = F.cross_entropy(network.logits(Unrolled(5, FINAL_DAMPING)(f, z)), y)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    network.requires_grad_(False)
    return torch.cat([gradient.flatten() for gradient in gradients])


def reference(world: World) -> dict[str, Tensor]:
    """The quantities of a few images in float64, in the plain way, on the CPU."""
    exact = replace(world, batch=FEW, dtype=torch.float64, device=torch.device("cpu"), computed=Computed())
    exact.computed.enter(exact.threads)
    return quantities(exact, exact.network().requires_grad_(False))


def against(world: World, exact: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest relative difference of each quantity, in the way of a world."""
    few = replace(world, batch=FEW)
    few.computed.enter(few.threads)
    found = quantities(few, few.network().requires_grad_(False))
    return {name: _apart(found[name], tensor) for name, tensor in exact.items()}


def _apart(found: Tensor, exact: Tensor) -> float:
    """Relative to the norm of the whole; infinite where a number is lost."""
    away = float((found - exact).norm() / exact.norm())
    return away if math.isfinite(away) else math.inf


# --- 2: waiting for the device ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """Something that no host synchronisation may be in."""

    name: str
    run: Callable[[int], object]


def works(world: World) -> Iterator[Work]:
    """The dynamics, plain and with Sec. 3.2, an attack, and a training step of every kind."""
    network, (x, y) = world.network().requires_grad_(False), world.images
    plain, entropy = build.plain_dynamics(world.settings), build.dynamics(world.settings, "entropy")
    yield Work("dynamics, plain", lambda number: plain(network, x))
    yield Work("dynamics, Sec. 3.2", lambda number: entropy(network, x))
    logits_of = LogitsOf(network, surrogate_of(_points(world)["(3, 5)"], dynamics=plain, lead_step=False))
    attack = PGD(world.ball, steps=10, step_size=2 / 255, run=world.computed.runner(network))
    start = world.start
    yield Work("PGD-10", lambda number: attack(cross_entropy_objective(logits_of, y), x, start=start))
    for method in METHODS:
        yield Work(f"training step, {method.name}", _training(world, method))


def _training(world: World, method: Method) -> Callable[[int], object]:
    network, batch = world.network().train(), Batch(*world.images)
    runner = world.computed.runner(network)
    plan = world.plan(method.model, regularised=method.regularised, run_steps=runner)
    optimizer = plan.optimizer(network)
    return lambda number: descend(plan, network, optimizer, batch, step=number)


WARM_UP = 4
"""Runs before the check: the first ones allocate, choose algorithms and capture graphs."""


def waits(work: Work) -> str:
    """Where some work waits for the device, in the words of PyTorch; empty if nowhere."""
    try:
        for _ in range(WARM_UP):
            work.run(0)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        work.run(0)
    except RuntimeError as error:  # out of memory and failed captures, too: the next work is tried all the same
        return " ".join(str(error).split())[:200]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


# --- 3: answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """What a model answered to attacked images, crafted and scored in one precision.

    Attributes:
        correct: whether right, per image.
        predicted: the class at z^[N].
    """

    correct: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Attacked:
    """Images of a dataset, and the attack on them.

    Attributes:
        world: of the configuration and the device; its batch is how many images are attacked at once.
        checkpoint: the model.
        data: as `prepare-data` writes it.
        images: the first so many test images.
    """

    world: World
    checkpoint: Path
    data: Path
    images: int

    def answers(self, computed: Computed) -> Answers:
        """After PGD on the surrogate (3, 5) of the plain dynamics."""
        network = load_model(self.checkpoint, self.world.device).model
        assert isinstance(network, DEQClassifier), "only DEQs are computed in ways"
        computed.enter(self.world.threads)
        computed.taken_by(network)
        split, size = load(self.data).test, self.world.batch
        count = min(self.images, len(split))
        parts = [self._batch(network, range(i, min(i + size, count)), computed) for i in range(0, count, size)]
        predicted, labels = np.concatenate(parts), split.labels[:count].numpy()
        return Answers(predicted == labels, predicted)

    def _batch(self, network: DEQClassifier, images: range, computed: Computed) -> np.ndarray:
        pgd, split, dynamics = (
            self.world.config.attack.pgd,
            load(self.data).test,
            build.plain_dynamics(self.world.settings),
        )
        x = split.float_images(slice(images.start, images.stop), self.world.device)
        y = split.labels[images.start : images.stop].to(self.world.device)
        logits_of = LogitsOf(network, surrogate_of(_points(self.world)["(3, 5)"], dynamics=dynamics, lead_step=False))
        attack = PGD(self.world.ball, pgd.steps, pgd.step_size_255 / 255, run=computed.runner(network))
        stream = Stream(self.world.seed, "attack/start")
        start = uniform_start(x, ball=self.world.ball, stream=stream, images=images, clamp=pgd.clamp_start)
        made = attack(cross_entropy_objective(logits_of, y), x, start=start).images
        with torch.no_grad():
            z = dynamics(network, made).state(self.world.config.solver.steps)
            predicted: np.ndarray = network.logits(z).argmax(1).cpu().numpy()
        return predicted


def paired(rounded: Answers, exact: Answers) -> tuple[intervals.Estimate, int]:
    """Robust accuracy of one precision minus that of another on the same images, and how many answers changed."""
    bootstrap = intervals.Bootstrap(resamples=2000, confidence=0.95, seed=0)
    apart = intervals.minimum_difference(rounded.correct[None], exact.correct[None], bootstrap)
    return apart, int((rounded.predicted != exact.predicted).sum())
