"""In which settings two runs differ."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deqpipe.config import leaves

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
    one, other = dict(leaves(first)), dict(leaves(second))
    keys = [key for key in dict.fromkeys((*one, *other)) if not key.startswith(_PLACES)]
    return tuple(
        Setting(key, _written(one, key), _written(other, key))
        for key in keys
        if key not in one or key not in other or one[key] != other[key]
    )


def _written(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else _ABSENT
