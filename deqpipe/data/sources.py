"""Where images come from: scikit-learn's digits, CIFAR-10, or a folder."""

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from deqpipe import extending
from deqpipe.data.dataset import Dataset, Split, hold_out
from deqpipe.errors import UserError
from deqpipe.extending import blame

DIGITS_TEST = 360


def prepare(source: str, root: Path | None, *, validation: int) -> Dataset:
    """Images of a source, split by index.

    Args:
        source: as in the config.
        root: the image folder, or where CIFAR-10 is kept (and downloaded to, when it is not there); none for digits.
        validation: how many of the last training images are held out.

    Raises:
        UserError: the images are missing or unusable, or `validation` is too large.
    """
    if source == "digits":
        return digits(validation=validation)
    if (piece := extending.find(extending.DataSource, source)) is not None:
        return own(piece, validation=validation)
    if root is None:
        raise UserError(f"images of data.source {source} need a root: the folder that they are in")
    if source not in READERS:
        raise UserError(f"data.source is {source!r}, but must be one of digits, {', '.join(READERS)}")
    return READERS[source](root, validation=validation)


def digits(*, validation: int) -> Dataset:
    """Scikit-learn's 1,797 handwritten digits, 8x8, one channel; they are part of the package.

    There is no official split. The test split is the last 360 images in file order. The file runs through one sequence
    of about 130 digits again and again, so it goes sheet by sheet, and the last 360 images were mostly written by
    others than the rest: of those sheets only the first 22 digits come earlier, inside a validation split of at least
    22. Classes are about balanced: 33 to 37 test images each, 141 to 146 of the other 1,437.
    """
    rows = np.loadtxt(_digits_file(), delimiter=",")  # 64 pixels of 0..16, and the digit
    images = (torch.from_numpy(rows[:, :-1]) * (255 / 16)).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(rows[:, -1]).to(torch.int64)
    return hold_out(
        Split(images[:-DIGITS_TEST], labels[:-DIGITS_TEST]),
        Split(images[-DIGITS_TEST:], labels[-DIGITS_TEST:]),
        validation=validation,
        classes=tuple(str(digit) for digit in range(10)),
        name="digits",
    )


def _digits_file() -> Path:
    """The file that sklearn.datasets.load_digits reads; importing scikit-learn takes ten times as long as reading it.

    Raises:
        UserError: this version of scikit-learn keeps it elsewhere.
    """
    file = Path(str(metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    if not file.exists():
        raise UserError(f"scikit-learn's digits are not in {file}: install the version of requirements.txt")
    return file


def cifar10(root: Path, *, validation: int) -> Dataset:
    """CIFAR-10, 32x32, three channels, in the order of its files; downloaded into `root` when it is not there.

    Raises:
        UserError: as `deqpipe.data.cifar10.read`.
    """
    from deqpipe.data.cifar10 import read  # with torchvision, which nothing else needs

    train, test, classes = read(root)
    return hold_out(train, test, validation=validation, classes=classes, name="CIFAR-10")


def folder(root: Path, *, validation: int) -> Dataset:
    """Images of an image folder, in RGB (see `read_folder`).

    Raises:
        UserError: as `read_folder`.
    """
    from deqpipe.data.folder import read_folder  # with Pillow, which nothing else needs

    train, test, classes = read_folder(root)
    name = f"folder {root.resolve().name}"
    return hold_out(train, test, validation=validation, classes=classes, name=name)


def own(piece: extending.DataSource, *, validation: int) -> Dataset:
    """Images that a user's file makes.

    Raises:
        UserError: they are not as the file says that they are.
    """
    assert piece.prepare is not None
    made = piece.prepare()
    if not isinstance(made, tuple) or len(made) != 4:
        raise _error(piece, "prepare must give training images, classes, test images, classes")
    try:
        images, labels, test_images, test_labels = map(torch.as_tensor, made)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _error(piece, f"prepare gives what is no array of numbers: {blame.words(error)}") from error
    train = _checked(piece, images, labels, "training", piece.train)
    test = _checked(piece, test_images, test_labels, "test", piece.test)
    return hold_out(train, test, validation=validation, classes=piece.classes, name=piece.label)


def _checked(piece: extending.DataSource, images: torch.Tensor, labels: torch.Tensor, split: str, count: int) -> Split:
    wanted, most = (count, piece.channels, piece.size, piece.size), len(piece.classes) - 1
    if tuple(images.shape) != wanted or images.dtype != torch.uint8:
        seen = f"{images.dtype} of shape {tuple(images.shape)}"
        raise _error(piece, f"{split} images are {seen}, but must be torch.uint8 of shape {wanted}")
    labels = labels.to(torch.int64)
    if tuple(labels.shape) != (count,) or labels.min() < 0 or labels.max() > most:
        raise _error(piece, f"{split} classes must be {count} numbers from 0 to {most}")
    return Split(images, labels)


def _error(piece: extending.DataSource, what: str) -> UserError:
    return extending.mistake(extending.DataSource, piece.name, what)


READERS: Mapping[str, Callable[..., Dataset]] = {"cifar10": cifar10, "folder": folder}
"""What reads the images of a root, by source."""
