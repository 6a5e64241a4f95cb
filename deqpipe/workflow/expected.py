"""How long jobs are expected to take, where `deqpipe plan` has measured it and left it in the state folder. No torch.

What is kept is a convenience and no result: a file that is missing, damaged or of another configuration says nothing.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deqpipe.config import Config
from deqpipe.workflow import specs

NAME = "prices.json"
"""In the state folder of an experiment."""

MARK = "made-by-another-spec"
"""Name of the file that outputs which another spec made are older than (rules/common.smk)."""
EXPECTED = "expected_seconds"
"""Under which the Snakefile tells its logger the seconds of a job of each rule."""


def path(config: Config) -> Path:
    """Where the prices of an experiment are kept."""
    return Path(config.pathvars.state, NAME)


def key(config: Config) -> str:
    """What stands for the configuration that prices hold for."""
    return specs.fingerprint(config.model_dump(mode="json"))


def kept(config: Config) -> dict[str, Any]:
    """What is kept for exactly this configuration; empty: nothing."""
    with suppress(OSError, ValueError, RecursionError):
        told = json.loads(path(config).read_text(encoding="utf-8"))
        if isinstance(told, dict) and told.get("config") == key(config):
            return told
    return {}


def seconds_of_rules(config: Config) -> Mapping[str, float]:
    """How long a job of each rule takes on this machine, one like another; empty: nobody has measured."""
    told = kept(config).get("rules", {})
    with suppress(AttributeError, TypeError, ValueError):
        return {str(rule): float(seconds) for rule, seconds in told.items()}
    return {}
