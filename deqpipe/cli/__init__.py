"""The `deqpipe` command: one subcommand per step of the workflow. Parse, load, call one function, write.

Each module holds a group of subcommands, their arguments and their calls, and offers `register`. What needs torch is
imported when a command runs: the parser itself starts in a moment.

What a user got wrong is answered by one line and exit status 2. A diverged training ends with one line and status 1, a
job that saved and left early with status 75. So are full disks, exhausted memory and other failures of the machine, and
exceptions in a user's file. Everything else is our mistake and keeps its traceback.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from deqpipe import __version__, extending
from deqpipe.cli import (
    analysis,
    answers,
    checkpoints,
    compare,
    configuration,
    data,
    doctor,
    evaluate,
    evaluation,
    plan,
    predict,
    reporting,
    robustbench,
    status,
    training,
    trial,
    watch,
)
from deqpipe.cli.arguments import Command
from deqpipe.errors import DivergedError, UserError, line
from deqpipe.machine import devices, environment, faults, revision, streams, threads
from deqpipe.machine.stopping import EXIT_UNFINISHED, Interrupted
from deqpipe.workflow.endings import GO_ON, PROGRAM

_logger = logging.getLogger(__name__)

GROUPS = (
    configuration, data, training, checkpoints, robustbench, evaluation, analysis, reporting, compare, predict, plan,
    status, doctor, trial, watch, evaluate,
)  # fmt: skip
"""In the order in which --help lists their commands."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit status where a signal ended a command that had nothing to keep yet, such as while it waited for a lock."""
_FAULTS = (OSError, MemoryError, RuntimeError, ImportError, SystemError)
"""Of these kinds are failures of the machine."""
_RESERVE = 2**24
"""Bytes for the words of an answer when memory has run out: of address space, as nothing is written there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    streams.degrade()
    environment.shield()
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as leaving:  # after --help, or a mistake
        raise SystemExit(answers.printed(int(leaving.code or 0))) from None
    log = answers.Log(sys.stderr)
    log.addFilter(answers.is_told)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, handlers=[log])
    if "spec" in options:  # a job of the workflow
        answers.begin()
    return answers.printed(_run(options))


def _run(options: argparse.Namespace) -> int:
    command: Command = options.command
    reserve = bytearray(_RESERVE)
    try:
        threads.settle(getattr(options, "threads", None))  # before numpy and torch, which look once
        devices.take(getattr(options, "device", "cpu"))  # before torch, which looks for devices once
        _load_extensions(getattr(options, "spec", None))
        return command(options)
    except UserError as error:
        answers.say(error)
        return 2
    except DivergedError as error:
        answers.say(error)
        return 1
    except Interrupted as why:
        _logger.info("%s: of a job as short as this nothing is kept; %s", why.reason, GO_ON)
        return EXIT_UNFINISHED
    except KeyboardInterrupt:
        _logger.info("interrupted before there was anything to keep; %s", GO_ON)
        return INTERRUPTED
    except BrokenPipeError:
        if not streams.is_unread(1):
            raise  # of another pipe
        faults.silence(sys.stdout)
        return answers.NO_READER
    except Exception as error:
        del reserve
        fault = answers.of_fault(error, options) if isinstance(error, _FAULTS) else None
        if fault is not None:
            answers.say(fault)
            answers.leave_without_memory()
            return 2
        mistake = extending.explained(error)
        if mistake is None:
            raise
        answers.say(mistake)
        return 2


def _load_extensions(spec: Mapping[str, Any] | None) -> None:
    """Run the users' files that a job was planned with; a configuration, which is no job's spec, loads its own."""
    files = {} if spec is None else spec.get("extensions", {})
    if isinstance(files, Mapping):
        extending.expect(files)


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line; the usage stands in --help."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        self.exit(2, f"{self.prog}: {line(' '.join(message.split()))}; see {self.prog} --help\n")


class Version(argparse.Action):
    """Says version and revision; only then is git asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print the line and exit."""
        of = revision.revision()
        print(f"{PROGRAM} {__version__}" + (f" (revision {of})" if of else ""))
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The command line, with one subcommand per step."""
    parser = Parser(prog=PROGRAM, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--version", action=Version, nargs=0, help="say version and revision, and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.register(commands)
    return parser
