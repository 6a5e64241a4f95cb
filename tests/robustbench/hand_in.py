"""Small networks in files, and what is exported of them."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deqpipe import build
from deqpipe.api import Model, WhichState, load
from deqpipe.dynamics import PlainDynamics
from deqpipe.model import architecture
from deqpipe.results import checkpoint
from tests import tiny
from tests.reference.tiny import CLASSES, tiny_model
from tests.reference.tiny import architecture as tiny_architecture

NAME = "Someone2026Title"
SIZE = 8
ALIVE = {1: 4, 2: 4, 3: 0, 4: 5}
"""Seeds whose random networks tell images apart, by the number of scales."""


def configured(folder: Path, changes: Mapping[str, Any]) -> Path:
    """A resolved config.yaml of the tiny experiment with changes."""
    path = folder / "config.yaml"
    path.write_text(tiny.settings(changes).model_dump_json(), encoding="utf-8")  # JSON is YAML
    return path


def write_deq(
    folder: Path,
    *,
    scales: int = 2,
    zero: bool = False,
    dataset: str = "folder of images",
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """The file of a small DEQ with random parameters and statistics; or with a head that says nothing."""
    model = tiny_model(scales, size=SIZE, seed=ALIVE[scales]).float()
    if zero:
        nn.init.zeros_(model.head.fc.weight)
    described = architecture.deq_for(
        tiny_architecture(scales),
        image_shape=(3, SIZE, SIZE),
        classes=tuple(f'{number}"' for number in range(CLASSES)),  # names as a folder may have them
        dataset=dataset,
    )
    origin = {"spec": {}} | dict(provenance or {})
    facts = {"kind": architecture.KIND, "architecture": described, "provenance": origin, "epoch": 1}
    path = folder / "ours.safetensors"
    checkpoint.write(path, model.state_dict(), facts)
    return path


def loaded(path: Path, configuration: Path, dtype: torch.dtype = torch.float32) -> Model:
    """The DEQ of a file."""
    return load(path, configuration=configuration, dtype=dtype)


def exported(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network of a hand-in, as anybody would load it."""
    network: nn.Module = runpy.run_path(str(folder / f"{NAME}.py"))[NAME]()
    network.load_state_dict(torch.load(folder / f"{NAME}.pt", weights_only=True), strict=True)
    return network.eval().requires_grad_(False).to(dtype)


def pictures(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random images."""
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


def logits_with_gradient(model: Model, x: Tensor, state: WhichState) -> Tensor:
    """Our logits, with gradient through the solver's own steps."""
    dynamics = build.plain_dynamics(model.settings)
    assert isinstance(dynamics, PlainDynamics)
    along = dynamics.with_gradient(model.network, x)
    if state == "final":
        return model.network.logits(build.final_unroll(model.settings).onwards(along.fn, along.equilibrium))
    return model.network.logits(along.state(state))
