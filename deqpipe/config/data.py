"""Images: which ones, and what is known of them before they are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from deqpipe import extending
from deqpipe.config.base import Count, Section
from deqpipe.config.own import own_section
from deqpipe.config.paths import PathName


@dataclass(frozen=True)
class KnownImages:
    """A source whose images are known before they are read; of all others `data.root` says which images they are."""

    name: str
    train: int
    """Training images, those held out included."""
    test: int
    size: int
    """Height and width."""
    channels: int
    classes: int
    described: str
    """What tables call it."""


KNOWN_IMAGES: Mapping[str, KnownImages] = {
    "digits": KnownImages(
        "digits",
        train=1437,
        test=360,
        size=8,
        channels=1,
        classes=10,
        described="scikit-learn's handwritten digits (8x8)",
    ),
    "cifar10": KnownImages(
        "CIFAR-10", train=50_000, test=10_000, size=32, channels=3, classes=10, described="CIFAR-10"
    ),
}


class AnyDataConfig(Section):
    """Which images, and how they are split."""

    source: str
    validation: Count
    """How many training images are held out for model selection and early states (by index, never trained on)."""
    augment: Literal["none", "crop_flip"]
    """crop_flip: random crop after padding by 4, and horizontal flip; done on the device."""


class DigitsConfig(AnyDataConfig):
    """Scikit-learn's 8x8 digits (embedded)."""

    source: Literal["digits"]


class Cifar10Config(AnyDataConfig):
    """CIFAR-10 (downloaded)."""

    source: Literal["cifar10"]
    root: PathName
    """Where it is downloaded to."""


class ImageFolderConfig(AnyDataConfig):
    """Images of one's own."""

    source: Literal["folder"]
    root: PathName
    """Folder that holds train/<class>/* and test/<class>/*: images of one size, at most 2048x2048 pixels (BMP, GIF,
    JPEG, PNG, PPM, TIFF or WebP), 8-bit colour, grey or palette. No pixel is changed: more bits, CMYK and other
    colours, transparent pixels, several frames and an EXIF rotation are refused. They are read once: after a change
    within the same folder, delete the folder `data` in pathvars.results to have them read again, or give another
    root."""


DataConfig: TypeAlias = Annotated[DigitsConfig | Cifar10Config | ImageFolderConfig, Field(discriminator="source")]


def own_data(raw: object) -> AnyDataConfig | None:
    """The section of images that come from a user's file; None of others."""
    return own_section(raw, AnyDataConfig, "source", extending.DataSource, lambda piece: {})


def known_images(source: str) -> KnownImages | None:
    """What is known of the images of a source before they are read; None of an image folder."""
    piece = None if source in KNOWN_IMAGES else extending.find(extending.DataSource, source)
    if piece is None:
        return KNOWN_IMAGES.get(source)
    return KnownImages(
        piece.label, piece.train, piece.test, piece.size, piece.channels, len(piece.classes), described=piece.label
    )
