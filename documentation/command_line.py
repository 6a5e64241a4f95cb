"""docs/reference/command-line.md: every command of `deqpipe` with its arguments, from its own parser."""

import argparse
from collections.abc import Iterator

from deqpipe import cli
from documentation.keys import cell

HEAD = """\
# Command line

What `deqpipe COMMAND --help` says, on one page. This page is generated (`make generate`) from the parser itself.

Most commands are steps of the workflow, which calls them (rules/); `--spec` is what such a job depends on, and
`deqpipe spec` prints one.

Exit status: 0 done; 1 a training diverged, or a check found something; 2 a mistake, told in one line; 75 saved and
left early, the same command goes on.
"""


def page() -> str:
    """The page."""
    return "\n".join([HEAD, *_overview(), *(line for name, one in commands().items() for line in _command(name, one))])


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command, by its name, in the order of --help."""
    parser = cli.build_parser()
    (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def _overview() -> Iterator[str]:
    yield "| command | |"
    yield "| --- | --- |"
    for name, parser in commands().items():
        yield f"| [`{name}`](#{name}) | {cell(parser.description or '')} |"
    yield ""


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    arguments = [one for one in parser._actions if not isinstance(one, argparse._HelpAction)]
    yield f"## {name}\n\n{parser.description}\n"
    if arguments:
        yield "| argument | | default |\n| --- | --- | --- |"
        yield from (f"| {_spelled(one)} | {_meaning(one, parser)} | {_default(one)} |" for one in arguments)
        yield ""


def _spelled(argument: argparse.Action) -> str:
    """As it is typed: `--threads N` or `FILE`."""
    value = argument.metavar or (argument.dest if not argument.option_strings else argument.dest.upper())
    shown = "" if argument.nargs == 0 else str(value)
    more = " ..." if argument.nargs in ("+", "*") else ""
    return f"`{' '.join(part for part in (*argument.option_strings[:1], shown) if part)}{more}`"


def _meaning(argument: argparse.Action, parser: argparse.ArgumentParser) -> str:
    told = cell((argument.help or "") % {"default": argument.default, "prog": parser.prog})
    choices = "" if argument.choices is None else f"one of {', '.join(f'`{one}`' for one in argument.choices)}"
    repeated = "may be given several times" if isinstance(argument, argparse._AppendAction) else ""
    said = repeated if repeated not in told else ""
    return "; ".join(part for part in (told, choices, said) if part)


def _default(argument: argparse.Action) -> str:
    if argument.required:
        return "required"
    return "" if argument.default in (None, False, argparse.SUPPRESS, []) else f"`{argument.default}`"
