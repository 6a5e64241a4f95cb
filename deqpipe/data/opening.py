"""Image files opened: what they are and how large stands in their header, and is checked before a pixel is decoded.

The files are somebody else's. Pillow would take whatever it knows a decoder for, and run Ghostscript on PostScript.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from deqpipe.errors import UserError
from deqpipe.machine import faults
from deqpipe.results.regular import size_of

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, by Pillow's names, whatever a file is called."""
LARGEST_SIDE = 2048
"""Pixels a side of the largest image: its state in a DEQ would have a thousand times CIFAR-10's numbers."""
LARGEST_FILE = 64 * 2**20
"""Bytes of the largest file: the largest image takes 12 MiB uncompressed, 24 MiB at 16 bits a channel."""
# What Pillow raises on files that are damaged or made up.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, AttributeError, NotImplementedError,
    OverflowError, struct.error, zlib.error,
)  # fmt: skip

# Ours is far below Pillow's own limit, up to twice which it only warns, on a second line.
Image.MAX_IMAGE_PIXELS = None


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header makes sense; its pixels are decoded when they are asked for.

    Raises:
        UserError: not a file, or none of `FORMATS`, larger than allowed, or what is decoded within the context cannot
            be read.
    """
    _check_file(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(path, image.size)
            yield image
    except UserError:  # a ValueError itself
        raise
    except UnidentifiedImageError:
        raise UserError(f"image {path} cannot be read: it is none of {', '.join(FORMATS)}") from None
    except _UNREADABLE as error:
        said = faults.words(error, path) if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(f"image {path} cannot be read: {said}") from None


def _check_file(path: Path) -> None:
    size = size_of(path, what="image")
    if size is None:
        raise UserError(f"image {path} does not exist")
    if size > LARGEST_FILE:
        raise UserError(f"image {path} has {size:,} bytes, but may have at most {LARGEST_FILE:,}")


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if max(size) > LARGEST_SIDE:
        raise UserError(f"image {path} is {width}x{height} pixels, but may be at most {LARGEST_SIDE}x{LARGEST_SIDE}")
