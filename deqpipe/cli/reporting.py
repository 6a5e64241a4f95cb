"""What a reader sees: tables, figures and the report."""

import argparse
from typing import Any

from deqpipe import config
from deqpipe.cli.arguments import Command, add, add_expected_spec, add_paths, refuse_other_spec
from deqpipe.workflow import specs
from deqpipe.workflow.stages import ProductName


def register(commands: Any) -> None:
    """Add table, figure, report and show-table."""
    _add_numbered(commands, "table", _table, "Write a table.")
    _add_numbered(commands, "figure", _figure, "Draw a figure.")
    report = add(commands, "report", _report, "Write the report, and a card beside every model.")
    add_paths(report, "config", "results", "output")
    add_expected_spec(report)
    show = add(commands, "show-table", _show_table, "Print a table that is already written.")
    show.add_argument("number", type=int)
    add_paths(show, "results")


def _add_numbered(commands: Any, name: str, command: Command, text: str) -> None:
    parser = add(commands, name, command, text)
    parser.add_argument("number", type=int)
    add_paths(parser, "config", "results", "output-stem")
    add_expected_spec(parser)


def _config(options: argparse.Namespace, product: ProductName) -> config.Config:
    loaded = config.load([options.config])
    refuse_other_spec(options, specs.build_product(product, loaded))
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
    from deqpipe.reporting import cards
    from deqpipe.reporting.report import report

    settings = _config(options, "report")
    report.write(settings, options.results, options.output)
    cards.write_all(settings, options.results)
    return 0


def _show_table(options: argparse.Namespace) -> int:
    from deqpipe.reporting.tables import tables

    print(tables.text(options.number, options.results))
    return 0
