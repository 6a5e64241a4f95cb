"""Images from a folder: train/<class>/* and test/<class>/*."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from deqpipe.data.dataset import Split
from deqpipe.errors import UserError

_LAYOUT = "it must hold train/<class>/* and test/<class>/*"
_CHUNK = 10_000  # images between two lines of progress
_DEEP_MODES = ("I", "F")  # first letters of Pillow's modes of more than 8 bits, which its conversion to RGB cuts off
_logger = logging.getLogger(__name__)

_Decoded = UInt8[np.ndarray, "height width 3"]


def read_folder(root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Training split, test split and names of the classes.

    Classes are the folders of train/, sorted by name. Images go round the classes, sorted by file name within each, so
    that the first images of a split and any block of it are balanced. Files beside the class folders, and whatever
    starts with a dot, are left out; everything else in a class folder must be an image. A class may be absent from
    test/.

    Raises:
        UserError: a folder is missing or empty, test/ has a class that train/ does not have, or an image cannot be
            read, has more than 8 bits a channel, or has another size than the first.
    """
    if not root.is_dir():
        raise UserError(f"image folder {root} does not exist: {_LAYOUT}")
    classes = _classes(root, "train")
    if len(classes) < 2:
        raise UserError(f"image folder {root / 'train'} has one class ({classes[0]}), but must have at least two")
    unknown = sorted(set(_classes(root, "test")) - set(classes))
    if unknown:
        raise UserError(f"image folder {root / 'test'} has a class {unknown[0]!r}; train/ has {', '.join(classes)}")
    files, labels = _interleaved(root / "train", classes)
    test_files, test_labels = _interleaved(root / "test", classes)
    train = Split(_pixels(files, like=files[0]), labels)
    return train, Split(_pixels(test_files, like=files[0]), test_labels), classes


def _classes(root: Path, split: str) -> tuple[str, ...]:
    folder = root / split
    if not folder.is_dir():
        raise UserError(f"image folder {root} has no folder {split}: {_LAYOUT}")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"image folder {folder} has no class folders: {_LAYOUT}")
    return tuple(names)


def _interleaved(split: Path, classes: Sequence[str]) -> tuple[list[Path], torch.Tensor]:
    """First image of every class, second of every class, ..; classes that have no more are passed over."""
    columns = [[(file, label) for file in _images(split / name)] for label, name in enumerate(classes)]
    entries = [entry for row in zip_longest(*columns) for entry in row if entry is not None]
    return [file for file, _ in entries], torch.tensor([label for _, label in entries], dtype=torch.int64)


def _images(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if not names:
        raise UserError(f"image folder {folder} is empty: a class must have at least one image")
    return [folder / name for name in names]


def _pixels(files: Sequence[Path], *, like: Path) -> UInt8[torch.Tensor, "batch channels height width"]:
    """The images, all of which must have the size of the image `like`."""
    size = _decode(like).shape
    pixels = np.empty((len(files), *size), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            for index, image in enumerate(pool.map(_decode, chunk), start):
                if image.shape != size:
                    raise UserError(f"image {files[index]} is {_text(image.shape)}, but {like} is {_text(size)}")
                pixels[index] = image
            _logger.info("read %d of %d images of %s", start + len(chunk), len(files), like.parent.parent.parent)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _text(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]} pixels"


def _decode(path: Path) -> _Decoded:
    try:
        with Image.open(path) as image:
            mode, rgb = image.mode, np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be read: {' '.join(str(error).split())}") from None
    if mode.startswith(_DEEP_MODES):
        raise UserError(f"image {path} has Pillow's mode {mode}, but must have 8 bits a channel")
    return rgb
