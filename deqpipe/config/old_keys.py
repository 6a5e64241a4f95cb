"""Keys that were called otherwise once: they are refused with the name of today."""

from collections.abc import Mapping
from typing import Any

from deqpipe.config.base import value_at
from deqpipe.errors import UserError

OLD_KEYS: Mapping[str, str] = {
    "solver.anderson_memory": "solver.memory now, and belongs to solver.name: anderson",
    "training.implicit_steps": "training.gradient.steps now, and belongs to training.gradient.name: exact",
}
"""What has become of a key, by its old dotted name: the end of "<key> is called ..."."""
OLD_VALUES: Mapping[str, str] = {"training.gradient": "training.gradient.name"}
"""Words in whose place keys stand now: the key that holds the word."""


def refuse_old_keys(raw: Mapping[str, Any]) -> None:
    """Refuse keys of older versions.

    Raises:
        UserError: names the key and what it is called now.
    """
    for old, now in OLD_KEYS.items():
        if _stands(raw, old):
            raise UserError(f"config: {old} is called {now}")
    for old, now in OLD_VALUES.items():
        value = value_at(raw, old)
        if isinstance(value, str):
            raise UserError(f"config: {old} is {value!r}, but holds keys now: {now} is what was {old}")


def _stands(raw: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.rpartition(".")
    below = value_at(raw, section)
    return isinstance(below, Mapping) and name in below
