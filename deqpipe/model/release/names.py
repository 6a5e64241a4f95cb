"""Names of the release's parameters and buffers: one table to ours and back, and the ways in which files spell them."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from deqpipe.config import ModelConfig
from deqpipe.errors import UserError
from deqpipe.model.head import EXPANSION

CellName = Literal["fullstage.", "deq.func."]
WeightNormNames = Literal["weight_g", "parametrizations"]
T = TypeVar("T")

_WEIGHT = ("weight",)
_AFFINE = ("weight", "bias")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_BATCH_NORM = (*_AFFINE, *_STATISTICS)
_Pairs = Iterator[tuple[str, str]]


def names(scales: int, *, weight_norm: bool, shortcuts: Collection[int]) -> dict[str, str]:
    """Our name of every tensor of a model, by the release's, in the order of the release's state_dict.

    Args:
        scales: how many.
        weight_norm: whether the block and post-fuse convolutions have g and v.
        shortcuts: scales (from 0) whose bottleneck in the head has a convolution in its shortcut.
    """
    parts = (
        _stem_names(scales),
        _branch_names(scales, weight_norm),
        _fuse_names(scales),
        _post_names(scales, weight_norm),
        _head_names(scales, shortcuts),
    )
    return {theirs: ours for part in parts for theirs, ours in part}


def names_of(model: ModelConfig) -> dict[str, str]:
    """Our name of every tensor of an architecture, by the release's."""
    widths = zip(model.channels, model.head_channels, strict=True)
    shortcuts = [i for i, (channels, head) in enumerate(widths) if channels != EXPANSION * head]
    return names(len(model.channels), weight_norm=model.weight_norm, shortcuts=shortcuts)


def to_ours(values: Mapping[str, T]) -> dict[str, T]:
    """Values by our names instead of the release's, which are spelled as `Spelling()` does.

    Raises:
        KeyError: a name is none of the release's.
    """
    scales = count_scales(values)
    shortcuts = [i for i in range(scales) if f"incre_modules.{i}.0.downsample.0.weight" in values]
    table = names(scales, weight_norm=has_weight_norm(values), shortcuts=shortcuts)
    return {table[name]: value for name, value in values.items()}


def count_scales(parameters: Collection[str]) -> int:
    """How many branches names of the release tell of."""
    return len({match[1] for name in parameters if (match := re.match(r"fullstage\.branches\.(\d+)\.", name))})


def has_weight_norm(parameters: Collection[str]) -> bool:
    """Whether names of the release tell of weight-normed convolutions."""
    return any(name.endswith((".weight_g", ".weight_v")) for name in parameters)


def _alike(theirs: str, ours: str, leaves: Iterable[str]) -> _Pairs:
    return ((f"{theirs}.{leaf}", f"{ours}.{leaf}") for leaf in leaves)


def _normed(theirs: str, ours: str, weight_norm: bool) -> _Pairs:
    leaves = (("weight_g", "g"), ("weight_v", "v")) if weight_norm else (("weight", "v"),)
    return ((f"{theirs}.{leaf}", f"{ours}.{own}") for leaf, own in leaves)


def _stem_names(scales: int) -> _Pairs:
    layers = [("downsample", 0, 0), ("downsample", 3, 3), *([("stage0", 0, 6)] if scales > 2 else [])]
    for module, theirs, ours in layers:
        yield from _alike(f"{module}.{theirs}", f"stem.{ours}", _WEIGHT)
        yield from _alike(f"{module}.{theirs + 1}", f"stem.{ours + 1}", _BATCH_NORM)


def _branch_names(scales: int, weight_norm: bool) -> _Pairs:
    for i in range(scales):
        theirs, ours = f"fullstage.branches.{i}.blocks.0", f"cell.branches.{i}"
        yield from _normed(f"{theirs}.conv1", f"{ours}.conv1", weight_norm)
        yield from _alike(f"{theirs}.gn1", f"{ours}.gn1", _AFFINE)
        yield from _normed(f"{theirs}.conv2", f"{ours}.conv2", weight_norm)
        for norm in ("gn2", "gn3"):
            yield from _alike(f"{theirs}.{norm}", f"{ours}.{norm}", _AFFINE)


def _fuse_names(scales: int) -> _Pairs:
    for i in range(scales):
        for j in range(scales):
            theirs, ours = f"fullstage.fuse_layers.{i}.{j}.net", f"cell.fuse.{j}to{i}"
            if j > i:
                yield from _alike(f"{theirs}.conv", f"{ours}.conv", _WEIGHT)
                yield from _alike(f"{theirs}.gnorm", f"{ours}.gn", _AFFINE)
            for k in range(i - j):  # ours is one flat sequence of convolution, GroupNorm and ReLU
                yield from _alike(f"{theirs}.{k}.conv", f"{ours}.{3 * k}", _WEIGHT)
                yield from _alike(f"{theirs}.{k}.gnorm", f"{ours}.{3 * k + 1}", _AFFINE)


def _post_names(scales: int, weight_norm: bool) -> _Pairs:
    for i in range(scales):
        yield from _normed(f"fullstage.post_fuse_layers.{i}.conv", f"cell.post.{i}.conv", weight_norm)


def _head_names(scales: int, shortcuts: Collection[int]) -> _Pairs:
    for i in range(scales):
        theirs, ours = f"incre_modules.{i}.0", f"head.incre.{i}"
        for k in (1, 2, 3):
            yield from _alike(f"{theirs}.conv{k}", f"{ours}.conv{k}", _WEIGHT)
            yield from _alike(f"{theirs}.bn{k}", f"{ours}.bn{k}", _STATISTICS)
        if i in shortcuts:
            yield from _alike(f"{theirs}.downsample.0", f"{ours}.short.0", _WEIGHT)
            yield from _alike(f"{theirs}.downsample.1", f"{ours}.short.1", _BATCH_NORM)
    for i in range(scales - 1):
        yield from _alike(f"downsamp_modules.{i}.0", f"head.down.{i}.0", _AFFINE)
        yield from _alike(f"downsamp_modules.{i}.1", f"head.down.{i}.1", _BATCH_NORM)
    yield from _alike("final_layer.0", "head.final.0", _AFFINE)
    yield from _alike("final_layer.1", "head.final.1", _BATCH_NORM)
    yield from _alike("classifier", "head.fc", _AFFINE)


_PREFIXES = ("module.", "model.")  # of DataParallel; of those who wrapped the model (locuslab/deq#31)
_PARAMETRIZED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
_CELL, _OLD_CELL = "fullstage.", "deq.func."  # the latter in files of older code (locuslab/deq#14)
_COPIES = ("fullstage_copy.", "deq.func_copy.")  # what that code computed its backward pass with


@dataclass(frozen=True)
class Spelling:
    """How a file writes the names of its tensors.

    Attributes:
        prefix: before all of them.
        cell: what those of f start with.
        weight_norm: how g and v of a weight-normed convolution are called.
    """

    prefix: Annotated[str, Field(pattern=r"^((module|model)\.)*$")] = ""
    cell: CellName = "fullstage."
    weight_norm: WeightNormNames = "weight_g"

    def of(self, name: str) -> str:
        """A name of the release, spelled like this."""
        if name.startswith(_CELL):
            name = self.cell + name.removeprefix(_CELL)
        if self.weight_norm == "parametrizations":
            for long, short in _PARAMETRIZED.items():
                name = f"{name.removesuffix(short)}{long}" if name.endswith(f".{short}") else name
        return self.prefix + name


def read_spelling(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Spelling, list[str]]:
    """The tensors by the names of `Spelling()`, how they were spelled, and in words which were left out as doubles.

    Raises:
        UserError: names are spelled in two ways, or a double is not the same as what it doubles.
    """
    prefix, tensors = _without_prefix(state)
    weight_norm, tensors = _without_parametrizations(tensors)
    cell, tensors, left_out = _one_cell(tensors)
    return tensors, Spelling(prefix, cell, weight_norm), left_out


def _without_prefix(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    prefix, tensors = "", dict(state)
    while start := next((one for one in _PREFIXES if all(name.startswith(one) for name in tensors)), ""):
        prefix, tensors = prefix + start, {name.removeprefix(start): tensor for name, tensor in tensors.items()}
    for start in _PREFIXES:
        count = sum(name.startswith(start) for name in tensors)
        if count:
            raise UserError(f"{count} of {len(tensors)} names start with {prefix}{start}, but all must or none")
    return prefix, tensors


def _without_parametrizations(state: Mapping[str, Tensor]) -> tuple[WeightNormNames, dict[str, Tensor]]:
    long = [name for name in state if name.endswith(tuple(_PARAMETRIZED))]
    short = [name for name in state if name.endswith((".weight_g", ".weight_v"))]
    if long and short:
        raise UserError(f"weight norm is spelled in two ways, {short[0]} and {long[0]}")
    return ("parametrizations" if long else "weight_g"), {_shortened(name): tensor for name, tensor in state.items()}


def _shortened(name: str) -> str:
    return next((name.removesuffix(long) + short for long, short in _PARAMETRIZED.items() if name.endswith(long)), name)


def _one_cell(state: Mapping[str, Tensor]) -> tuple[CellName, dict[str, Tensor], list[str]]:
    """Of everything that doubles f, one: files of older code hold up to four."""
    cell: CellName = "fullstage." if any(name.startswith(_CELL) for name in state) else "deq.func."
    doubles = (*_COPIES, *((_OLD_CELL,) if cell == _CELL else ()))
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(doubles)}
    tensors = {_CELL + name.removeprefix(cell) if name.startswith(cell) else name: kept[name] for name in kept}
    left_out = []
    for double in doubles:
        doubled = {name.removeprefix(double): tensor for name, tensor in state.items() if name.startswith(double)}
        for name, tensor in doubled.items():
            if not _is_double(tensor, name, tensors):
                raise UserError(f"{double}{name} is not the same as {cell}{name}: the file does not say which to take")
        if doubled:
            left_out.append(f"{double}* ({len(doubled)} tensors, the same as {cell}*)")
    return cell, tensors, left_out


def _is_double(tensor: Tensor, name: str, tensors: Mapping[str, Tensor]) -> bool:
    original = tensors.get(f"{_CELL}{name}")
    if original is not None:
        return _same_bits(tensor, original)
    g, v = (tensors.get(f"{_CELL}{name}_{part}") for part in "gv")
    if g is None or v is None or v.ndim < 2 or v.shape != tensor.shape or g.numel() != len(v):
        return False
    # A copy has the weight itself instead of g and v; its file's machine rounded in its own way.
    weight = F.normalize(v.double().flatten(1), dim=1).view_as(v) * g.double().view(-1, *[1] * (v.ndim - 1))
    return bool((weight - tensor).abs().max() <= torch.finfo(v.dtype).eps ** 0.5 * weight.abs().max())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    first, second = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(first, second)
