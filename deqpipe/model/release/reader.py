"""Files of `torch.save`, read without running code that they bring along."""

import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deqpipe.errors import UserError
from deqpipe.machine import faults
from deqpipe.results import header
from deqpipe.results.regular import size_of

FormName = Literal["checkpoint", "state_dict"]

_KNOWN_PARTS = ("state_dict", "epoch", "model", "perf")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_NUMPY_TYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")
# What torch's reader raises on files that are damaged or made up.
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    ArithmeticError, MemoryError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file of the release holds.

    Attributes:
        state: tensors by name, as they stand there.
        form: whether the file is a training checkpoint, with more around its state_dict.
        epoch: of the training, where that is said.
        perf: accuracy on the images that chose the checkpoint, where that is said.
        others: names of what else stands around the state_dict.
    """

    state: dict[str, Tensor]
    form: FormName
    epoch: int | None
    perf: int | float | None
    others: tuple[str, ...]


def read(path: Path) -> Contents:
    """What a file holds, its tensors on the CPU.

    Raises:
        UserError: the file is missing, damaged or no file of torch.save, it needs code to be read, or not all in its
            state_dict could be parameters and buffers.
    """
    content = _unpickled(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, but must hold tensors by name")
    form: FormName = "checkpoint" if "state_dict" in content else "state_dict"
    state = content["state_dict"] if form == "checkpoint" else content
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} holds no tensors by name: its state_dict is {_in_words(state)}")
    for name, value in state.items():
        if not _is_name(name):
            raise UserError(f"{path}: {' '.join(repr(name).split())} is no name")
        flaw = _flaw(value)
        if flaw:
            raise UserError(f"{path}: {name!r} {flaw}")
    around = content if form == "checkpoint" else {}
    epoch, perf = _number_in(around.get("epoch")), _number_in(around.get("perf"))
    others = tuple(part for part in around if _is_name(part) and part not in _KNOWN_PARTS)
    return Contents(dict(state), form, epoch if isinstance(epoch, int) and epoch >= 0 else None, perf, others)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _in_words(value: object) -> str:
    return "empty" if isinstance(value, dict) else f"a {type(value).__name__}"


class _NumberType:
    """Stands in for numpy.dtype while a file is read: the types of plain numbers, and no others."""

    def __init__(self, code: object, *flags: object) -> None:
        if not isinstance(code, str) or code not in _NUMPY_TYPES:
            raise pickle.UnpicklingError(f"numpy type {code!r} is no plain number")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"numpy byte order {state[1]!r} is unknown")
        self.order = state[1]


def _number(kind: object, content: object) -> int | float | bool:
    """Stands in for the function that numpy pickles its numbers with."""
    if not isinstance(kind, _NumberType) or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a numpy number needs a type and bytes")
    (value,) = np.frombuffer(content, dtype=kind.order + kind.code).tolist()
    number: int | float | bool = value
    return number


# `perf` may be a number of numpy. It is read without calling numpy's own, which make more than numbers.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def _unpickled(path: Path) -> object:
    """Tensors (on the CPU), numbers, text, and what contains them."""
    size_of(path)  # a pipe would never end
    _refuse_safetensors(path)
    _refuse_damaged(path)
    try:
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats: an answer is one line
            content: object = torch.load(path, map_location="cpu", weights_only=True)
            return content
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {faults.words(error, path)}") from None
    except _UNREADABLE as error:
        if faults.is_out_of_memory(error):
            raise
        raise UserError(f"{path} {_trouble(error)}") from None


def _refuse_damaged(path: Path) -> None:
    """Compare the checksums of an archive's members, which torch's reader does not."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error):
        return  # torch's reader has its own words for what is no archive at all
    if damaged is not None:
        raise UserError(f"{path} is damaged: the checksum of its member {damaged!r} is wrong")


def _refuse_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            ours = header.METADATA_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return
    if ours:
        raise UserError(f"{path} is a file of deqpipe already: it needs no import")
    raise UserError(f"{path} is a safetensors file, but the release writes files of torch.save")


def _trouble(error: BaseException) -> str:
    text = "".join(one if one.isprintable() else " " if one.isspace() else "?" for one in str(error))
    foreign = re.search(r"GLOBAL +(\S+)", text)
    if foreign:
        return f"holds {foreign[1]}, but only tensors, numbers and text are read: anything else could run code"
    trouble = "is cut short, damaged or no file of torch.save"
    if not isinstance(error, RuntimeError | pickle.UnpicklingError):
        return trouble
    # The first sentence only: others advise to read the file in a way that would run its code.
    reason = " ".join(re.sub(r"^.*WeightsUnpickler error:|Check the documentation.*$", "", text).split())
    return f"{trouble} ({reason.split('. ')[0]})" if reason else trouble


def _flaw(value: object) -> str | None:
    """What keeps a value from being a parameter or buffer."""
    if not isinstance(value, Tensor) or type(value) not in (Tensor, torch.nn.Parameter):
        return f"is a {type(value).__name__}, but must be a tensor"
    if value.is_meta or value.is_neg() or value.layout != torch.strided:
        return "is no plain dense tensor"
    if value.dtype not in (*_FLOATS, torch.int64):
        return f"is {value.dtype}, but must be torch.int64 or one of {', '.join(map(str, _FLOATS))}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"is {list(value.shape)}, but the file holds fewer numbers"
    return None if bool(value.isfinite().all()) else "holds values that are not finite"


def _number_in(value: object) -> int | float | None:
    """A number, also one in a tensor; None for what is none, or not finite."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None
