"""Checkpoint files: named tensors and JSON metadata in one safetensors file. Reading one runs no code of its author.

An optimiser's state is stored as tensors `optimizer.<parameter>.<key>` (Adam's `exp_avg`, `exp_avg_sq` and `step`, the
`momentum_buffer` of SGD) and `optimizer_group.<number>.lr`, so that training continues with the same bits.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from deqpipe.errors import UserError
from deqpipe.results import header, integrity, records

_DIGITS = 16
_STATE = "optimizer."
_GROUP = "optimizer_group."
_GROUP_KEYS = ("lr", "initial_lr")  # what a schedule changes or needs; the other hyperparameters come from the config


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What one file holds: tensors (on the CPU) by name, and JSON values."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    content: str
    """The digest of all tensors, as `digest` shortens it."""

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for the tensors, whatever file they came in."""
        return self.content[:_DIGITS]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors named `<prefix>.<name>`, by `<name>`."""
        start = f"{prefix}."
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names `<prefix>.<name>`; `Checkpoint.part` takes the prefix off again."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a file whole: under a temporary name, synced to disk, then renamed.

    Args:
        path: the final name; an older file there is replaced.
        tensors: of any device and layout; those that share memory are stored apart.
        metadata: JSON values.
    """
    copies = {name: _plain_copy(tensor) for name, tensor in tensors.items()}
    shapes = {name: list(tensor.shape) for name, tensor in copies.items()}
    told = header.written(metadata, tensors=_content(copies), shapes=shapes)
    with records.atomic(path) as temporary:
        _save(copies, temporary, told)


def _save(tensors: Mapping[str, Tensor], path: Path, told: dict[str, str]) -> None:
    try:
        save_file(dict(tensors), path, metadata=told)
    except SafetensorError as error:  # which keeps the operating system's error as a text
        number = re.search(r"(?:os error|code:) (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def _plain_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def read(path: Path, *, what: str = "checkpoint") -> Checkpoint:
    """The tensors and metadata of a file.

    Args:
        path: the file.
        what: what to call it in a message.

    Raises:
        DamagedFileError: the file is cut short, or not as it was written.
        UserError: it is missing, cannot be read, or was not written by `write` of this version.
    """
    where = f"{what} {path}"
    with header.opened(path, what, "pt") as file:
        told = header.read(file, where)
        # Copies: what is handed out is mapped from the file, which may be replaced or go away with its file system.
        tensors = {name: file.get_tensor(name).clone() for name in told.shapes}
    if _content(tensors) != told.tensors:
        raise integrity.damaged(where)
    return Checkpoint(tensors, told.metadata, told.tensors)


def read_metadata(path: Path, *, what: str = "checkpoint") -> dict[str, Any]:
    """The metadata of a file; no tensor is read.

    Raises:
        UserError: as `read`.
    """
    where = f"{what} {path}"
    with header.opened(path, what, "pt") as file:
        return header.read(file, where).metadata


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that stand for named tensors, whatever file they came in."""
    return _content(tensors)[:_DIGITS]


def _content(tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "checkpoint") -> None:
    """Copy tensors into a module's parameters and buffers; all of them, and no others.

    Args:
        module: changed in place; only if everything fits.
        tensors: by the names of `module.state_dict()`.
        source: where the tensors are from, for the message.

    Raises:
        UserError: as `refuse_misfit`.
    """
    refuse_misfit(module, tensors, source=source)
    module.load_state_dict(dict(tensors), strict=True)


def refuse_misfit(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "checkpoint") -> None:
    """Refuse tensors that a module cannot take, or should not.

    Raises:
        UserError: a name is missing or unknown, or a shape or dtype differs; names the first one, and both counts. Or
            a number is not finite: a model with it has one answer to every image.
    """
    wanted = module.state_dict()
    difference = _first_difference(wanted, tensors)
    if difference:
        counts = f"{len(tensors)} tensors there, {len(wanted)} in the model"
        raise UserError(f"{source} does not fit the model: {difference} ({counts})")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{source} holds numbers in {name} that are not finite: {integrity.ADVICE}")


def _first_difference(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    for name, tensor in wanted.items():
        if name not in tensors:
            return f"{name} is missing"
        if tensors[name].shape != tensor.shape:
            return f"{name} is {list(tensors[name].shape)}, but must be {list(tensor.shape)}"
        if tensors[name].dtype != tensor.dtype:
            return f"{name} is {tensors[name].dtype}, but must be {tensor.dtype}"
    return next((f"the model has no {name}" for name in tensors if name not in wanted), None)


def optimizer_tensors(optimizer: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The state of an optimiser over parameters of `module`, as named tensors for `write`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    tensors = {
        f"{_STATE}{names[parameter]}.{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }
    for number, group in enumerate(optimizer.param_groups):
        for key in _GROUP_KEYS:
            if key in group:  # float64 holds a Python float exactly
                tensors[f"{_GROUP}{number}.{key}"] = torch.tensor(float(group[key]), dtype=torch.float64)
    return tensors


def restore_optimizer(
    optimizer: Optimizer, module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "checkpoint"
) -> None:
    """Give a new optimiser the state that `optimizer_tensors` took.

    Args:
        optimizer: built over the same parameters in the same groups; changed in place.
        module: whose parameters it optimises.
        tensors: all tensors of a checkpoint; those of other names are ignored.
        source: where the tensors are from, for the message.

    Raises:
        UserError: as `optimizer_state`.
    """
    optimizer.load_state_dict(optimizer_state(optimizer, module, tensors, source=source))


def optimizer_state(
    optimizer: Optimizer, module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "checkpoint"
) -> dict[str, Any]:
    """What `restore_optimizer` gives an optimiser, as torch's `load_state_dict` wants it; arguments as there.

    Raises:
        UserError: the tensors hold no optimiser state, that of another model, or only part of one.
    """
    groups = optimizer.state_dict()["param_groups"]
    for number, group in enumerate(groups):
        if f"{_GROUP}{number}.lr" not in tensors:
            raise UserError(f"{source} holds no optimiser state: {_GROUP}{number}.lr is missing")
        for key in _GROUP_KEYS:
            if f"{_GROUP}{number}.{key}" in tensors:
                group[key] = tensors[f"{_GROUP}{number}.{key}"].item()
    return {"state": _indexed_state(optimizer, module, tensors, source), "param_groups": groups}


def _indexed_state(
    optimizer: Optimizer, module: nn.Module, tensors: Mapping[str, Tensor], source: str
) -> dict[int, dict[str, Tensor]]:
    """The state by parameter number."""
    parameters = dict(module.named_parameters())
    optimised = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = {parameter: number for number, parameter in enumerate(optimised)}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        if not full_name.startswith(_STATE):
            continue
        name, key = full_name.removeprefix(_STATE).rsplit(".", 1)
        if parameters.get(name) not in numbers:
            raise UserError(f"{source} holds optimiser state of {name}, which is no parameter here")
        shape = parameters[name].shape
        if tensor.ndim and tensor.shape != shape:
            raise UserError(f"{source}: {full_name} is {list(tensor.shape)}, but must be {list(shape)}")
        # A copy: the optimiser changes its state in place, and the checkpoint stays what it was. Its numbers lie in
        # memory as the parameter's do: a fused optimiser on a CPU goes through both side by side, whatever their order.
        like = torch.empty_like(parameters[name], dtype=tensor.dtype) if tensor.ndim else torch.empty_like(tensor)
        state.setdefault(numbers[parameters[name]], {})[key] = like.copy_(tensor)
    keys = {key for kept in state.values() for key in kept}
    for number, kept in state.items():
        if keys - kept.keys():  # torch would start it anew, in the middle of a training
            name = next(name for name, parameter in parameters.items() if parameter is optimised[number])
            raise UserError(f"{source} holds optimiser state of {name}, but {min(keys - kept.keys())} is missing")
    return state
