"""Images from a folder: train/<class>/* and test/<class>/*."""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from deqpipe.data import decoding
from deqpipe.data.dataset import Split
from deqpipe.data.opening import opened
from deqpipe.errors import UserError
from deqpipe.machine import faults

_LAYOUT = "it must hold train/<class>/* and test/<class>/*"
_CHUNK = 10_000  # images between two lines of progress
_MOST_CLASSES = 32_767  # records keep them in 16 bits
_logger = logging.getLogger(__name__)

_Decoded = UInt8[np.ndarray, "height width 3"]


def read_folder(root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Training split, test split and names of the classes.

    Classes are the folders of train/, sorted by name. Images go round the classes, sorted by file name within each, so
    that the first images of a split and any block of it are balanced. Files beside the class folders, and whatever
    starts with a dot, are left out; everything else in a class folder must be an image. A class may be absent from
    test/.

    Raises:
        UserError: a folder is missing, empty or cannot be read, test/ has a class that train/ does not have, there are
            too few or too many classes, or an image cannot be read (see `opened`), cannot be taken as it is (see
            `decoding`), or has another size than the first.
    """
    if not root.is_dir():
        raise UserError(f"image folder {root} does not exist: {_LAYOUT}")
    classes = _classes(root, "train")
    if len(classes) < 2:
        raise UserError(f"image folder {root / 'train'} has one class ({classes[0]}), but must have at least two")
    if len(classes) > _MOST_CLASSES:
        raise UserError(f"image folder {root / 'train'} has {len(classes):,} classes, but may have {_MOST_CLASSES:,}")
    tested = _classes(root, "test")
    unknown = sorted(set(tested) - set(classes))
    if unknown:
        raise UserError(f"image folder {root / 'test'} has a class {unknown[0]!r}; train/ has {', '.join(classes)}")
    labels_of = {name: label for label, name in enumerate(classes)}
    files, labels = _interleaved(root / "train", labels_of)
    test_files, test_labels = _interleaved(root / "test", {name: labels_of[name] for name in tested})
    train = Split(_pixels(files, like=files[0]), labels)
    return train, Split(_pixels(test_files, like=files[0]), test_labels), classes


def _classes(root: Path, split: str) -> tuple[str, ...]:
    folder = root / split
    if not folder.is_dir():
        raise UserError(f"image folder {root} has no folder {split}: {_LAYOUT}")
    names = tuple(name for name in _listed(folder) if os.path.isdir(folder / name))
    if not names:
        raise UserError(f"image folder {folder} has no class folders: {_LAYOUT}")
    return names


def _listed(folder: Path) -> list[str]:
    """What lies in a folder, sorted, but what starts with a dot."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"image folder {folder} cannot be read: {faults.words(error, folder)}") from None


def _interleaved(split: Path, labels: Mapping[str, int]) -> tuple[list[Path], torch.Tensor]:
    """First image of every class, second of every class, ..; classes that have no more are passed over."""
    columns = [[(file, label) for file in _images(split / name)] for name, label in labels.items()]
    entries = [entry for row in zip_longest(*columns) for entry in row if entry is not None]
    return [file for file, _ in entries], torch.tensor([label for _, label in entries], dtype=torch.int64)


def _images(folder: Path) -> list[Path]:
    names = _listed(folder)
    if not names:
        raise UserError(f"image folder {folder} is empty: a class must have at least one image")
    return [folder / name for name in names]


def _pixels(files: Sequence[Path], *, like: Path) -> UInt8[torch.Tensor, "batch channels height width"]:
    """The images, all of which must have the size of the image `like`."""
    with opened(like) as first:
        width, height = first.size
    decode = partial(_decode, size=(width, height), like=like)
    pixels = np.empty((len(files), height, width, 3), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            for index, image in enumerate(pool.map(decode, chunk), start):
                pixels[index] = image
            _logger.info("read %d of %d images of %s", start + len(chunk), len(files), like.parent.parent.parent)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _decode(path: Path, *, size: tuple[int, int], like: Path) -> _Decoded:
    """An image in RGB, decoded only if its header says the size (width, height) of the image `like`."""
    with opened(path) as image:
        if image.size != size:
            raise UserError(f"image {path} is {_text(image.size)}, but {like} is {_text(size)}")
        return decoding.rgb(image, path)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"
