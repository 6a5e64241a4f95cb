"""What is wrong with a cluster's settings, or what this machine has."""

import argparse
from collections.abc import Iterable
from typing import Any

from deqpipe.cli.arguments import add, add_overlays, positive


def register(commands: Any) -> None:
    """Add doctor."""
    text = "Say in one screen what is wrong with a cluster's settings, submitting nothing, or what this machine has."
    parser = add(commands, "doctor", _doctor, text)
    parser.add_argument("--profile", metavar="P", help="of Snakemake, such as profiles/slurm; without it: this machine")
    add_overlays(parser)
    text = "submit one small job, too: does its node see this folder, this Python and CUDA?"
    parser.add_argument("--submit", action="store_true", help=text)
    text = "for the small job, its time in the queue included; then it is cancelled"
    parser.add_argument("--wait-minutes", type=positive, default=10.0, metavar="MINUTES", help=text)


def _doctor(options: argparse.Namespace) -> int:
    from deqpipe.cluster import doctor, this_machine

    if options.profile is None:
        return _told(this_machine.checks(options.configfile))
    asked = {"submit": options.submit, "wait_minutes": options.wait_minutes}
    return _told(doctor.of_profile(options.profile, options.configfile, **asked))


def _told(checks: Iterable[Any]) -> int:
    """Print each check as it comes; the exit status, 1 where something is wrong."""
    wrong = 0
    for check in checks:
        wrong += check.is_wrong
        print(*check.lines(), sep="\n", flush=True)
    print(f"{wrong} to be mended." if wrong else "Nothing is wrong.")
    return int(wrong > 0)
