"""What a safetensors file of ours says before its tensors, verified by its digest. No torch."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from safetensors import SafetensorError, safe_open

from deqpipe.errors import DamagedFileError, UserError
from deqpipe.machine import faults
from deqpipe.results import integrity
from deqpipe.results.regular import size_of

METADATA_KEY = "deqpipe"
TENSORS_KEY = "tensors"
"""Under which the metadata hold the digest of all tensors."""
Shapes = dict[str, list[int]]


@runtime_checkable
class Slice(Protocol):
    """A tensor that was not read yet."""

    def get_shape(self) -> list[int]:
        """Its axes."""


@runtime_checkable
class OpenFile(Protocol):
    """What we use of an open safetensors file, which has no types of its own."""

    def metadata(self) -> dict[str, str] | None:
        """Texts by name."""

    def keys(self) -> list[str]:
        """Names of its tensors."""

    def get_slice(self, name: str) -> Slice:
        """A tensor that is not read."""

    def get_tensor(self, name: str) -> Any:
        """A tensor, mapped from the file."""


@dataclass(frozen=True)
class Header:
    """What stands before the tensors.

    Attributes:
        metadata: JSON values.
        tensors: the digest of the tensors' names, shapes, types and bytes.
        shapes: of the tensors, by name.
    """

    metadata: dict[str, Any]
    tensors: str
    shapes: Shapes


@contextmanager
def opened(path: Path, what: str, framework: Literal["pt", "numpy"]) -> Iterator[OpenFile]:
    """An open file.

    Args:
        path: of it.
        what: what to call it in a message.
        framework: whose tensors it gives.

    Raises:
        DamagedFileError: it is cut short or damaged, or was never such a file.
        UserError: it is missing or cannot be read.
    """
    where = f"{what} {path}"
    size_of(path, what=what)
    try:
        path.open("rb").close()  # safetensors calls a file missing that may not be read
        with safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{where} does not exist") from None
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise DamagedFileError(
            f"{where} is cut short, damaged or no safetensors file ({reason}); if deqpipe made it, {integrity.ADVICE}"
        ) from None
    except OSError as error:
        if faults.is_out_of_memory(error):
            raise
        raise UserError(f"{where} cannot be read: {faults.words(error, path)}") from None


def read(file: OpenFile, where: str) -> Header:
    """The header of an open file.

    Raises:
        DamagedFileError: it is not as deqpipe wrote it, or was never written by it.
        UserError: it was written by an older version.
    """
    text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise DamagedFileError(f"{where} carries no metadata {METADATA_KEY!r}: not written by deqpipe")
    value = integrity.parsed(text, f"{where} has metadata {METADATA_KEY!r}, which")
    if not isinstance(value, dict):
        raise DamagedFileError(f"{where} has a {type(value).__name__} as metadata, but must have keys and values")
    shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    metadata = integrity.unsealed(value, where, beside=shapes)
    return Header(metadata, str(metadata.pop(TENSORS_KEY, "")), shapes)


def written(metadata: Mapping[str, Any], *, tensors: str, shapes: Shapes) -> dict[str, str]:
    """The text that `read` makes a header of, for who writes a file; attributes as there."""
    assert TENSORS_KEY not in metadata
    content = integrity.sealed({**metadata, TENSORS_KEY: tensors}, beside=shapes)
    return {METADATA_KEY: json.dumps(content, sort_keys=True)}
