"""The image of Figure 2 (c): as it is, and attacked (npz)."""

import hashlib
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqpipe.errors import DamagedFileError, UserError
from deqpipe.machine import faults
from deqpipe.results import document, integrity, records
from deqpipe.results.provenance import checked

# What numpy raises on files that are damaged or made up; a single array is no file of arrays.
_UNREADABLE = (
    OSError, ValueError, EOFError, TypeError, AttributeError, KeyError, MemoryError, RuntimeError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
_NAMES = ("clean", "attacked", "image", "label", "fooled", "early_state", "classes", "provenance")


@dataclass(frozen=True)
class Example:
    """One test image.

    Attributes:
        clean, attacked: (channels, height, width), in [0, 1].
        image: its index in the test split, counted from 0.
        label: its class.
        fooled: whether it is right when clean and wrong when attacked; False where no image is.
        early_state: the state that decides about it, counted from 1.
        classes: names of all classes.
    """

    clean: NDArray[np.float32]
    attacked: NDArray[np.float32]
    image: int
    label: int
    fooled: bool
    early_state: int
    classes: tuple[str, ...]


def write(path: Path, example: Example, provenance: Mapping[str, Any]) -> None:
    """Write an example whole."""
    arrays = {
        "clean": np.asarray(example.clean),
        "attacked": np.asarray(example.attacked),
        "image": np.array(example.image),
        "label": np.array(example.label),
        "fooled": np.array(example.fooled),
        "early_state": np.array(example.early_state),
        "classes": np.array(example.classes, dtype=str),
        "provenance": np.array(json.dumps(provenance, sort_keys=True)),
    }
    with records.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **sealed(arrays))


def sealed(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays with their digest among them."""
    return {**arrays, integrity.KEY: np.array(_digest(arrays))}


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {arrays[name].shape} {array.dtype.str}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def read(path: Path) -> tuple[Example, dict[str, Any]]:
    """An example and its provenance.

    Raises:
        DamagedFileError: the file is no npz file of plain arrays, or not as it was written.
        UserError: it is missing, cannot be read, is no example, or carries no digest.
    """
    arrays = _arrays(path)
    told = arrays.pop(integrity.KEY, None)
    provenance = _provenance(str(arrays["provenance"]), path)
    with document.understood(path, as_what="example"):
        example = Example(
            clean=_image(arrays["clean"]),
            attacked=_image(arrays["attacked"]),
            image=int(arrays["image"]),
            label=int(arrays["label"]),
            fooled=bool(arrays["fooled"]),
            early_state=int(arrays["early_state"]),
            classes=tuple(str(name) for name in arrays["classes"]),
        )
    if example.clean.shape != example.attacked.shape:
        raise UserError(
            f"example {path} is of shape {example.clean.shape} clean, but of {example.attacked.shape} attacked"
        )
    if told is None:
        raise integrity.without_digest(f"example {path}")
    if str(told) != _digest(arrays):
        raise integrity.damaged(f"example {path}")
    return example, provenance


def _provenance(told: str, path: Path) -> dict[str, Any]:
    try:
        return checked(json.loads(told), path)
    except (ValueError, RecursionError):
        return checked(None, path)


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            lacking = [name for name in _NAMES if name not in file.files]
            if not lacking:
                return {name: file[name] for name in (*_NAMES, integrity.KEY) if name in file.files}
    except FileNotFoundError:
        raise UserError(f"example {path} does not exist") from None
    except _UNREADABLE as error:
        if isinstance(error, OSError) and faults.is_of_files(error):
            raise UserError(f"example {path} cannot be read: {faults.words(error, path)}") from None
        if faults.is_out_of_memory(error):
            raise
        raise DamagedFileError(
            f"example {path} is no npz file of plain arrays, or damaged ({type(error).__name__}); {integrity.ADVICE}"
        ) from None
    raise UserError(f"example {path} lacks {', '.join(lacking)}: not written by deqpipe")


def _image(array: NDArray[np.generic]) -> NDArray[np.float32]:
    image: NDArray[np.float32] = np.asarray(array, dtype=np.float32)
    if image.ndim != 3:
        raise ValueError(f"an image of shape {image.shape} has no channels, height and width")
    return image
