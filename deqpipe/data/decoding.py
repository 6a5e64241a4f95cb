"""Pixels of an image file, none of which is changed on the way: what would have to be changed is refused.

Left as they are: 8-bit colour, grey and palette images, black and white, interlaced or not, and alpha that is opaque
all over. Embedded colour profiles are not applied.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from deqpipe.errors import UserError

_EXACT = ("1", "L", "P", "RGB")  # Pillow's modes whose pixels its conversion to RGB keeps
_ALPHA = ("LA", "PA", "RGBA")
_ORIENTATION = 0x0112  # of EXIF; 1: as stored
_DEEP = 255  # the largest value of 8 bits, as PPM files state it


def rgb(image: Image.Image, path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """An image that was opened and not yet decoded, in RGB.

    Args:
        image: of the file.
        path: for messages.

    Raises:
        UserError: it has more than 8 bits a channel, other colours, transparent pixels, several frames, or is to be
            turned by its EXIF data before it is shown.
    """
    for reason in _reasons(image):
        raise UserError(f"image {path} {reason}")
    if image.mode not in _ALPHA and "transparency" not in image.info:
        return np.asarray(image.convert("RGB"))
    with_alpha = np.asarray(image.convert("RGBA"))
    if with_alpha[..., 3].min() < _DEEP:
        raise UserError(f"image {path} has transparent pixels: put it on a background, and save it without alpha")
    return with_alpha[..., :3]


def _reasons(image: Image.Image) -> Iterator[str]:
    """Why an image cannot be taken as it is; what its header says, not its pixels."""
    if _is_deep(image):
        yield f"has more than 8 bits a channel (Pillow's mode {image.mode}): save it with 8"
    if image.mode not in (*_EXACT, *_ALPHA):
        yield f"has Pillow's mode {image.mode}, but must be colour (RGB), grey or of a palette: save it so"
    if (frames := getattr(image, "n_frames", 1)) > 1:
        yield f"has {frames} frames, but must have one: save the one that is meant"
    if (turned := image.getexif().get(_ORIENTATION, 1)) not in (0, 1):  # 0 is none, which some cameras write
        yield f"is to be turned when shown (its EXIF orientation is {turned}, not 1): save it as it is seen"


def _is_deep(image: Image.Image) -> bool:
    """Whether Pillow cuts bits off, which its mode does not say of colour: the arguments of its decoder do."""
    if image.mode.startswith(("I", "F")):
        return True
    tiles = getattr(image, "tile", ())  # of an image of a file: (decoder, box, offset, arguments)
    arguments = [one for tile in tiles for one in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    deep = any(isinstance(one, str) and ";16" in one for one in arguments)
    return deep or (image.format == "PPM" and any(isinstance(one, int) and one > _DEEP for one in arguments))
