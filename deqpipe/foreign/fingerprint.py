"""What tells a model or a defence from another one of the same weights and the same text: its settings, and its logits.

An evaluation that goes on must go on with the same decision. Settings are attributes of modules and whatever a defence
is made of; what they do not show (a global, a function that is called, a module that is imported) shows in the logits.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deqpipe.foreign.description import Description
from deqpipe.foreign.loading import code_of, digest, is_torchs, weights_of
from deqpipe.model.alone import INFLUENCE
from deqpipe.shapes import Logits

Fingerprint = dict[str, Any]
"""JSON values: `settings` by name, each as a digest, and `logits` of the first images."""
_INTERNAL = frozenset(vars(nn.Module()))
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_DEEPEST = 8
_OBJECTS = 2
"""How many objects within each other are looked into: a dynamics, its solver. Objects that a module keeps are not: they
may be a log, or a connection."""


def settings_of(described: Description) -> dict[str, str]:
    """What stands for each attribute of a model's modules, for their arrangement, and for a defence.

    Of modules of torch, `repr` says what there is to say.
    """
    settings = {"layers": repr(described.model), "defence": _spelled(described.defence, _OBJECTS)}
    for name, module in described.model.named_modules():
        if not is_torchs(module):
            for key, value in vars(module).items():
                if key not in _INTERNAL:
                    settings[f"{name}.{key}".removeprefix(".")] = _spelled(value, 0)
    return {name: digest(_ADDRESS.sub("", text)) for name, text in settings.items()}


def taken(before: Mapping[str, str], after: Mapping[str, str], logits: Logits) -> Fingerprint:
    """The fingerprint of a model.

    Args:
        before: its settings, before it was asked for anything.
        after: the same once it was: what has changed counts calls, or keeps something, and is no setting.
        logits: (images, classes) of the first images.
    """
    settings = {name: value for name, value in before.items() if after.get(name) == value}
    return {"settings": settings, "logits": logits.detach().cpu().tolist()}


def differing(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What is not as it was, in words; logits may differ as much as by the images beside them (`INFLUENCE`)."""
    shared = before["settings"].keys() & now["settings"].keys()
    other = sorted(name for name in shared if before["settings"][name] != now["settings"][name])
    words = [f"settings ({', '.join(other)})"] if other else []
    logits, again = torch.tensor(before["logits"]), torch.tensor(now["logits"])
    if logits.shape != again.shape:
        return [*words, "classes"]
    change, extent = float((logits - again).abs().max()), float(logits.max() - logits.min())
    if not change <= INFLUENCE * extent:
        words.append(f"logits (by up to {change:.3g} of a range of {extent:.3g}, on the first {len(logits)} images)")
    return words


def _spelled(value: Any, objects: int, depth: int = 0) -> str:
    """A value in words that are the same in every process; of what cannot be put so, its type.

    Args:
        value: anything.
        objects: how many objects within each other may be looked into.
        depth: how deep it lies in others.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic | Enum | torch.dtype):
        return repr(value)
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    if isinstance(value, nn.Module):
        return weights_of(value)
    parts = _parts(value, objects) if depth < _DEEPEST else {}
    below = objects - 1 if _is_object(value) else objects
    inner = (f"{name}={_spelled(part, below, depth + 1)}" for name, part in parts.items())
    return f"{_named(value)}({', '.join(inner)})"


def _named(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _is_object(value: Any) -> bool:
    return not isinstance(
        value, list | tuple | set | frozenset | Mapping | FunctionType | MethodType | functools.partial
    )


def _parts(value: Any, objects: int) -> dict[str, Any]:
    """What a value is made of, by name."""
    if isinstance(value, list | tuple):
        return {str(number): part for number, part in enumerate(value)}
    if isinstance(value, Mapping):
        return {repr(key): part for key, part in value.items()}
    if isinstance(value, set | frozenset):
        return dict.fromkeys(sorted(map(repr, value)))
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, **value.keywords}
    if isinstance(value, MethodType):
        return {"of": value.__self__, "function": value.__func__}
    if isinstance(value, FunctionType):
        return _parts_of_a_function(value)
    if isinstance(value, type | ModuleType):
        return {"code": code_of(value)} if isinstance(value, type) else {}
    kept = {one.name: getattr(value, one.name) for one in fields(value)} if is_dataclass(value) else {}
    return {"code": code_of(type(value)), **getattr(value, "__dict__", {}), **kept} if objects > 0 else kept


def _parts_of_a_function(function: FunctionType) -> dict[str, Any]:
    """Its text, the defaults of its arguments, and what it encloses of the functions around it."""
    enclosed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    values = {name: _content(cell) for name, cell in enclosed.items()}
    return {"code": code_of(function), "defaults": function.__defaults__, **values, **(function.__kwdefaults__ or {})}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty as yet
        return None
