"""What a configuration names on the disk: images, imported models, and the dataset that was made of images."""

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from deqpipe.config.data import ImageFolderConfig
from deqpipe.config.experiment import Config
from deqpipe.errors import UserError


def check_image_folder(config: Config) -> None:
    """Refuse an image folder that is not there, or has fewer images than are asked for. Other sources need none.

    Nothing is opened, and no more is counted than is needed.

    Raises:
        UserError: data.source is folder and train/<class>/ or test/<class>/ is missing, or too few images are there.
    """
    if config.data.source != "folder":
        return
    images, root = config.data, Path(config.data.root)
    for split in ("train", "test"):
        if not any(True for _ in _classes(images, split)):
            raise UserError(
                f"config: data.root is {images.root!r}, but must hold train/<class>/* and test/<class>/*: "
                f"no class folders in {root / split}"
            )
    wanted = {
        "train": ("data.validation", config.data.validation, config.data.validation + 1),
        "test": ("evaluation.images", config.evaluation.images, config.evaluation.images),
    }
    for split, (key, value, least) in wanted.items():
        found = sum(1 for _ in islice(_images(images, split), least))
        if found < least:
            raise UserError(
                f"config: {key} is {value}, but {root / split} has {found} images: at least {least} are needed"
            )


def check_prepared_images(config: Config, dataset: Path) -> None:
    """Refuse to evaluate more test images than a prepared dataset has.

    Raises:
        UserError: there are fewer.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(dataset, framework="np") as file:
            (found,) = file.get_slice("test.labels").get_shape()
    except (OSError, SafetensorError, ValueError):
        return  # whoever reads it says what is wrong with it
    if config.evaluation.images > found:
        raise UserError(
            f"config: evaluation.images is {config.evaluation.images}, but {dataset} has {found} test images"
        )


def _classes(images: ImageFolderConfig, split: str) -> Iterator[Path]:
    return (child for child in _listed(images.root, Path(images.root, split)) if os.path.isdir(child))


def _images(images: ImageFolderConfig, split: str) -> Iterator[Path]:
    return (file for child in _classes(images, split) for file in _listed(images.root, child))


def _listed(root: str, folder: Path) -> Iterator[Path]:
    """What lies in a folder, but what starts with a dot; nothing where there is no folder."""
    try:
        yield from (child for child in folder.iterdir() if not child.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"config: data.root is {root!r}, but {folder}: {error.strerror}") from None


def check_imported_files(config: Config) -> None:
    """Refuse imported models whose files are not there.

    Raises:
        UserError: names the first one.
    """
    for model, file in config.imported.items():
        if not Path(file).is_file():
            raise UserError(f"config: imported.{model} is {file!r}, which is no file (docs/checkpoints.md)")


def prepared_by(dataset: Path) -> object:
    """The spec that a prepared dataset was made by; None where there is no such file. Needs no torch."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(dataset, framework="np") as file:
            metadata = json.loads((file.metadata() or {})["deqpipe"])
        return metadata["provenance"]["spec"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
