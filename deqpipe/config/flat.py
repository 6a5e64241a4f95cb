"""A configuration as a flat list: dotted keys and their values."""

from collections.abc import Iterator, Mapping
from typing import Any

from deqpipe.config.base import Section


def leaves(values: Section | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, in their own order.

    Args:
        values: checked sections, in which a mapping is a value; or mappings as they were read, empty ones being values.
        prefix: of all keys.
    """
    kind = Section if isinstance(values, Section) else Mapping
    for name, value in _items(values):
        if isinstance(value, kind) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _items(values: Section | Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Section):
        return ((name, getattr(values, name)) for name in type(values).model_fields)
    return iter(values.items())
