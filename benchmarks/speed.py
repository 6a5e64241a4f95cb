"""How fast is it, and with equal results? The plain way and ours, in turn, in one run; with a folder the authors' code.

    python -m benchmarks.speed [--release FOLDER] [--model NAME] [--batch N] [--repeats N] [--rows WORD ...]

Every operation is done by all its sides in turn (plain, ours, plain, ours, ...), on random images by a model of random
weights; what stands in the table is the median over pairs, and their range. Before it is timed, its results in float64
are compared: a difference above 1e-10 ends the run with exit status 1. Rows are written as they come, into the csv
beside the page; its tables and picture are made from the csv. With --release the authors' code runs beside ours, with
the keys that make the two equal, and for the attack also as the paper has it.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import operations, release_sides, speed_page, speed_rows
from benchmarks.measure import Patience, UnequalError, compared, measured
from benchmarks.operations import Operation
from benchmarks.release_code import Release, without_progress
from benchmarks.speed_rows import Row, rows_of
from benchmarks.world import MODELS, ROOT, SPREAD, ModelName, World
from deqpipe.errors import UserError

BATCHES: dict[ModelName, int] = {"demo": 64, "MDEQ-Large": 4}
PAGE = ROOT / "docs/performance.md"


@without_progress()
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, say what was found; returns the exit status."""
    options = parsed(arguments)
    try:
        models: Sequence[ModelName] = options.model or (["MDEQ-Large"] if options.release else MODELS)
        for model in models:
            world = World(model, options.batch or BATCHES[model], threads=options.threads)
            if options.release:
                world = replace(world, protocol="release", dropout=False)
            measure_all(chosen(world, options), world, options)
    except UnequalError as error:
        print(f"not equal: {error}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"benchmarks.speed: {error}", file=sys.stderr)
        return 2
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--release", type=Path, metavar="FOLDER", help="work tree of the authors' code (862034f)")
    parser.add_argument("--model", choices=MODELS, action="append", help="both; with --release MDEQ-Large")
    parser.add_argument("--batch", type=positive, help=f"images at once ({BATCHES})")
    parser.add_argument("--repeats", type=positive, default=9, help="pairs, at most (%(default)s)")
    parser.add_argument("--minutes", type=float, default=12.0, help="of timing per model (%(default)s); 3 pairs anyway")
    parser.add_argument("--rows", nargs="+", metavar="WORD", help="operations whose names hold one of these")
    parser.add_argument("--threads", type=positive, default=cores(), help="(%(default)s)")
    parser.add_argument("--points", type=positive, default=len(SPREAD), help="of the grid: 8, or 144 for all")
    parser.add_argument("--all-settings", action="store_true", help="every T_f and R of Table 10")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others compute, too")
    parser.add_argument("--page", type=Path, default=PAGE, help="whose tables, picture and csv are written")
    options = parser.parse_args(arguments)
    if options.release and (missing := Release(options.release).missing):
        parser.error(missing)
    if options.release and "demo" in (options.model or ()):
        parser.error("the authors' code takes colour images of 32x32, the demo's are grey: --release is for MDEQ-Large")
    return options


def positive(text: str) -> int:
    """A number of the command line that must be above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen(world: World, options: argparse.Namespace) -> list[Operation]:
    """The operations that are wanted.

    Raises:
        UserError: none is.
    """
    if options.release:
        every = release_sides.operations(options.release, points=options.points)
    else:
        every = operations.operations(world, points=options.points, all_settings=options.all_settings)
    wanted = [one for one in every if not options.rows or any(word in one.name for word in options.rows)]
    if not wanted:
        raise UserError(f"no operation has {' or '.join(options.rows)} in its name; there are: {_names(every)}")
    return wanted


def _names(every: Sequence[Operation]) -> str:
    return "; ".join(operation.name for operation in every)


def measure_all(wanted: Sequence[Operation], world: World, options: argparse.Namespace) -> None:
    """Measure operation after operation and write each when it is there."""
    table = options.page.with_suffix(".csv")
    patience = Patience(options.repeats, 60 * options.minutes / len(wanted), clock=options.clock)
    print(f"{world.model}, {world.batch} images, {world.threads} thread(s), keys of the {world.protocol}", flush=True)
    for operation in wanted:
        started = time.monotonic()
        differences = compared(operation, world)
        found = rows_of(operation.name, measured(operation, world, patience, differences), world, options.clock)
        rows = speed_rows.replaced(speed_rows.read(table), found)
        speed_rows.write(table, rows)
        speed_page.write(options.page, speed_rows.read(table))
        print("\n".join(said(found)), f"[{time.monotonic() - started:.0f} s]", flush=True)


def said(rows: Sequence[Row]) -> list[str]:
    """The rows of an operation in a line each."""
    lines = [rows[0].operation]
    for row in rows:
        ratio = f"{row.ratio:5.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})" if row.side != row.against else ""
        lines.append(f"    {row.side:<24} {row.rate:8.2f} images/s, {row.share:4.0%} of it f  {ratio}".rstrip())
    return lines


if __name__ == "__main__":
    sys.exit(main())
