"""Trains the small models of this folder on the digits, within seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor

from deqpipe.foreign.loading import read_description
from deqpipe.solver.fixed_point import FixedPointIteration

HERE = Path(__file__).parent


def digits() -> tuple[Tensor, Tensor]:
    """All images, (1797, 1, 8, 8) in [0, 1], and their classes, in a fixed order."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return torch.tensor(x[order], dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y[order])


def write_digits(path: Path, count: int) -> None:
    """The last digits, which nothing is trained on, as an npz file."""
    x, y = digits()
    np.savez(path, x=x[-count:].numpy(), y=y[-count:].numpy())


def trained(name: str, *, steps: int = 120) -> Any:
    """A model of this folder with weights that were trained by an unrolled solve."""
    model: Any = read_description(HERE / f"{name}.py").model
    x, y = digits()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for number in range(steps):
        rows = torch.arange(64 * number, 64 * (number + 1)) % 1500
        loss = F.cross_entropy(model.logits(_unrolled(model, x[rows])), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def _unrolled(model: Any, x: Tensor) -> Tensor:
    fn, solver = model.bind(x), FixedPointIteration()
    z: Tensor = model.initial_state(x)
    state = solver.init(fn, z)
    for _ in range(12):
        state = solver.step(fn, state)
    return state.z


def write_weights(name: str, path: Path, *, steps: int = 120) -> None:
    """Train one, and keep its weights."""
    weights = trained(name, steps=steps).state_dict()
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, path)
