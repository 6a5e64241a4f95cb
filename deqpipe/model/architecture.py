"""What a checkpoint says of its model, and the model built from that."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from deqpipe import checkpoint
from deqpipe.config import Count, Model
from deqpipe.data import Dataset
from deqpipe.errors import UserError
from deqpipe.model.classifier import build_classifier
from deqpipe.model.resnet import resnet

KIND = "model"


class _Described(BaseModel):
    """What every architecture says, whatever its type."""

    model_config = ConfigDict(strict=True)

    type: Literal["deq", "resnet"]
    image_shape: Annotated[tuple[Count, Count, Count], Field(strict=False)]
    classes: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    dataset: str


def describe_deq(model: Model, dataset: Dataset) -> dict[str, Any]:
    """The architecture of a DEQ for a dataset, as JSON values."""
    return {"type": "deq", "model": model.model_dump(mode="json"), **_describe_data(dataset)}


def describe_resnet(layers: tuple[int, ...], dataset: Dataset) -> dict[str, Any]:
    """The architecture of a ResNet for a dataset, as JSON values."""
    return {"type": "resnet", "layers": list(layers), **_describe_data(dataset)}


def _describe_data(dataset: Dataset) -> dict[str, Any]:
    return {"image_shape": list(dataset.image_shape), "classes": list(dataset.classes), "dataset": dataset.name}


def build(architecture: Mapping[str, Any], *, seed: int) -> nn.Module:
    """A freshly initialised model of an architecture."""
    channels, height, width = architecture["image_shape"]
    classes = len(architecture["classes"])
    if architecture["type"] == "resnet":
        network: nn.Module = resnet(architecture["layers"], classes, in_channels=channels, seed=seed)
        return network
    settings = Model.model_validate(architecture["model"])
    return build_classifier(settings, image_shape=(channels, height, width), classes=classes, seed=seed)


@dataclass(frozen=True)
class Loaded:
    """A trained model in evaluation mode, its parameters frozen, and what its file says.

    Attributes:
        model: on its device.
        architecture: what it was built from.
        provenance: of its training.
        weights: sixteen hexadecimal digits that stand for its parameters and buffers, whatever file they came in.
    """

    model: nn.Module
    architecture: Mapping[str, Any]
    provenance: Mapping[str, Any]
    weights: str


def load_model(path: Path, device: torch.device) -> Loaded:
    """The model of a checkpoint.

    Raises:
        UserError: the file is missing, damaged, no model, or its weights do not fit its architecture.
    """
    stored = checkpoint.read(path)
    if stored.metadata.get("kind") != KIND:
        raise UserError(f"checkpoint {path} holds no model: its kind is {stored.metadata.get('kind')!r}")
    for key in ("architecture", "provenance"):
        if not isinstance(stored.metadata.get(key), dict):
            raise UserError(f"checkpoint {path} carries no {key}: not a model that deqpipe trained")
    architecture = stored.metadata["architecture"]
    model = _built(architecture, path)
    checkpoint.load_module(model, stored.tensors, source=f"checkpoint {path}")
    model.to(device).eval().requires_grad_(False)
    return Loaded(model, architecture, stored.metadata["provenance"], checkpoint.digest(stored.tensors))


def _built(architecture: Mapping[str, Any], path: Path) -> nn.Module:
    try:
        _Described.model_validate(architecture)
        return build(architecture, seed=0)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:  # torch and pydantic raise the last two
        reason = " ".join(str(error).split())
        raise UserError(f"checkpoint {path} has an architecture that cannot be built ({reason})") from None


def fitting(loaded: Loaded, dataset: Dataset, *, path: Path) -> Loaded:
    """The same model, after a check that a dataset's images and classes are what it was made for.

    Raises:
        UserError: they are not.
    """
    shape, classes = tuple(loaded.architecture["image_shape"]), tuple(loaded.architecture["classes"])
    if (shape, len(classes)) != (dataset.image_shape, len(dataset.classes)):
        raise UserError(
            f"checkpoint {path} was trained on {loaded.architecture['dataset']} images of shape {shape} "
            f"with {len(classes)} classes, but the data are {dataset.name} of shape {dataset.image_shape} "
            f"with {len(dataset.classes)}"
        )
    for number, (trained, found) in enumerate(zip(classes, dataset.classes, strict=True)):
        if trained != found:
            raise UserError(
                f"checkpoint {path} was trained with {trained!r} as class {number}, but the data have {found!r}"
            )
    return loaded
