"""Keys that were called otherwise once: they are refused with the name of today."""

from collections.abc import Mapping
from typing import Any

from deqpipe.errors import UserError

OLD_KEYS: Mapping[str, str] = {
    "solver.anderson_memory": "solver.memory now, and belongs to solver.name: anderson",
    "training.implicit_steps": "training.gradient.steps now, and belongs to training.gradient.name: exact",
}
"""What has become of a key, by its old dotted name: the end of "<key> is called ..."."""


def refuse_old_keys(raw: Mapping[str, Any]) -> None:
    """Refuse keys of older versions.

    Raises:
        UserError: names the key and what it is called now.
    """
    for old, new in OLD_KEYS.items():
        section, key = old.rsplit(".", 1)
        below = raw.get(section)
        if isinstance(below, Mapping) and key in below:
            raise UserError(f"config: {old} is called {new}")
    training = raw.get("training")
    gradient = training.get("gradient") if isinstance(training, Mapping) else None
    if isinstance(gradient, str):
        raise UserError(
            f"config: training.gradient is {gradient!r}, but holds keys now: training.gradient.name is what was "
            "training.gradient"
        )
