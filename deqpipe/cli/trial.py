"""The workflow for so many seconds."""

import argparse
import math
from typing import Any

from deqpipe.cli.arguments import add, add_overlays, positive, positive_int


def register(commands: Any) -> None:
    """Add trial."""
    text = "Run the workflow for at most so long, and write the tables that its results allow."
    parser = add(commands, "trial", _trial, text)
    add_overlays(parser)
    parser.add_argument("--seconds", type=positive, default=math.inf, help="then it is stopped; it can go on later")
    parser.add_argument("--gpu-jobs", type=positive_int, default=1, metavar="N", help="jobs that share the GPU")


def _trial(options: argparse.Namespace) -> int:
    from deqpipe import trial

    return trial.trial(options.configfile, seconds=options.seconds, gpu_jobs=options.gpu_jobs)
