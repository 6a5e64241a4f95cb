"""What the commands share: how one is added, the arguments that several take, and the types of arguments.

A type takes the text of an argument and raises `argparse.ArgumentTypeError`, which becomes the one line of the answer.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deqpipe.errors import UserError
from deqpipe.machine import threads
from deqpipe.workflow import specs
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.stages import STAGES, Stage, StageName

Command = Callable[[argparse.Namespace], int]
"""What a subcommand does with its options; returns the exit status."""


def add(commands: Any, name: str, command: Command, text: str) -> argparse.ArgumentParser:
    """A new subcommand.

    Args:
        commands: what `add_subparsers` returned.
        name: as it is typed.
        command: what it does.
        text: what it does in a sentence, for --help.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


def add_paths(parser: argparse.ArgumentParser, *names: str) -> None:
    """Required files or folders."""
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=True)


def add_job(parser: argparse.ArgumentParser, stage: StageName) -> None:
    """What every job of the workflow takes: its spec, and what it runs on."""
    parser.add_argument(
        "--spec", type=spec_of(stage), required=True, help="what the job depends on; see `deqpipe spec`"
    )
    add_threads(parser)
    add_device(parser)
    add_ways(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """How much of the CPU is used."""
    text = f"threads of the CPU (default: {threads.VARIABLE}, or 1)"
    parser.add_argument("--threads", type=positive_int, default=threads.usual(), help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where it is computed."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def add_ways(parser: argparse.ArgumentParser) -> None:
    """Which faster ways to the same numbers are taken; `ways` reads them."""
    text = "compile f; auto: on CUDA, where it gives the same and is faster"
    parser.add_argument("--compile", choices=("auto", "true", "false"), default="auto", help=text)
    text = "replay attack steps as CUDA graphs; auto: likewise"
    parser.add_argument("--graphs", choices=("auto", "true", "false"), default="auto", help=text)
    text = "folder that keeps what auto found out about this device; without it, every job finds out anew"
    parser.add_argument("--verdicts", type=Path, metavar="FOLDER", help=text)


def ways(options: argparse.Namespace) -> Any:
    """What was asked for with the options of `add_ways`: a `compute.ways.Asked`."""
    from deqpipe.compute.ways import Asked

    switch = {"auto": None, "true": True, "false": False}
    return Asked(compiled=switch[options.compile], graphs=switch[options.graphs], verdicts=options.verdicts)


def add_budget(parser: argparse.ArgumentParser) -> None:
    """How long a job may take that can go on later."""
    text = "save and leave with exit status 75 when they are over"
    parser.add_argument("--time-budget-minutes", type=positive, default=math.inf, metavar="MINUTES", help=text)


def add_overlays(parser: argparse.ArgumentParser) -> None:
    """Configuration files as Snakemake takes them."""
    text = "overlays of config.yaml, later ones over earlier ones"
    parser.add_argument(
        "--configfile", "--configfiles", type=Path, action="extend", nargs="+", default=[], metavar="F", help=text
    )


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def batch_size(text: str) -> int | None:
    """How many images at once; None: as many as fit."""
    return None if text == "auto" else positive_int(text)


def positive(text: str) -> float:
    """A number above 0."""
    value = not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def not_negative(text: str) -> float:
    """A number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def first_last(text: str) -> tuple[int, int]:
    """The first and the last of a range, both part of it."""
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST-LAST, such as 1-8")
    return int(match[1]), int(match[2])


def point(text: str) -> GridPoint:
    """An attack of the grid, by its name."""
    try:
        return GridPoint.parse(text)
    except UserError as error:  # a ValueError, whose text argparse would swallow
        raise argparse.ArgumentTypeError(str(error)) from None


def add_expected_spec(parser: argparse.ArgumentParser) -> None:
    """The spec that the job was asked for by, of commands that get the whole configuration and make it themselves."""
    parser.add_argument("--spec", type=json_object, help="refuse the configuration if this is not the job's spec by it")


def refuse_other_spec(options: argparse.Namespace, built: Mapping[str, Any]) -> None:
    """Refuse a configuration by which the job has another spec than the one it was asked for by.

    Raises:
        UserError: they differ.
    """
    if options.spec is not None and specs.dumps(options.spec) != specs.dumps(built):
        raise UserError("the configuration is not the one that --spec was made from: start the workflow again")


def json_object(text: str) -> dict[str, Any]:
    """Keys and values as JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits and deep nesting, too
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"holds a {type(value).__name__}, but must hold keys and values")
    return value


def spec_of(name: StageName) -> Callable[[str], dict[str, Any]]:
    """The type of a spec of a stage: complete, and of the stage's revision."""
    stage = STAGES[name]

    def parse(text: str) -> dict[str, Any]:
        spec = json_object(text)
        if spec.get("stage") != name:
            raise argparse.ArgumentTypeError(f"not a spec of stage {name}; `deqpipe spec` prints one")
        lacking = ", ".join(sorted(_keys_of(stage) - spec.keys()))
        if lacking:
            raise argparse.ArgumentTypeError(f"spec of stage {name} lacks {lacking}; `deqpipe spec` prints one")
        if spec.get("revision") != stage.revision:
            raise argparse.ArgumentTypeError(f"spec has revision {spec.get('revision')}, but this is {stage.revision}")
        return spec

    return parse


def _keys_of(stage: Stage) -> set[str]:
    """What a spec of a stage holds beside stage and revision."""
    return {"config", "upstream", *(("seed",) if stage.seeded else ()), *(("model",) if stage.models else ())}
