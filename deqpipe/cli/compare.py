"""Two runs side by side."""

import argparse
from pathlib import Path
from typing import Any

from deqpipe.cli.arguments import add


def register(commands: Any) -> None:
    """Add compare."""
    text = "Compare two runs: the settings that differ, and the numbers that differ by more than chance."
    parser = add(commands, "compare", _compare, text)
    what = "results folder, or its results.json"
    parser.add_argument("first", type=Path, metavar="RESULTS_A", help=what)
    parser.add_argument("second", type=Path, metavar="RESULTS_B", help=what)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="one line per cell, unrounded")
    form.add_argument("--json", action="store_true", help="summary, settings and cells")


def _compare(options: argparse.Namespace) -> int:
    from deqpipe.reporting.comparison import cells, printed, sides

    compared = cells.compare(sides.read(options.first), sides.read(options.second))
    form = printed.to_csv if options.csv else printed.to_json if options.json else printed.text
    print(form(compared), end="")
    return 0
