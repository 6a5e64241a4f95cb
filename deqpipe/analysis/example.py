"""The image of Figure 2 (c): as it is, and attacked."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis.decisions import Tree, check_specs
from deqpipe.analysis.reading import Source
from deqpipe.errors import UserError
from deqpipe.workflow import vocabulary

_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile)
_NAMES = ("clean", "attacked", "image", "label", "fooled", "classes", "provenance")


@dataclass(frozen=True)
class Example:
    """One test image.

    Attributes:
        clean, attacked: (channels, height, width), in [0, 1].
        image: its index in the test split, counted from 0.
        label: its class.
        fooled: whether it is right when clean and wrong when attacked; False where no image is.
        classes: names of all classes.
        source: the file.
    """

    clean: NDArray[np.float32]
    attacked: NDArray[np.float32]
    image: int
    label: int
    fooled: bool
    classes: tuple[str, ...]
    source: Source


def read(tree: Tree) -> Example:
    """The example of a seed.

    Raises:
        UserError: the file is missing, not ours, or of another configuration.
    """
    path = tree.example(vocabulary.FIGURE2_MODEL)
    arrays = _arrays(path)
    try:
        entry = json.loads(str(arrays["provenance"]))
        check_specs(tree, "attack_example", vocabulary.FIGURE2_MODEL, [entry], path)
        return Example(
            clean=_image(arrays["clean"]),
            attacked=_image(arrays["attacked"]),
            image=int(arrays["image"]),
            label=int(arrays["label"]),
            fooled=bool(arrays["fooled"]),
            classes=tuple(str(name) for name in arrays["classes"]),
            source=tree.source(path, entry),
        )
    except (KeyError, TypeError, json.JSONDecodeError):
        raise UserError(f"example {path} carries no provenance: not written by deqpipe") from None


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
    return np.asarray(array, dtype=np.float32)
