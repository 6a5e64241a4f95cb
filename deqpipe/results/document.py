"""What the JSON files of results have in common: an object that carries its provenance, and one line for what is none.

Each format has a module of its own, which alone knows the keys; here nobody does.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deqpipe.errors import DamagedFileError, UserError
from deqpipe.machine import faults
from deqpipe.results import integrity, records
from deqpipe.results.provenance import checked

_KEY = "provenance"


def write(path: Path, content: Mapping[str, Any], provenance: Mapping[str, Any], *, sort_keys: bool = True) -> None:
    """Write keys and values whole, and where they come from; in their own order unless keys are sorted."""
    records.write_text(path, sealed_text({**content, _KEY: dict(provenance)}, sort_keys=sort_keys))


def sealed_text(content: Mapping[str, Any], *, sort_keys: bool = True) -> str:
    """Keys and values as the JSON of a file, with their digest among them."""
    return json.dumps(integrity.sealed(content), indent=1, sort_keys=sort_keys) + "\n"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys and values of a file, and where they come from.

    Raises:
        DamagedFileError: the file is no JSON object, or not as it was written.
        UserError: it is missing, cannot be read, or carries no provenance or no digest.
    """
    content = read_object(path)
    provenance = checked(content.pop(_KEY, None), path)
    integrity.unsealed({**content, _KEY: provenance}, str(path))
    del content[integrity.KEY]
    return content, provenance


def read_object(path: Path) -> dict[str, Any]:
    """Keys and values of a file, whatever wrote it; its digest is among them.

    Raises:
        DamagedFileError: it is no JSON object.
        UserError: it is missing or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {faults.words(error, path)}") from None
    value = integrity.parsed(content, str(path))
    if not isinstance(value, dict):
        raise DamagedFileError(f"{path} holds a {type(value).__name__}, but must hold keys and values")
    return value


@contextmanager
def understood(path: Path, *, as_what: str) -> Iterator[None]:
    """Refuse a file whose content is not understood: keys are missing, or values are of another kind.

    Args:
        path: of the file.
        as_what: what it should be, for the message.

    Raises:
        UserError: the block met such content.
    """
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path} lacks {error}, so it is no {as_what}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no {as_what}: {' '.join(str(error).split())}") from None


def whole(value: Any) -> int:
    """A whole number.

    Raises:
        TypeError: it is none.
    """
    if type(value) is not int:  # True is an int, too
        raise TypeError(f"{value!r} is no whole number")
    return value


def number(value: Any) -> float:
    """A number.

    Raises:
        TypeError: it is none.
    """
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def text(value: Any) -> str:
    """A text.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
