"""Image files of every kind: pixels as they are, or refused with what to do; never changed in silence."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deqpipe.data import decoding, opening
from deqpipe.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
COLOUR = Image.fromarray(PIXELS)
GREY = COLOUR.convert("L")


def png(bits: int, colour: int, rows: list[bytes], *, interlaced: bool = False) -> bytes:
    """A PNG of 5x6 pixels that Pillow would not write; `rows` of a file that is interlaced: of all passes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 5, 6, bits, colour, 0, 0, interlaced)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


# First row and column, and steps, of the passes of an interlaced PNG.
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
INTERLACED = [row.tobytes() for y, x, down, right in ADAM7 for row in PIXELS[y::down, x::right] if row.size]


def with_alpha(image: Image.Image, alpha: int) -> Image.Image:
    image = image.copy()
    image.putalpha(alpha)
    return image


def written(path: Path, content: Image.Image | bytes, **options: Any) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **options)
    return path


def read(path: Path) -> np.ndarray:
    with opening.opened(path) as image:
        return decoding.rgb(image, path)


PALETTE = COLOUR.quantize(8)
BILEVEL = COLOUR.convert("1")
TURNED = Image.Exif()
TURNED[0x0112] = 6
UPRIGHT = Image.Exif()
UPRIGHT[0x0112] = 1


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("colour.png", COLOUR, {}, COLOUR),
        ("interlaced.png", png(8, 2, INTERLACED, interlaced=True), {}, COLOUR),
        ("grey.png", GREY, {}, GREY),
        ("palette.png", PALETTE, {}, PALETTE),
        ("opaque in a palette.png", PALETTE, {"transparency": 200}, PALETTE),
        ("bilevel.png", BILEVEL, {}, BILEVEL),
        ("opaque.png", with_alpha(COLOUR, 255), {}, COLOUR),
        ("opaque grey.png", with_alpha(GREY, 255), {}, GREY),
        ("one frame.gif", PALETTE, {}, PALETTE),
        ("upright.png", COLOUR, {"exif": UPRIGHT}, COLOUR),
    ],
)
def test_what_has_8_bits_is_read_as_it_is(
    name: str, content: Image.Image | bytes, options: dict[str, Any], expected: Image.Image, tmp_path: Path
) -> None:
    assert np.array_equal(read(written(tmp_path / name, content, **options)), np.asarray(expected.convert("RGB")))


FRAMES: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(255 - PIXELS)]}
DEEP = [bytes(30)] * 6


@pytest.mark.parametrize(
    ("name", "content", "options", "why"),
    [
        ("deep.png", png(16, 2, DEEP), {}, "more than 8 bits a channel (Pillow's mode RGB): save it with 8"),
        ("deep.ppm", b"P6 5 6 65535\n" + bytes(180), {}, "more than 8 bits a channel"),
        ("deep grey.png", GREY.convert("I;16"), {}, "more than 8 bits a channel"),
        ("float.tiff", GREY.convert("F"), {}, "more than 8 bits a channel"),
        ("alpha.png", with_alpha(COLOUR, 254), {}, "transparent pixels: put it on a background, and save it without"),
        ("grey alpha.png", with_alpha(GREY, 100), {}, "transparent pixels"),
        ("palette.png", PALETTE, {"transparency": 0}, "transparent pixels"),
        ("a colour.png", COLOUR, {"transparency": tuple(int(one) for one in PIXELS[0, 0])}, "transparent pixels"),
        ("alpha.webp", with_alpha(COLOUR, 100), {"lossless": True}, "transparent pixels"),
        ("print.jpg", COLOUR.convert("CMYK"), {}, "Pillow's mode CMYK, but must be colour (RGB), grey or of a palette"),
        ("lab.tiff", Image.merge("LAB", COLOUR.split()), {}, "Pillow's mode LAB, but must be"),
        ("moving.gif", PALETTE, FRAMES, "2 frames, but must have one: save the one that is meant"),
        ("moving.png", COLOUR, FRAMES, "2 frames"),
        ("pages.tiff", COLOUR, FRAMES, "2 frames"),
        ("turned.jpg", COLOUR, {"exif": TURNED}, "its EXIF orientation is 6, not 1): save it as it is seen"),
        ("turned.png", COLOUR, {"exif": TURNED}, "its EXIF orientation is 6"),
        ("turned.tiff", COLOUR, {"exif": TURNED}, "its EXIF orientation is 6"),
    ],
)
def test_what_would_have_to_be_changed_is_refused(
    name: str, content: Image.Image | bytes, options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    path = written(tmp_path / name, content, **options)
    with pytest.raises(UserError) as told:
        read(path)
    assert str(told.value).startswith(f"image {path} ")
    assert why in str(told.value)
