"""Four models that others have written go through the command and through Python, and come to the same numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import pytest
import torch
from pyautoattack.examples.resnet import ResNet18
from safetensors.torch import load_file
from torch import Tensor, nn

import deqpipe
from deqpipe.foreign.evaluation import CARD
from deqpipe.model.convert import from_release
from deqpipe.results import document
from tests import tiny
from tests.foreign import training
from tests.foreign.monotone import MonotoneDEQ
from tests.foreign.with_torchdeq import TorchDEQ
from tests.reference.released import GOLDEN

FOREIGN = Path(__file__).parent
COUNT = 3
RESNET = Path(pyautoattack.__file__).parent / "examples" / "model_test.pt"


@dataclass(frozen=True)
class Given:
    """A model as its authors hand it on.

    Attributes:
        checkpoint: a file of weights.
        model: the same in Python.
        x: images.
        y: their classes.
    """

    checkpoint: Path
    model: nn.Module
    x: Tensor
    y: Tensor


def on_digits(name: str, model: nn.Module, folder: Path) -> Given:
    """One that was trained for some steps."""
    training.write_weights(name, folder / "weights.safetensors", steps=20)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    x, y = training.digits()
    return Given(folder / "weights.safetensors", model, x[-COUNT:], y[-COUNT:])


def locuslab(folder: Path) -> Given:
    """An MDEQ out of a file that the release's own code has written."""
    checkpoint = GOLDEN / "small.pth.tar"
    model: Any = from_release(torch.load(checkpoint, weights_only=True)["state_dict"], groups=4, image_size=8)
    x = torch.rand(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Given(checkpoint, model, x, torch.tensor([0, 1, 2]))


def resnet18(folder: Path) -> Given:
    """The library's example, on images that it has classes for."""
    model = ResNet18()
    model.load_state_dict(torch.load(RESNET, map_location="cpu", weights_only=True))
    x = torch.rand(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return Given(RESNET, model, x, model.eval()(x).argmax(1))


CASES: Mapping[str, tuple[Callable[[Path], Given], dict[str, Any]]] = {
    "monotone": (
        lambda folder: on_digits("monotone", MonotoneDEQ(), folder), {"solver": {"name": "anderson", "steps": 15}},
    ),
    "with_torchdeq": (
        lambda folder: on_digits("with_torchdeq", TorchDEQ(), folder), {"solver": {"name": "broyden", "steps": 12}},
    ),
    "locuslab": (locuslab, {"solver": {"name": "broyden", "steps": 8}}),
    "resnet18": (resnet18, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_a_model_of_others_comes_to_the_same_by_command_and_in_python(name: str, tmp_path: Path) -> None:
    make, said = CASES[name]
    given = make(tmp_path)
    np.savez(tmp_path / "images.npz", x=given.x.numpy(), y=given.y.numpy())
    options = ("--data", tmp_path / "images.npz", "--output", tmp_path / "out", "--effort", "quick", "--threads", 1)
    assert tiny.run("evaluate", FOREIGN / f"{name}.py", given.checkpoint, *options) == 0
    by_command, _ = document.read(tmp_path / "out" / CARD)
    in_python = deqpipe.evaluate(given.model, given.x, given.y, name=name, effort="quick", **said)
    assert by_command == {key: value for key, value in in_python.card.items() if key != "provenance"}
    assert by_command["kind"] == ("network" if name == "resnet18" else "plain")
    assert by_command["images"] == COUNT
    assert not by_command["skipped"]
    assert all(one["ran"] == one["attacks"] for one in by_command["sections"])
