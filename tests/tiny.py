"""A world that trains in a second: 8x8 images of three classes, a model of two scales, few steps of everything."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from deqpipe import cli, config
from deqpipe.config import Config
from deqpipe.data import Dataset, Split, save
from deqpipe.results import weights
from deqpipe.workflow import specs, vocabulary

ROOT = Path(__file__).parents[1]
CLASSES = ("rows", "columns", "checks")
TRAIN, VALIDATION, TEST = 40, 9, 12

OVERLAY: dict[str, Any] = {
    "data": {"source": "digits", "validation": VALIDATION, "augment": "crop_flip"},
    "model": {
        "channels": [4, 8], "head_channels": [2, 4], "final_channels": 8,
        "groups": 4, "expansion": 1, "dropout": 0.2,
    },
    "resnet": {"layers": [1, 1, 1, 1], "training": {"epochs": 1, "batch_size": 16, "milestones": []}},
    "solver": {"steps": 4},
    "pretrain": {"layers": 3, "steps": 43},  # in the middle of the fifteenth epoch
    "training": {
        "epochs": 18, "batch_size": 16, "learning_rate": 0.02,
        "unroll": {"steps": 2}, "attack": {"steps": 2, "step_size_255": 10.0},
    },
    "jacobian": {"frequency": 0.5, "stop_epoch": 17},
    "selection": {"first_epoch": 1, "attack": {"steps": 2, "step_size_255": 10.0}},
    "threat_model": {"epsilon_255": 20.0},
    "attack": {
        "pgd": {"steps": 2, "step_size_255": 10.0},
        "grid": {"states": [1, 3], "steps": [1, 3], "damping": [0.5, 1.0]},
    },
    "entropy": {"input_steps": 2, "step_size_255": 5.0, "controls": False},
    "evaluation": {"images": TEST, "batch_size": 5, "final_unroll_steps": 2},
}  # fmt: skip


def chosen_on(checkpoint: Path) -> dict[str, Any]:
    """The provenance of early states that were chosen on some weights."""
    return {"spec": {"upstream": {"model": specs.fingerprint(weights.read(checkpoint).provenance["spec"])}}}


def settings(changes: Mapping[str, Any] | None = None) -> Config:
    """The tiny experiment, with changes laid over it."""
    merged: dict[str, Any] = {}
    for layer in (config.read_yaml(ROOT / "config.yaml"), OVERLAY, changes or {}):
        merged = config.merge(merged, layer)
    return config.parse(merged)


def dataset() -> Dataset:
    """Noisy images with stripes along rows or columns, or with checks."""
    generator = torch.Generator().manual_seed(1)
    count = TRAIN + VALIDATION + TEST
    labels = torch.arange(count) % 3
    stripes = (torch.arange(8) // 2 % 2).expand(8, 8)
    patterns = torch.stack([stripes.T, stripes, stripes ^ stripes.T])[labels][:, None]
    noise = torch.randint(0, 110, (count, 1, 8, 8), generator=generator)
    pixels, edges = (noise + 120 * patterns).to(torch.uint8), (0, TRAIN, TRAIN + VALIDATION, count)
    splits = [Split(pixels[a:b], labels[a:b]) for a, b in itertools.pairwise(edges)]
    train, validation, test = splits
    return Dataset(train, validation, test, classes=CLASSES, name="stripes")


def data_file(folder: Path) -> Path:
    """The images, as `prepare-data` would leave them."""
    save(folder / "data.safetensors", dataset(), provenance={})
    return folder / "data.safetensors"


def spec(stage: Any, changes: Mapping[str, Any] | None = None, *, model: str | None = None, seed: int = 0) -> str:
    """A job's spec as JSON."""
    return specs.dumps(specs.build(stage, settings(changes), model=model, seed=seed))


def run(*arguments: object) -> int:
    """The exit status of `deqpipe` with these arguments, in this process."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        return int(leaving.code or 0)


@dataclass(frozen=True)
class Training:
    """Arguments of one training command, and where it writes."""

    verb: str
    spec: str
    data: Path
    folder: Path
    trunk: Path | None = None
    options: tuple[object, ...] = field(default=())

    @property
    def outputs(self) -> dict[str, Path]:
        """Files that are published, by name."""
        names = ("best", "last", *(("handoff",) if self.verb == "pretrain" else ()))
        return {name: self.folder / f"{name}.safetensors" for name in names} | {"history": self.folder / "history.csv"}

    @property
    def state(self) -> Path:
        """Folder of the resumable state."""
        return self.folder / "state"

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        trunk = () if self.trunk is None else ("--trunk", self.trunk)
        outputs = [part for name, path in self.outputs.items() for part in (f"--{name}", path)]
        line = (self.verb, "--spec", self.spec, "--data", self.data, *trunk, "--state", self.state, *outputs)
        return [str(part) for part in (*line, *self.options)]

    def run(self) -> int:
        """Its exit status, in this process."""
        return run(*self.arguments)


@dataclass(frozen=True)
class Trained:
    """What the session's trainings left behind."""

    data: Path
    trainings: Mapping[str, Training]

    def file(self, model: str, name: str = "best") -> Path:
        """An output of a model's training."""
        return self.trainings[model].outputs[name]


def train_all(folder: Path) -> Trained:
    """The trunk, one DEQ per framework and a ResNet."""
    data = data_file(folder)
    trunk = Training("pretrain", spec("pretrain"), data, folder / vocabulary.TRUNK)
    trainings = {vocabulary.TRUNK: trunk}
    for model in ("deq_pgd_at_base", "deq_trades_random_states"):
        text = spec("train_deq", model=model)
        trainings[model] = Training("train-deq", text, data, folder / model, trunk=trunk.outputs["handoff"])
    resnet = "resnet18_pgd_at"
    trainings[resnet] = Training("train-feedforward", spec("train_feedforward", model=resnet), data, folder / resnet)
    for training in trainings.values():
        assert training.run() == 0
    return Trained(data, trainings)


def replace_folder(training: Training, folder: Path) -> Training:
    """The same training, writing elsewhere."""
    return replace(training, folder=folder)
