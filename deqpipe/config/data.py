"""Images: which ones, and what is known of them before they are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deqpipe.config.base import Count, Section


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


class DataConfig(Section):
    """Which images, and how they are split."""

    source: Literal["digits", "cifar10", "folder"]
    """digits: scikit-learn's 8x8 digits (embedded); cifar10: torchvision's (downloaded); folder: train/<class>/* and
    test/<class>/*."""
    root: str
    """Folder of the images; where CIFAR-10 is downloaded to; unused by digits. Images are read once: after a change
    within the same folder, delete the folder `data` in pathvars.results to have them read again, or give another root.
    """
    validation: Count
    """How many training images are held out for model selection and early states (by index, never trained on)."""
    augment: Literal["none", "crop_flip"]
    """crop_flip: random crop after padding by 4, and horizontal flip; done on the device."""
