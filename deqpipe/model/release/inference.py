"""The architecture of an MDEQ of the release, from names and shapes of its tensors, and from what those leave open."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from deqpipe.config import KNOWN_IMAGES, ModelConfig
from deqpipe.errors import UserError
from deqpipe.model.architecture import deq_for, reason
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.release.names import count_scales, has_weight_norm, names_of
from deqpipe.workflow import vocabulary

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGENET_CLASSES = 1000
NAMEABLE = (vocabulary.TRUNK, *vocabulary.DEQS)


@dataclass(frozen=True)
class ImportOptions:
    """What names and shapes do not tell.

    Attributes:
        groups: of the GroupNorms in f; None: it was not told, which is answered with what is possible.
        image_size: height and width of the images.
        dropout: of f, in training.
        classes: their names; None: CIFAR-10's where it can be CIFAR-10, else numbers.
        model: what it is in `vocabulary.MODELS`; None: nothing there.
        seed: which repetition of that.
    """

    groups: int | None
    image_size: int
    dropout: float
    classes: tuple[str, ...] | None
    model: str | None
    seed: int | None

    def __post_init__(self) -> None:
        """Refuse what is wrong whatever the model is.

        Raises:
            UserError: it is.
        """
        if (self.model is None) != (self.seed is None):
            raise UserError("--model and --seed name a model together: give both or none")
        if self.model is not None and self.model not in NAMEABLE:
            raise UserError(f"--model is {self.model!r}, but must be one of {', '.join(NAMEABLE)}")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"--seed is {self.seed}, but must be at least 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout is {self.dropout:g}, but must be at least 0 and less than 1")
        if self.classes is not None and (len(set(self.classes)) < len(self.classes) or not all(self.classes)):
            raise UserError(f"--classes is {','.join(self.classes)!r}, but every class needs a name of its own")


def describe(tensors: Mapping[str, Tensor], told: ImportOptions) -> dict[str, Any]:
    """The architecture of these tensors, which are named as by `names.Spelling()`.

    Raises:
        UserError: it is none of ours, or something is missing, too much or of another shape, or what was told does not
            fit.
    """
    _refuse_relatives(tensors)
    branches = [f"fullstage.branches.{i}.blocks.0" for i in range(count_scales(tensors))]
    channels = tuple(_kernel(tensors, f"{branch}.conv1")[1] for branch in branches)
    settings = {
        "channels": channels,
        "head_channels": [_shape(tensors, f"incre_modules.{i}.0.conv1.weight", 4)[0] for i in range(len(branches))],
        "final_channels": _shape(tensors, "final_layer.0.weight", 4)[0],
        "groups": _checked_groups(told.groups, channels),
        "expansion": _expansion(tensors, branches),
        "dropout": told.dropout,
        "weight_norm": has_weight_norm(tensors),
        "init": "release",
    }
    try:
        model = ModelConfig.model_validate(settings)
    except ValidationError as error:
        raise UserError(reason(error)) from None
    image_shape = (_shape(tensors, "downsample.0.weight", 4)[1], told.image_size, told.image_size)
    classes, dataset = _classes(_shape(tensors, "classifier.weight", 2)[0], image_shape, told.classes)
    _check_fit(tensors, model, image_shape, len(classes))
    return deq_for(model, image_shape=image_shape, classes=classes, dataset=dataset)


def _refuse_relatives(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is no MDEQ, and MDEQs that are not built like ours, with the reason."""
    scales = count_scales(tensors)
    if scales == 0:
        raise UserError(f"no MDEQ: fullstage.branches.0 is missing (the names begin with {', '.join([*tensors][:3])})")
    if scales == 1:
        raise UserError("an MDEQ of one scale, which has nothing to fuse: the release needs two scales at least")
    stem = next((name for name in tensors if name.startswith("downsample.DS")), None)
    if stem is not None or (scales == 2 and "stage0.0.weight" in tensors):
        sign = stem or "stage0.0.weight with two scales"
        raise UserError(f"a model for ImageNet: {sign} tells of a stem with strides, which deqpipe does not have")
    for name in tensors:
        if re.match(r"fullstage\.branches\.\d+\.blocks\.[1-9]", name):
            raise UserError(f"more than one block in a branch ({name}), but deqpipe has one")
        if re.match(r"fullstage\.post_fuse_layers\.\d+\.gnorm\.", name):
            raise UserError(f"a GroupNorm with parameters after fusing ({name}), but deqpipe's has none")


def _shape(tensors: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in tensors:
        raise UserError(f"{name} is missing")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise UserError(f"{name} is {list(shape)}, but must have {dimensions} dimensions, none of them 0")
    return shape


def _kernel(tensors: Mapping[str, Tensor], module: str) -> tuple[int, ...]:
    """Shape of a convolution in a block, weight-normed or not."""
    name = next((one for one in (f"{module}.weight_v", f"{module}.weight") if one in tensors), f"{module}.weight")
    shape = _shape(tensors, name, 4)
    if shape[2:] != (3, 3):
        raise UserError(f"{name} is {list(shape)}, but the kernels of deqpipe's blocks are 3x3")
    return shape


def _expansion(tensors: Mapping[str, Tensor], branches: Iterable[str]) -> int:
    ratios = []
    for branch in branches:
        wide, narrow = _kernel(tensors, f"{branch}.conv1")[:2]
        if wide % narrow:
            raise UserError(f"{branch}.conv1 makes {wide} channels of {narrow}, which is no whole multiple")
        ratios.append(wide // narrow)
    if len(set(ratios)) > 1:
        raise UserError(f"the blocks widen their channels {', '.join(map(str, ratios))}-fold, but must do so alike")
    return ratios[0]


def _checked_groups(groups: int | None, channels: tuple[int, ...]) -> int:
    """The number of groups, which shows in no tensor."""
    possible = [g for g in range(2, min(channels) + 1) if all(c % g == 0 and c % (g // 2) == 0 for c in channels)]
    widths = "/".join(map(str, channels))
    if not possible:
        raise UserError(f"no number of groups fits {widths} channels: it and half of it must divide all of them")
    if groups in possible:
        return groups
    asked = "no name or shape tells the number of groups: give" if groups is None else f"is {groups}, but must be"
    raise UserError(f"--groups: {asked} one of {', '.join(map(str, possible))} for {widths} channels")


def _classes(
    count: int, image_shape: tuple[int, int, int], told: tuple[str, ...] | None
) -> tuple[tuple[str, ...], str]:
    """The names of the classes, and of the images."""
    if told is not None and len(told) != count:
        raise UserError(f"--classes has {len(told)} names, but the model has {count} classes")
    if told is not None:
        return told, "unknown"
    if count == IMAGENET_CLASSES:
        raise UserError(
            f"{count} classes, as of a model for ImageNet, whose stem has strides: no name or shape tells of them, and "
            "deqpipe's has none; if this is another model, name its classes with --classes"
        )
    cifar10 = KNOWN_IMAGES["cifar10"]
    if (count, image_shape) == (len(CIFAR10_CLASSES), (3, cifar10.size, cifar10.size)):
        return CIFAR10_CLASSES, cifar10.name
    return tuple(map(str, range(count))), "unknown"


def _check_fit(
    tensors: Mapping[str, Tensor], model: ModelConfig, image_shape: tuple[int, int, int], classes: int
) -> None:
    """Refuse tensors that are missing, unknown, or of another shape or kind, by the release's names."""
    with torch.device("meta"):
        wanted = DEQClassifier(model, image_shape=image_shape, classes=classes).state_dict()
    table = names_of(model)
    for theirs, ours in table.items():
        if theirs not in tensors:
            raise UserError(f"{theirs} is missing{_weight_norm_hint(theirs, tensors)}")
        if tensors[theirs].shape != wanted[ours].shape:
            raise UserError(f"{theirs} is {list(tensors[theirs].shape)}, but must be {list(wanted[ours].shape)}")
        if tensors[theirs].is_floating_point() != wanted[ours].is_floating_point():
            kind = "a floating type" if wanted[ours].is_floating_point() else wanted[ours].dtype
            raise UserError(f"{theirs} is {tensors[theirs].dtype}, but must be {kind}")
    unknown = [name for name in tensors if name not in table]
    if unknown:
        raise UserError(f"{unknown[0]} has no place in the model ({len(unknown)} of {len(tensors)} names have none)")


def _weight_norm_hint(name: str, tensors: Mapping[str, Tensor]) -> str:
    plain = re.sub("_[gv]$", "", name)
    mixed = plain != name and plain in tensors
    return f": some convolutions are weight-normed, but {plain} is not" if mixed else ""
