"""What a run would cost, and whether a profile carries it to its end."""

import argparse
from pathlib import Path
from typing import Any

from deqpipe.cli.arguments import add, add_device, add_overlays, positive_int
from deqpipe.errors import UserError
from deqpipe.planning.speed_names import SPEEDS


def register(commands: Any) -> None:
    """Add plan."""
    text = "Say per rule what a run would cost on this machine, and what is done already; or what a profile carries."
    parser = add(commands, "plan", _plan, text)
    text = "rules or files to plan for, such as table1, before --configfile; by default everything"
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=text)
    add_overlays(parser)
    parser.add_argument("--cores", type=positive_int, help="cores to plan for; by default all of this machine")
    add_device(parser)
    text = "measure also where an earlier plan has left prices in the state folder and nothing has changed"
    parser.add_argument("--measure-again", action="store_true", help=text)
    text = "a profile of Snakemake: say what of a run its time limits and tries carry to the end; exit 1 if not all"
    parser.add_argument("--profile", type=Path, metavar="P", help=text)
    text = "how fast jobs are, with --profile: as in the paper, by the rates of one H100 (default), or measured here"
    parser.add_argument("--speeds", choices=SPEEDS, help=text)


def _plan(options: argparse.Namespace) -> int:
    if options.profile is not None:
        from deqpipe.planning.cluster.plan import plan_profile

        if options.targets:
            raise UserError(f"--profile says what a profile carries of the whole run, not of {options.targets[0]}")
        return plan_profile(options.profile, options.configfile, speed=options.speeds or "rates")
    if options.speeds is not None:
        raise UserError("--speeds is for --profile; without one, speeds are measured here")
    from deqpipe.planning.estimate import plan

    return plan(
        options.configfile, targets=options.targets, cores=options.cores, device=options.device,
        measure_again=options.measure_again,
    )  # fmt: skip
