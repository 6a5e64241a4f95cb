"""What a reader sees: tables, figures and the report."""

import argparse
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqpipe import config
from deqpipe.cli.arguments import Command, add, add_expected_spec, add_paths, refuse_other_spec
from deqpipe.workflow import products, specs
from deqpipe.workflow.endings import PROGRAM
from deqpipe.workflow.stages import ProductName

if TYPE_CHECKING:
    from deqpipe.reporting.tables.screen import Screen


def register(commands: Any) -> None:
    """Add table, figure, report and show-table."""
    _add_numbered(commands, "table", _table, "Write a table.")
    _add_numbered(commands, "figure", _figure, "Draw a figure.")
    report = add(commands, "report", _report, "Write the report, and a card beside every model.")
    add_paths(report, "config", "results", "output", "numbers")
    add_expected_spec(report)
    show = add(commands, "show-table", _show_table, "Print a table that is already written, as it fits the terminal.")
    show.add_argument("number", type=int)
    text = "folder of the results (default: that of config.yaml)"
    show.add_argument("--results", type=Path, default=Path("results"), help=text)
    how = show.add_mutually_exclusive_group()
    how.add_argument("--notes", action="store_true", help="all columns, the paper's numbers, and every note")
    how.add_argument("--csv", action="store_true", help="every number, unrounded, a line each")
    how.add_argument("--closing", action="store_true", help="then what the report says, and where it and the rest are")


def _add_numbered(commands: Any, name: str, command: Command, text: str) -> None:
    parser = add(commands, name, command, text)
    parser.add_argument("number", type=int)
    add_paths(parser, "config", "results", "output-stem")
    add_expected_spec(parser)


def _config(options: argparse.Namespace, product: ProductName) -> config.Config:
    loaded = config.load([options.config])
    definition = products.tables(loaded).get(options.number) if product == "table" else None
    refuse_other_spec(options, specs.build_product(product, loaded, definition))
    return loaded


def _table(options: argparse.Namespace) -> int:
    from deqpipe.reporting.tables import tables

    tables.write(options.number, _config(options, "table"), options.results, output_stem=options.output_stem)
    return 0


def _figure(options: argparse.Namespace) -> int:
    from deqpipe.reporting.figures import figures

    figures.write(options.number, _config(options, "figure"), options.results, output_stem=options.output_stem)
    return 0


def _report(options: argparse.Namespace) -> int:
    from deqpipe.reporting import cards, numbers
    from deqpipe.reporting.report import report

    loaded = _config(options, "report")
    report.write(loaded, options.results, options.output)
    numbers.write(loaded, options.results, options.numbers)
    cards.write_all(loaded, options.results)
    return 0


def _show_table(options: argparse.Namespace) -> int:
    from deqpipe.reporting import closing
    from deqpipe.reporting.tables import tables

    number, results = options.number, options.results
    if options.csv:
        print(tables.csv_text(number, results), end="")
        return 0
    screen = _screen()
    after = closing.lines(results, columns=screen.columns) if options.closing else []
    if not options.notes:
        after.append(f"The rest: {program()} show-table {number} --results {results} --notes (or --csv)")
    shorter = screen if screen.lines is None else replace(screen, lines=screen.lines - len(after) - 2)
    print(tables.text(number, results, shorter, notes=options.notes))
    print(*([""] * options.closing), *after, sep="\n", end="\n" * bool(after))
    return 0


PIPED = os.terminal_size((100, 40))
"""What is printed on where it is no terminal, unless COLUMNS and LINES say otherwise."""


def _screen() -> "Screen":
    """The terminal, or what stands for it."""
    from deqpipe.reporting.tables.screen import Screen

    size, terminal = shutil.get_terminal_size(PIPED), sys.stdout.isatty()
    return Screen(max(size.columns, 40), size.lines, bold=terminal and "NO_COLOR" not in os.environ)


def program() -> str:
    """How this command was called, as it can be typed again."""
    called = Path(sys.argv[0])
    found = shutil.which(PROGRAM)
    if found is not None and called.exists() and Path(found).samefile(called):
        return PROGRAM
    return os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called)
