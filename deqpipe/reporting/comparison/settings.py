"""In which settings two runs differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ABSENT = "-"
_PLACES = "pathvars."
"""Where files lie: every run has its own."""


@dataclass(frozen=True)
class Setting:
    """A key of the configuration that two runs do not share, and its value in each, as text."""

    key: str
    first: str
    second: str


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Setting, ...]:
    """The settings that differ between two resolved configurations; of a key that one lacks, a dash."""
    one, other = dict(_leaves(first, "")), dict(_leaves(second, ""))
    keys = [key for key in dict.fromkeys((*one, *other)) if not key.startswith(_PLACES)]
    return tuple(
        Setting(key, one.get(key, _ABSENT), other.get(key, _ABSENT)) for key in keys if one.get(key) != other.get(key)
    )


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _written(value)


def _written(value: object) -> str:
    """A value as it stands in a config file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return "{}"
    return f"{value:g}" if isinstance(value, float) else str(value)
