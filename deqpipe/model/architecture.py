"""What a checkpoint says of its model, and the model built from that."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deqpipe import extending
from deqpipe.config import Count, FeedforwardConfig, ModelConfig, ResNetConfig
from deqpipe.data import Dataset
from deqpipe.errors import UserError
from deqpipe.model.adapter import AdaptedModel
from deqpipe.model.classifier import build_classifier
from deqpipe.model.interface import UserModel
from deqpipe.model.resnet import build_resnet, resnet_operations
from deqpipe.results import checkpoint
from deqpipe.results.provenance import checked
from deqpipe.seeding import Stream

KIND = "model"


@runtime_checkable
class Build(Protocol):
    """Makes a freshly initialised network."""

    def __call__(
        self, described: Mapping[str, Any], classes: int, *, image_shape: tuple[int, int, int], seed: int
    ) -> nn.Module:
        """A network of the shape that `describe_feedforward` gives."""


@runtime_checkable
class Operations(Protocol):
    """Counts floating-point operations."""

    def __call__(self, settings: Any, *, image_shape: tuple[int, int, int], classes: int) -> int:
        """Those of one application to one image."""


@dataclass(frozen=True)
class Feedforward:
    """An architecture without states.

    Attributes:
        settings: the type of its section of the configuration.
        build: makes one.
        operations: what its application to an image costs.
    """

    settings: type[FeedforwardConfig]
    build: Build
    operations: Operations


FEEDFORWARD: Mapping[str, Feedforward] = {"resnet": Feedforward(ResNetConfig, build_resnet, resnet_operations)}
"""Networks without states, by the names of their architectures."""


class _Described(BaseModel):
    """What every architecture says, whatever its type."""

    model_config = ConfigDict(strict=True)

    type: str
    image_shape: Annotated[tuple[Count, Count, Count], Field(strict=False)]
    classes: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    dataset: str


def describe_deq(model: ModelConfig, dataset: Dataset) -> dict[str, Any]:
    """The architecture of a DEQ for a dataset, as JSON values."""
    return deq_for(model, image_shape=dataset.image_shape, classes=dataset.classes, dataset=dataset.name)


def deq_for(
    model: ModelConfig, *, image_shape: tuple[int, int, int], classes: tuple[str, ...], dataset: str
) -> dict[str, Any]:
    """The architecture of a DEQ for images of this (channels, height, width) and these classes, as JSON values."""
    return {"type": "deq", "model": model.model_dump(mode="json"), **_data(image_shape, classes, dataset)}


def describe_feedforward(name: str, settings: FeedforwardConfig, dataset: Dataset) -> dict[str, Any]:
    """The architecture of a network without states for a dataset, as JSON values.

    Args:
        name: a key of `FEEDFORWARD`.
        settings: its shape.
        dataset: what it will see.
    """
    shape = settings.model_dump(mode="json", exclude={"training"})
    return {"type": name, **shape, **_data(dataset.image_shape, dataset.classes, dataset.name)}


def _data(image_shape: tuple[int, int, int], classes: tuple[str, ...], dataset: str) -> dict[str, Any]:
    return {"image_shape": list(image_shape), "classes": list(classes), "dataset": dataset}


def build(architecture: Mapping[str, Any], *, seed: int) -> nn.Module:
    """A freshly initialised model of an architecture.

    Raises:
        ValueError: there is none of that type.
    """
    channels, height, width = architecture["image_shape"]
    image_shape, classes = (channels, height, width), len(architecture["classes"])
    if architecture["type"] in FEEDFORWARD:
        return FEEDFORWARD[architecture["type"]].build(architecture, classes, image_shape=image_shape, seed=seed)
    if (piece := extending.find(extending.Model, architecture["type"])) is not None:
        return _own(piece, image_shape, classes, seed)
    if architecture["type"] != "deq":
        known = " or ".join(map(repr, ("deq", *FEEDFORWARD)))
        raise ValueError(f"type is {architecture['type']!r}, but must be {known}")
    settings = ModelConfig.model_validate(architecture["model"])
    return build_classifier(settings, image_shape=image_shape, classes=classes, seed=seed)


def describe_own(name: str, dataset: Dataset) -> dict[str, Any]:
    """The architecture of a model that a user's file defines, as JSON values: the file says the rest."""
    return {"type": name, **_data(dataset.image_shape, dataset.classes, dataset.name)}


def _own(piece: extending.Model, image_shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """A model of a user's file, its parameters drawn from the seed.

    Raises:
        UserError: what the file builds is no such model.
    """
    assert piece.build is not None
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(Stream(seed, "initialisation").generator().get_state())
        model = piece.build(image_shape, classes)
    if not isinstance(model, nn.Module) or not isinstance(model, UserModel):
        wanted = "a torch.nn.Module with bind, initial_state and logits"
        what = f"build gave a {type(model).__name__}, but must give {wanted}"
        raise extending.mistake(extending.Model, piece.name, what)
    return AdaptedModel(model, torch.zeros(1, *image_shape), trainable=True)


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


def load_model(path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Loaded:
    """The model of a checkpoint, built in `dtype`; numbers that are stored in another precision are converted to it.

    Raises:
        UserError: the file is missing, damaged, no model, or its weights do not fit its architecture.
    """
    return _loaded(read_model(path), path, device, dtype)


def load_deq(path: Path, device: torch.device, dtype: torch.dtype = torch.float32, *, taker: str) -> Loaded:
    """The same of a DEQ of the package's own architecture, a `DEQClassifier`.

    Args:
        path: of the checkpoint.
        device: where the model goes.
        dtype: of the model.
        taker: who asks, for the message.

    Raises:
        UserError: as `load_model`; or the file holds another kind of model.
    """
    stored = read_model(path)
    kind = stored.metadata["architecture"].get("type")
    if not isinstance(kind, str):
        return _loaded(stored, path, device, dtype)  # which says what is wrong
    if kind in FEEDFORWARD:
        raise UserError(f"checkpoint {path} holds a network without states ({kind}), but {taker} takes a DEQ")
    if kind != "deq":  # refused by its name: its file need not be loaded for that
        raise UserError(
            f"checkpoint {path} holds {kind!r}, a model of a user's file, but {taker} takes a DEQ of deqpipe's own "
            "architecture; a model of one's own is judged by `deqpipe evaluate`"
        )
    return _loaded(stored, path, device, dtype)


def _loaded(stored: checkpoint.Checkpoint, path: Path, device: torch.device, dtype: torch.dtype) -> Loaded:
    architecture = stored.metadata["architecture"]
    model = assemble(architecture, stored.tensors, dtype=dtype, source=f"checkpoint {path}")
    return Loaded(model.to(device), architecture, stored.metadata["provenance"], stored.digest)


def read_model(path: Path) -> checkpoint.Checkpoint:
    """What the file of a model holds, its tensors as they are stored.

    Raises:
        UserError: the file is missing, damaged or no model.
    """
    stored = checkpoint.read(path)
    if stored.metadata.get("kind") != KIND:
        raise UserError(f"checkpoint {path} holds no model: its kind is {stored.metadata.get('kind')!r}")
    for key in ("architecture", "provenance"):
        if not isinstance(stored.metadata.get(key), dict):
            raise UserError(f"checkpoint {path} carries no {key}: not a model that deqpipe trained or imported")
    checked(stored.metadata["provenance"], path)
    return stored


def assemble(
    architecture: Mapping[str, Any], tensors: Mapping[str, Tensor], *, dtype: torch.dtype, source: str
) -> nn.Module:
    """A model of an architecture with these weights, on the CPU, in evaluation mode and frozen.

    Args:
        architecture: as `describe_deq` gives it.
        tensors: all parameters and buffers; floating ones of any precision.
        dtype: of the model.
        source: where the weights are from, for the message.

    Raises:
        UserError: the architecture cannot be built, or the weights do not fit it.
    """
    converted = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    stored = sum(tensor.numel() for tensor in tensors.values())
    with _Room(2 * stored + _TO_SPARE):
        model = _built(architecture, source).to(dtype)
    checkpoint.load_module(model, converted, source=source)
    return model.eval().requires_grad_(False)


_TO_SPARE = 1_000_000
"""Numbers that building takes beside those of the model, such as a convolution that another one replaces."""


class _Room(TorchFunctionMode):
    """Within it, tensors that are left for initialisation to fill have a bounded number of numbers, all together.

    An architecture that is not that of its weights may ask for terabytes. (An outline on the meta device would tell as
    much, but torch imports its compiler for that.)
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self._left = self._numbers = numbers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, unless it would go beyond.

        Raises:
            ValueError: it would.
        """
        if func is torch.empty:
            self._left -= math.prod(args if isinstance(args[0], int) else args[0])
            if self._left < 0:
                raise ValueError(f"it has more numbers than its weights: over {self._numbers:,}")
        return func(*args, **(kwargs or {}))


def _built(architecture: Mapping[str, Any], source: str) -> nn.Module:
    try:
        _Described.model_validate(architecture)
        return build(architecture, seed=0)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:  # torch and pydantic raise the last two
        raise UserError(f"{source} has an architecture that cannot be built ({reason(error)})") from None


def reason(error: Exception) -> str:
    """Why something cannot be built, in one line; of several wrong keys the first."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))} is {first['input']!r}: {first['msg'].lower()}"


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
    for number, (trained, here) in enumerate(zip(classes, dataset.classes, strict=True)):
        if trained != here:
            raise UserError(
                f"checkpoint {path} was trained with {trained!r} as class {number}, but the data have {here!r}"
            )
    return loaded
