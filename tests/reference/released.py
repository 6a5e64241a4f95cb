"""Models under the release's names, and the command line on files of them."""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deqpipe.model.cell import NormedConv2d
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.release.inference import ImportOptions
from deqpipe.model.release.names import names_of
from tests import tiny
from tests.reference.tiny import architecture, tiny_model

GOLDEN = Path(__file__).parents[1] / "golden" / "release"
GOLDEN_GROUPS = {"small": 4, "rough": 2, "contractive": 2}
BRANCH = "fullstage.branches.0.blocks.0"


def told(**changes: Any) -> ImportOptions:
    """What goes with `tiny_model`."""
    plain = ImportOptions(groups=4, image_size=8, dropout=0.25, classes=None, model=None, seed=None)
    return replace(plain, **changes)


def state_of(model: DEQClassifier, **settings: object) -> OrderedDict[str, Tensor]:
    """A tiny model's tensors as the release would save them."""
    ours = model.state_dict()
    scales = len(model.function.shapes)
    return OrderedDict((theirs, ours[name]) for theirs, name in names_of(architecture(scales, **settings)).items())


def tiny_state(scales: int = 2, **settings: Any) -> OrderedDict[str, Tensor]:
    """A tiny model as the release would save it."""
    return state_of(tiny_model(scales, **settings), **settings)


def copies_of(model: DEQClassifier, state: OrderedDict[str, Tensor], start: str) -> dict[str, Tensor]:
    """What older code saves of its copy of f: plain weights where f has g and v."""
    plain = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, NormedConv2d)}
    table = {
        theirs: ours for theirs, ours in names_of(architecture(len(model.function.shapes), weight_norm=False)).items()
    }
    found = {}
    for theirs, ours in table.items():
        if theirs.startswith("fullstage."):
            module = plain.get(ours.replace(".v", ".weight"))
            found[theirs.replace("fullstage.", start)] = state[theirs] if module is None else module.effective_weight()
    return {name: tensor.detach() for name, tensor in found.items()}


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same bit for bit."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> str:
    """The one line that a command is refused with; it leaves the folder as it is."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    status = tiny.run(*arguments)
    out, err = capsys.readouterr()
    assert status == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("deqpipe")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    return err
