"""What a run would cost."""

import argparse
from typing import Any

from deqpipe.cli.arguments import add, add_device, add_overlays, positive_int


def register(commands: Any) -> None:
    """Add plan."""
    text = "Say per rule what a run would cost on this machine, and what is done already."
    parser = add(commands, "plan", _plan, text)
    add_overlays(parser)
    parser.add_argument("--cores", type=positive_int, help="cores to plan for; by default all of this machine")
    add_device(parser)


def _plan(options: argparse.Namespace) -> int:
    from deqpipe import planning

    return planning.plan(options.configfile, cores=options.cores, device=options.device)
