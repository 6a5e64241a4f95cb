"""What speeds are measured on: a model with random weights, random images, and the experiment that they stand for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from benchmarks.ways import Computed
from deqpipe import config as configuration
from deqpipe.compute.replay import DIRECT, Runner
from deqpipe.config import Config
from deqpipe.data import Dataset, Split
from deqpipe.model import architecture
from deqpipe.model.classifier import DEQClassifier
from deqpipe.planning import cost
from deqpipe.planning.sources import images_of
from deqpipe.settings import Settings
from deqpipe.threat_model import LinfBall
from deqpipe.training import run
from deqpipe.training.loop import TrainingPlan
from deqpipe.workflow import gridpoints, specs, vocabulary
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.stages import StageName

ROOT = Path(__file__).parents[1]
ModelName: TypeAlias = Literal["demo", "MDEQ-Large"]
Protocol: TypeAlias = Literal["paper", "release"]
FILES: Mapping[ModelName, tuple[str, ...]] = {
    "demo": ("config.yaml", "config/demo.yaml"),
    "MDEQ-Large": ("config.yaml",),
}
MODELS: tuple[ModelName, ...] = tuple(FILES)
EVALUATION = ("solver", "entropy", "threat_model", "attack.unroll", "evaluation.final_unroll_steps")
SPREAD = ((1, 6), (2, 3), (3, 9), (4, 1), (5, 8), (6, 4), (7, 7), (8, 2))
"""(i, K_a) of grid points whose mean i and K_a are those of the whole grid."""


@dataclass(frozen=True)
class World:
    """A model and its surroundings.

    Attributes:
        model: which one.
        protocol: whose keys.
        batch: images at once.
        device: where it computes.
        dtype: float64 for comparisons of results, float32 for speeds.
        threads: of the CPU.
        computed: in which way our f is.
        attack_steps: of attacks within training; None: as configured.
        learning_rate: of training steps; with 0 the optimiser does all its work, and every repeat has the same weights.
        most_points: of the grid.
        dropout: whether the model drops channels while it trains.
        seed: of weights, images and draws.
        changes: laid over the configuration.
    """

    model: ModelName
    batch: int
    protocol: Protocol = "paper"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    threads: int = 1
    computed: Computed = field(default_factory=Computed)
    attack_steps: int | None = None
    learning_rate: float = 0.0
    most_points: int | None = None
    dropout: bool = True
    seed: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)

    def for_comparison(self) -> "World":
        """The same in float64 on a few images, and a step of training that is short and moves the weights."""
        exact, few = replace(self.computed, precision="fp32"), min(self.batch, 2)
        short = replace(self, dtype=torch.float64, computed=exact, batch=few, attack_steps=2, most_points=3)
        return replace(short, learning_rate=1e-3)

    @cached_property
    def config(self) -> Config:
        """The experiment. To check it takes longer than some of what is timed."""
        merged: dict[str, Any] = {}
        for layer in (*map(_read, FILES[self.model]), self.changes):
            merged = configuration.merge(merged, layer)
        merged["protocol"] = self.protocol
        if self.attack_steps is not None:
            merged = configuration.merge(merged, {"training": {"attack": {"steps": self.attack_steps}}})
        if not self.dropout:
            merged = configuration.merge(merged, {"model": {"dropout": 0.0}})
        return configuration.parse(merged)

    @cached_property
    def shape(self) -> cost.Images:
        """How many images the experiment has, and of which shape."""
        return images_of(self.config)

    @cached_property
    def images(self) -> tuple[Tensor, Tensor]:
        """A batch of images, and labels."""
        x = torch.rand(self.batch, *self.shape.shape, generator=self._generator(1), dtype=torch.float32)
        y = torch.arange(self.batch) % self.shape.classes
        return x.to(self.device, self.dtype), y.to(self.device)

    @cached_property
    def start(self) -> Tensor:
        """The same images, moved within the threat model: where an attack starts."""
        return self.images[0] + self.start_noise

    @cached_property
    def start_noise(self) -> Tensor:
        """What that start has more than the images, in float32."""
        uniform = torch.rand(self.batch, *self.shape.shape, generator=self._generator(2), dtype=torch.float32)
        return ((2 * uniform - 1) * self.ball.epsilon).to(self.device)

    @cached_property
    def state_size(self) -> int:
        """Numbers in the state of one image."""
        _, height, width = self.shape.shape
        return sum(c * (height >> n) * (width >> n) for n, c in enumerate(self.config.model.channels))

    @property
    def ball(self) -> LinfBall:
        """The threat model."""
        return LinfBall(self.config.threat_model.epsilon_255 / 255)

    @cached_property
    def settings(self) -> Settings:
        """What an evaluation is built from."""
        return Settings(specs.pick(self.config.model_dump(mode="json"), *EVALUATION))

    def points(self, count: int) -> tuple[GridPoint, ...]:
        """The first of the points that the grid is measured at; all 144 where there are as many."""
        count = min(count, self.most_points or count)
        if count > len(SPREAD):
            return gridpoints.grid_points(self.config)[:count]
        dampings = self.config.attack.grid.damping
        states = self.config.solver.steps
        return tuple(
            GridPoint(damping=dampings[n % len(dampings)], state=min(i, states), steps=k)
            for n, (i, k) in enumerate(SPREAD[:count])
        )

    def network(self, *, ours: bool = True) -> DEQClassifier:
        """The model with its random weights; `ours`: computed in our way, otherwise only in its precision."""
        config, images = self.config, self.shape
        names = tuple(str(number) for number in range(images.classes))
        described = architecture.deq_for(config.model, image_shape=images.shape, classes=names, dataset="noise")
        network = architecture.build(described, seed=self.seed)
        assert isinstance(network, DEQClassifier)
        randomise(network, seed=self.seed)
        computed = self.computed if ours else self.computed.plain
        return computed.taken_by(network.to(self.device, self.dtype).eval())

    def plan(self, model: str, *, regularised: bool, run_steps: Runner = DIRECT) -> TrainingPlan:
        """The training of one of the four DEQs.

        Args:
            model: its name.
            regularised: whether every step carries the Jacobian term; otherwise none does.
            run_steps: runs the steps of its attacks.
        """
        config = self.config
        values: dict[str, Any] = {}
        stages: dict[StageName, str | None] = {"pretrain": None, "train_deq": model}
        for stage, of_model in stages.items():
            values |= specs.build(stage, config, model=of_model, seed=self.seed)["config"]
        framework = vocabulary.MODELS[model].framework
        values |= {"jacobian.frequency": 1.0} if regularised else {f"jacobian.weight.{framework}": 0.0}
        job = run.TrainingJob(
            spec={"seed": self.seed, "model": model, "config": values}, inputs={}, outputs={}, state=Path(),
            device=self.device, threads=self.threads, budget_minutes=math.inf, save_interval=math.inf,
        )  # fmt: skip
        plan = run.adversarial_plan(job, Settings(values), self._dataset, first_step=0, run=run_steps)
        return replace(plan, learning_rate=lambda step: self.learning_rate)

    @property
    def _dataset(self) -> Dataset:
        """As many images as the experiment has, without any memory behind them: nobody looks at them."""

        def split(count: int) -> Split:
            black = torch.zeros(1, *self.shape.shape, dtype=torch.uint8)
            return Split(black.expand(count, -1, -1, -1), torch.zeros(1, dtype=torch.int64).expand(count))

        train, validation, test = (split(count) for count in (self.shape.train, self.shape.validation, self.shape.test))
        names = tuple(str(number) for number in range(self.shape.classes))
        return Dataset(train, validation, test, classes=names, name="noise")

    def _generator(self, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.seed + purpose)


@cache
def _read(name: str) -> Mapping[str, Any]:
    """A configuration file of the repository."""
    return configuration.read_yaml(ROOT / name)


@torch.no_grad()
def randomise(network: DEQClassifier, *, seed: int) -> None:
    """Give all parameters and running statistics random values of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(_random(name, torch.randn(tensor.shape, generator=generator)))


def _random(name: str, normal: Tensor) -> Tensor:
    if name.endswith(("bias", "running_mean")):
        return 0.3 * normal
    if normal.ndim == 1 or name.endswith((".g", "running_var")):
        return (normal / 4).exp()
    return normal / math.sqrt(normal[0].numel())
