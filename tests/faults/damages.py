"""Ways in which a file decays, is cut, or is made up by somebody."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqpipe.results import checkpoint, header, integrity
from tests.results.edits import write_json

Bytes = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Damage:
    """What is done to a file.

    Attributes:
        do: changes the file in place; returns in words what was done.
        honest: whether what the file says of itself still holds, so that it may be read as something else.
    """

    do: Callable[[Path, random.Random], str]
    honest: bool = False


def _place(content: bytes, draws: random.Random) -> tuple[int, int]:
    start = draws.randrange(max(1, len(content)))
    return start, min(len(content), start + draws.choice((1, 16, 64, 512, 4096)))


def _flipped(content: bytes, draws: random.Random, count: int) -> bytes:
    changed = bytearray(content)
    for _ in range(count):
        changed[draws.randrange(len(changed))] ^= 1 << draws.randrange(8)
    return bytes(changed)


def _replaced(content: bytes, draws: random.Random, new: Callable[[int], bytes]) -> bytes:
    start, stop = _place(content, draws)
    return content[:start] + new(stop - start) + content[stop:]


def _length_field(content: bytes, draws: random.Random) -> bytes:
    """Another length of the header, as safetensors files have it in front and Parquet files near the end."""
    number = draws.choice((0, 1, 7, 2**31, 2**40, 2**63 - 1, draws.randrange(2 * len(content) + 1)))
    if content.endswith(b"PAR1"):
        return content[:-8] + (number % 2**32).to_bytes(4, "little") + content[-4:]
    return number.to_bytes(8, "little") + content[8:]


_MADE_UP: Mapping[str, bytes] = {
    "nothing": b"",
    "a zero byte": b"\0",
    "a web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of 5,001 digits": b'{"provenance": ' + b"9" * 5001 + b"}",
    "a number beyond float": b'{"provenance": 1e400}',
    "NaN": b"NaN",
    "no UTF-8": b'{"\xff\xfe": "\xc3\x28"}',
    "UTF-16": '{"provenance": {"spec": {}}}'.encode("utf-16"),
    "lines of NUL": b"epoch,clean_accuracy,robust_accuracy,seconds\n\0,\0,\0,\0\n",
    "a zip file without an end": b"PK\x03\x04" + bytes(26),
    "an empty zip file": b"PK\x05\x06" + bytes(18),
    "a pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    "a safetensors file of nothing": (2).to_bytes(8, "little") + b"{}",
    "Parquet's ends alone": b"PAR1PAR1",
    "a long line": b"a" * 1_000_000,
}
_BYTES: Mapping[str, Bytes] = {
    "one bit flipped": lambda content, draws: _flipped(content, draws, 1),
    "twenty bits flipped": lambda content, draws: _flipped(content, draws, 20),
    "cut off": lambda content, draws: content[: draws.randrange(len(content))],
    "its start lost": lambda content, draws: content[draws.randrange(1, len(content)) :],
    "zeros in a stretch": lambda content, draws: _replaced(content, draws, bytes),
    "noise in a stretch": lambda content, draws: _replaced(content, draws, draws.randbytes),
    "a stretch lost": lambda content, draws: _replaced(content, draws, lambda _: b""),
    "a stretch twice": lambda content, draws: _replaced(content, draws, lambda n: content[:n] * 2),
    "more behind it": lambda content, draws: content + draws.randbytes(draws.choice((1, 8, 5000))),
    "another length of its header": _length_field,
}


def _of_bytes(name: str, change: Bytes) -> Damage:
    def do(path: Path, draws: random.Random) -> str:
        content = path.read_bytes()
        changed = change(content, draws)
        path.write_bytes(changed)
        return f"{name} ({len(content):,} bytes before, {len(changed):,} now)"

    return Damage(do)


def _made_up(path: Path, draws: random.Random) -> str:
    name = draws.choice(sorted(_MADE_UP))
    path.write_bytes(_MADE_UP[name])
    return f"{name} in its place"


_DEEP: Any = None
for _ in range(500):
    _DEEP = [_DEEP]
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "\0", "x" * 10_000, "\ud800", "../..",
    [], {}, [[]], {"": {}}, _DEEP,
)  # fmt: skip


def _edited(value: Any, draws: random.Random) -> tuple[Any, str]:
    """A value with something odd at a place within it, or without what was there; and which place."""
    if isinstance(value, dict) and value and draws.random() < 0.85:
        key = draws.choice(sorted(value))
        if draws.random() < 0.15:
            return {name: one for name, one in value.items() if name != key}, f"{key} is gone"
        below, told = _edited(value[key], draws)
        return {**value, key: below}, f"{key}.{told}"
    if isinstance(value, list) and value and draws.random() < 0.6:
        place = draws.randrange(len(value))
        below, told = _edited(value[place], draws)
        return [*value[:place], below, *value[place + 1 :]], f"{place}.{told}"
    odd = draws.choice(ODD)
    return odd, f"now {repr(odd)[:40]}"


def _rewritten_json(path: Path, draws: random.Random) -> str:
    """By somebody who puts the digest right again."""
    content, told = _edited(json.loads(path.read_text()), draws)
    if isinstance(content, dict):
        write_json(path, content)
    else:
        path.write_text(json.dumps(content))
    return f"edited, digest and all: {told}"


def _rewritten_tensors(path: Path, draws: random.Random) -> str:
    stored = checkpoint.read(path)
    metadata, told = _edited(dict(stored.metadata), draws)
    if not isinstance(metadata, dict):
        metadata = {"kind": metadata}
    metadata = {name: one for name, one in metadata.items() if name not in (integrity.KEY, header.TENSORS_KEY)}
    checkpoint.write(path, stored.tensors, metadata)
    return f"metadata edited, digest and all: {told}"


def drawn(path: Path, draws: random.Random) -> Damage:
    """A damage for a file."""
    byte = draws.choice(sorted(_BYTES))
    kinds = [_of_bytes(byte, _BYTES[byte])] * 6 + [Damage(_made_up)] * 2
    if path.suffix == ".json":
        kinds += [Damage(_rewritten_json, honest=True)] * 3
    if path.suffix == ".safetensors":
        kinds += [Damage(_rewritten_tensors, honest=True)] * 2
    return draws.choice(kinds)
