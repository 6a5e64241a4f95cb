"""How many images a config's source has, and of which shape, without reading or downloading them."""

from pathlib import Path

from deqpipe.config import Config, ImageFolderConfig, check_image_folder, known_images
from deqpipe.data.opening import opened
from deqpipe.errors import UserError
from deqpipe.planning.cost import Images


def images_of(config: Config) -> Images:
    """The images of a config.

    Raises:
        UserError: the source is a folder that is not there or holds no images, or its first image cannot be read.
    """
    held_out = config.data.validation
    if config.data.source == "folder":
        check_image_folder(config)
        return _folder(config.data)
    known = known_images(config.data.source)
    assert known is not None
    shape = (known.channels, known.size, known.size)
    return Images(known.train - held_out, held_out, known.test, shape, classes=known.classes)


def _folder(data: ImageFolderConfig) -> Images:
    """Every file of a class folder counts as an image; the first one tells the shape of all."""
    root, held_out = Path(data.root), data.validation
    train, test = _files(root / "train"), _files(root / "test")
    if len(train) <= held_out or not test:
        raise UserError(
            f"data.root is {data.root!r} with {len(train)} training and {len(test)} test images, but must hold "
            f"more than {held_out} (data.validation) and at least 1"
        )
    classes = len([child for child in (root / "train").iterdir() if child.is_dir()])
    return Images(len(train) - held_out, held_out, len(test), _shape(train[0]), classes)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.is_file() and not path.name.startswith("."))


def _shape(path: Path) -> tuple[int, int, int]:
    with opened(path) as image:
        width, height = image.size
        return 3, height, width  # they are read as RGB
