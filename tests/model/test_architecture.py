"""Models described in words, and read back from files."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deqpipe.data import Dataset
from deqpipe.data.dataset import Split
from deqpipe.errors import UserError
from deqpipe.model.architecture import KIND, build, deq_for, describe_deq, describe_feedforward, fitting, load_model
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import checkpoint
from tests.reference.tiny import CLASSES, architecture
from tests.tiny import settings

CPU = torch.device("cpu")


def dataset(*, size: int = 8, classes: tuple[str, ...] = ("a", "b", "c", "d", "e"), name: str = "toys") -> Dataset:
    split = Split(torch.zeros(2, 3, size, size, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    return Dataset(split, split, split, classes, name)


DEQ = describe_deq(architecture(2), dataset())
RESNET = describe_feedforward("resnet", settings().resnet, dataset())


def save(path: Path, model: nn.Module, described: dict[str, Any], **changes: object) -> Path:
    metadata = {"kind": KIND, "architecture": described, "provenance": {"spec": {}, "seconds": 1}} | changes
    checkpoint.write(path, model.state_dict(), metadata)
    return path


def test_description_of_a_deq_builds_it_for_the_data() -> None:
    model = build(DEQ, seed=1)
    assert isinstance(model, DEQClassifier)
    assert model.function.shapes == ((4, 8, 8), (8, 4, 4))
    weight, again, other = (build(DEQ, seed=seed).state_dict()["head.fc.weight"] for seed in (1, 1, 2))
    assert weight.shape == (CLASSES, 7)
    assert torch.equal(weight, again)
    assert not torch.equal(weight, other)


def test_description_of_a_resnet_builds_it_for_the_data() -> None:
    model = build(RESNET, seed=1)
    assert not isinstance(model, DEQClassifier)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, CLASSES)


@pytest.mark.parametrize("described", [DEQ, RESNET], ids=["deq", "resnet"])
def test_loaded_model_is_the_stored_one_frozen_and_in_evaluation_mode(
    tmp_path: Path, described: dict[str, Any]
) -> None:
    model = build(described, seed=5)
    loaded = load_model(save(tmp_path / "model.safetensors", model, described), CPU)
    stored = model.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.architecture == described
    assert loaded.provenance == {"spec": {}, "seconds": 1}
    assert fitting(loaded, dataset(), path=tmp_path) is loaded


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint .*none.safetensors does not exist"):
        load_model(tmp_path / "none.safetensors", CPU)


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "state.safetensors", build(DEQ, seed=0), DEQ, kind="training state")
    with pytest.raises(UserError, match=r"holds no model: its kind is 'training state'"):
        load_model(path, CPU)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    other = describe_deq(architecture(2, final_channels=9), dataset())
    path = save(tmp_path / "model.safetensors", build(other, seed=0), DEQ)
    with pytest.raises(UserError, match=r"model.safetensors does not fit the model: head.final.0.weight"):
        load_model(path, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": None}, "carries no architecture: not a model that deqpipe trained or imported"),
        ({"provenance": None}, "carries no provenance: not a model that deqpipe trained or imported"),
        ({"architecture": {}}, "has an architecture that cannot be built"),
        ({"architecture": {**DEQ, "type": "mlp"}}, "cannot be built .*'deq' or 'resnet'"),
        ({"architecture": {**DEQ, "image_shape": [3, -8, -8]}}, "cannot be built .*image_shape"),
        ({"architecture": {**DEQ, "image_shape": [3, 8]}}, "cannot be built .*image_shape"),
        ({"architecture": {**DEQ, "image_shape": [3, 7, 7]}}, "cannot be built .*7x7"),
        ({"architecture": {**DEQ, "classes": 5}}, "cannot be built .*classes"),
        ({"architecture": {**DEQ, "model": {**DEQ["model"], "groups": 3}}}, "cannot be built"),
        ({"architecture": {**DEQ, "model": {**DEQ["model"], "groups": -2}}}, "cannot be built .*groups"),
        ({"architecture": {**DEQ, "model": {**DEQ["model"], "final_channels": 2**62}}}, "cannot be built"),
        ({"architecture": {**RESNET, "layers": [1, 1]}}, "cannot be built"),
        ({"architecture": {**RESNET, "layers": ["a"] * 4}}, "cannot be built"),
        ({"architecture": {**RESNET, "layers": [200_000, 1, 1, 1]}}, "cannot be built .*at most 200 blocks"),
        (
            {"architecture": {**DEQ, "model": {**DEQ["model"], "expansion": 100_000}}},
            r"cannot be built \(expansion is 100000: input should be less than or equal to 1000\)",
        ),
        (
            {"architecture": {**DEQ, "model": {**DEQ["model"], "expansion": 1_000}}},
            "does not fit|more numbers",
        ),
        ({"architecture": {**DEQ, "image_shape": [10**7, 8, 8]}}, "more numbers than its weights"),
    ],
)
def test_files_that_describe_no_model_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = save(tmp_path / "model.safetensors", build(DEQ, seed=0), DEQ, **changes)
    with pytest.raises(UserError, match=f"checkpoint .*model.safetensors .*{message}") as refusal:
        load_model(path, CPU)
    assert "\n" not in str(refusal.value)


def test_a_model_that_is_not_that_of_its_weights_is_never_given_memory(tmp_path: Path) -> None:
    """Weights of a few kB whose file says that the model has a million million."""
    wide = {**DEQ["model"], "channels": [65_536] * 2, "head_channels": [65_536] * 2, "expansion": 1_000}
    path = save(tmp_path / "model.safetensors", build(DEQ, seed=0), {**DEQ, "model": wide})
    with pytest.raises(UserError, match=r"cannot be built \(it has more numbers than its weights: over"):
        load_model(path, CPU)


@pytest.mark.parametrize("asked", [torch.float32, torch.float64])
@pytest.mark.parametrize("stored", [torch.float16, torch.float32, torch.float64, None])
@pytest.mark.parametrize("described", [DEQ, RESNET], ids=["deq", "resnet"])
def test_weights_of_any_precision_are_converted_to_the_one_asked_for(
    tmp_path: Path, described: dict[str, Any], stored: torch.dtype | None, asked: torch.dtype
) -> None:
    model = build(described, seed=0).double()
    kinds = itertools.cycle([torch.float64, torch.float16, torch.bfloat16])
    tensors = {
        name: tensor.to(stored or next(kinds)) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    metadata = {"kind": KIND, "architecture": described, "provenance": {"spec": {}}}
    checkpoint.write(tmp_path / "model.safetensors", tensors, metadata)
    loaded = load_model(tmp_path / "model.safetensors", CPU, asked)
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.dtype == (asked if tensor.is_floating_point() else torch.int64)
        assert torch.equal(tensor, tensors[name].to(tensor.dtype))
    assert loaded.weights == checkpoint.digest(tensors)


def test_model_is_loaded_in_single_precision_unless_another_is_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors", build(DEQ, seed=0).double(), DEQ)
    assert {tensor.dtype for tensor in load_model(path, CPU).model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("stem.1.num_batches_tracked", torch.tensor(1.0), "is torch.float32, but must be torch.int64"),
        ("head.fc.bias", torch.zeros(CLASSES, dtype=torch.int64), "is torch.int64, but must be torch.float32"),
        ("head.fc.bias", torch.zeros(CLASSES + 1, dtype=torch.float64), r"is \[6\], but must be \[5\]"),
    ],
)
def test_weights_of_another_kind_or_shape_are_refused(
    tmp_path: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    tensors = build(DEQ, seed=0).state_dict() | {name: tensor}
    metadata = {"kind": KIND, "architecture": DEQ, "provenance": {"spec": {}}}
    checkpoint.write(tmp_path / "model.safetensors", tensors, metadata)
    with pytest.raises(UserError, match=f"does not fit the model: {name} {message}"):
        load_model(tmp_path / "model.safetensors", CPU)


def test_architecture_for_given_images_is_that_for_a_dataset_of_them() -> None:
    found = deq_for(architecture(2), image_shape=(3, 8, 8), classes=("a", "b", "c", "d", "e"), dataset="toys")
    assert found == DEQ


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataset(size=16), r"toys images of shape \(3, 8, 8\) with 5 classes.*toys of shape \(3, 16, 16\) with 5"),
        (dataset(classes=("a", "b"), name="coins"), r"with 5 classes, but the data are coins .* with 2"),
        (dataset(classes=("a", "b", "d", "c", "e")), r"trained with 'c' as class 2, but the data have 'd'"),
    ],
)
def test_data_that_the_model_was_not_made_for_are_refused(tmp_path: Path, data: Dataset, message: str) -> None:
    loaded = load_model(save(tmp_path / "model.safetensors", build(DEQ, seed=0), DEQ), CPU)
    with pytest.raises(UserError, match=message):
        fitting(loaded, data, path=tmp_path / "model.safetensors")


def test_model_is_loaded_onto_the_device_asked_for(tmp_path: Path) -> None:
    loaded = load_model(save(tmp_path / "model.safetensors", build(DEQ, seed=0), DEQ), torch.device("meta"))
    assert {tensor.device.type for tensor in loaded.model.state_dict().values()} == {"meta"}
