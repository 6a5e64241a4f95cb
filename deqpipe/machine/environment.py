"""Settings of a user's environment that must not matter to what a command does."""

import os
from collections.abc import Mapping

NEUTRAL: Mapping[str, str] = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
"""Notebooks name a backend that only they have; a matplotlibrc may be of another version, or damaged."""


def shield() -> None:
    """Keep matplotlib, once it is imported, from settings that are for the user's own figures."""
    os.environ.update(NEUTRAL)
