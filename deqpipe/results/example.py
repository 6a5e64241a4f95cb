"""The image of Figure 2 (c): as it is, and attacked (npz)."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqpipe.errors import UserError
from deqpipe.results import document, records
from deqpipe.results.provenance import checked

_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile)
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
    with records.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            clean=example.clean,
            attacked=example.attacked,
            image=example.image,
            label=example.label,
            fooled=example.fooled,
            early_state=example.early_state,
            classes=np.array(example.classes, dtype=str),
            provenance=json.dumps(provenance, sort_keys=True),
        )


def read(path: Path) -> tuple[Example, dict[str, Any]]:
    """An example and its provenance.

    Raises:
        UserError: the file is missing, no npz file of plain arrays, or no example.
    """
    arrays = _arrays(path)
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
    return example, provenance


def _provenance(told: str, path: Path) -> dict[str, Any]:
    try:
        return checked(json.loads(told), path)
    except json.JSONDecodeError:
        return checked(None, path)


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            lacking = [name for name in _NAMES if name not in file.files]
            if not lacking:
                return {name: file[name] for name in _NAMES}
    except FileNotFoundError:
        raise UserError(f"example {path} does not exist") from None
    except (*_UNREADABLE, AttributeError, TypeError) as error:  # a single array is no file of arrays
        raise UserError(f"example {path} is no npz file of plain arrays ({type(error).__name__})") from None
    raise UserError(f"example {path} lacks {', '.join(lacking)}: not written by deqpipe")


def _image(array: NDArray[np.generic]) -> NDArray[np.float32]:
    image: NDArray[np.float32] = np.asarray(array, dtype=np.float32)
    if image.ndim != 3:
        raise ValueError(f"an image of shape {image.shape} has no channels, height and width")
    return image
