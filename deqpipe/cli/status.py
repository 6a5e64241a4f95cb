"""What there is of the results that a configuration asks for, and what of it is not what it asks for."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from deqpipe import config
from deqpipe.cli.arguments import add


def register(commands: Any) -> None:
    """Add status."""
    parser = add(commands, "status", _status, "Say which results are valid, stale (and why), missing or unreadable.")
    parser.add_argument("files", type=Path, nargs="+", help="config files, later ones laid over earlier ones")
    parser.add_argument("--all", action="store_true", help="list valid and missing files, too")


def _status(options: argparse.Namespace) -> int:
    from deqpipe.results import validity
    from deqpipe.results.validity import State

    found = validity.survey(config.load(options.files))
    counts = Counter(one.state for one in found)
    for one in found:
        if options.all or one.state in (State.STALE, State.UNREADABLE):
            print(f"{one.state.value:<10} {one.name}{f': {one.why}' if one.why else ''}")
    print(", ".join(f"{counts[state]} {state.value}" for state in State))
    if counts[State.VALID] < len(found):
        print("Snakemake makes what is asked for and not valid, and nothing else: snakemake -n shows what.")
    return 0
