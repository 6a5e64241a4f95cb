"""What the JSON files of results have in common: an object that carries its provenance, and one line for what is none.

Each format has a module of its own, which alone knows the keys; here nobody does.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.results.provenance import checked

_KEY = "provenance"


def write(path: Path, content: Mapping[str, Any], provenance: Mapping[str, Any], *, sort_keys: bool = True) -> None:
    """Write keys and values whole, and where they come from; in their own order unless keys are sorted."""
    text = json.dumps({**content, _KEY: dict(provenance)}, indent=1, sort_keys=sort_keys)
    records.write_text(path, text + "\n")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys and values of a file, and where they come from.

    Raises:
        UserError: the file is missing, cannot be read, is no JSON object, or carries no provenance.
    """
    content = _object(path)
    return content, checked(content.pop(_KEY, None), path)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # no JSON, or no text at all
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, but must hold keys and values")
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
