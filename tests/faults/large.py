"""The jobs at the size of the paper's model: MDEQ-Large at batch 96, on made-up images of CIFAR-10's shape."""

import itertools
from pathlib import Path
from typing import Any

import torch

from deqpipe import config
from deqpipe.config import Config
from deqpipe.data import Dataset, Split
from deqpipe.results import checkpoint
from deqpipe.workflow import specs
from tests.faults.world import World
from tests.tiny import ROOT

_CLASSES = tuple(str(number) for number in range(10))
_QUICK: dict[str, Any] = {
    "training": {"epochs": 2, "batch_size": 2, "attack": {"steps": 1}},
    "pretrain": {"steps": 1},
    "selection": {"first_epoch": 1, "attack": {"steps": 1}},
    "resnet": {"training": {"epochs": 1, "batch_size": 2, "milestones": []}},
    "solver": {"steps": 2},
    "entropy": {"solver_steps": 1},
    "entropy_sweep": {"solver_steps": [1]},
    "jacobian": {"stop_epoch": 1, "length_jitter": [0, 0]},
    "attack": {"grid": {"states": [1]}},
    "early_state": {"mode": "last"},
}
"""Weights of the right shapes are made by a step on two images."""


def world(folder: Path, images: int) -> World:
    """The paper's settings with batches of so many images, and as many images."""
    # 160,000 steps of 96 images: an epoch has one step here, and a training as many as it takes.
    steps = {"training": {"epochs": 100_000, "batch_size": images}, "pretrain": {"steps": 50_000}}
    sizes = {"evaluation": {"images": images, "batch_size": images}, "timing": {"batch_size": images}}
    resnet = {"resnet": {"training": {"batch_size": images}}}
    validation = {"data": {"validation": images}}
    whole = _settings({**steps, **sizes, **resnet, **validation})
    return World(folder / "large", whole, images, lambda: made_up(images), prepared=folder / "prepared")


def preparing(folder: Path) -> World:
    """Of the jobs that leave weights for others."""
    return World(folder / "prepared", _settings({**_QUICK, "data": {"validation": 2}}), 2, lambda: made_up(2))


def go_on_from(trunk: Path, images: int, folder: Path) -> None:
    """Let a trunk that took one step on two images say that it took those of the whole training.

    A DEQ's training takes the settings of both trainings from it: without this its batches would be of two images.
    """
    whole, stored = world(folder, images), checkpoint.read(trunk)
    spec = specs.loads(whole.spec("pretrain"))
    origin = {**stored.metadata["provenance"], "spec": spec}
    facts = {"provenance": origin, "step": whole.config.pretrain.steps}
    checkpoint.write(trunk, stored.tensors, {**stored.metadata, **facts})


def _settings(changes: dict[str, Any]) -> Config:
    return config.parse(config.merge(config.read_yaml(ROOT / "config.yaml"), changes))


def made_up(count: int) -> Dataset:
    """Noise in three splits of so many images."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (3 * count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(3 * count) % 10
    train, validation, test = (
        Split(pixels[a:b], labels[a:b]) for a, b in itertools.pairwise((0, count, 2 * count, 3 * count))
    )
    return Dataset(train, validation, test, classes=_CLASSES, name="noise")
