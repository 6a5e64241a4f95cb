"""The `deqpipe` command: one subcommand per step of the workflow. Parse, load, call one function, write.

What a user got wrong is answered by one line and exit status 2. A diverged training ends with one line and status 1, a
job that saved and left early with status 75. Everything else is our mistake and keeps its traceback.
"""

import argparse
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from deqpipe import __version__, config, records, specs
from deqpipe.errors import NonFiniteLossError, UserError

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stderr)
    command: Command = options.command
    try:
        return command(options)
    except UserError as error:
        print(f"deqpipe: {error}", file=sys.stderr)
        return 2
    except NonFiniteLossError as error:
        print(f"deqpipe: {error}", file=sys.stderr)
        return 1


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line; the usage stands in --help."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with status 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line, with one subcommand per step."""
    parser = Parser(prog="deqpipe", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--version", action="version", version=f"deqpipe {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_configuration(commands)
    _add_training(commands)
    _add_evaluation(commands)
    _add_reporting(commands)
    return parser


def _add(commands: Any, name: str, command: Command, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    return parser


def _add_paths(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=True)


def _add_job(parser: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    parser.add_argument("--spec", type=_spec(stages), required=True, help="what the job depends on; see `deqpipe spec`")
    parser.add_argument("--threads", type=_positive_int, default=1, help="threads of the CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _add_budget(parser: argparse.ArgumentParser) -> None:
    text = "save and leave with exit status 75 when they are over"
    parser.add_argument("--time-budget-minutes", type=_positive, default=math.inf, metavar="MINUTES", help=text)


def _add_configuration(commands: Any) -> None:
    check = _add(commands, "check-config", _check_config, "Validate config files, later ones laid over earlier ones.")
    check.add_argument("files", type=Path, nargs="+")
    write = _add(commands, "write-config", _write_config, "Write a resolved configuration as YAML.")
    write.add_argument("--spec", type=_json_object, required=True, help="the configuration as JSON")
    _add_paths(write, "output")
    spec = _add(commands, "spec", _print_spec, "Print the spec of a job, for the other commands' --spec.")
    spec.add_argument("stage", choices=sorted(set(specs.REVISION) - {"table", "figure", "report"}))
    spec.add_argument("files", type=Path, nargs="+", help="config files, later ones laid over earlier ones")
    spec.add_argument("--model", choices=tuple(specs.MODELS))
    spec.add_argument("--seed", type=int)


def _add_training(commands: Any) -> None:
    data = _add(commands, "prepare-data", _prepare_data, "Read the images and split them.")
    _add_job(data, ("data",))
    _add_paths(data, "root", "output")
    outputs = ("data", "state", "best", "last", "history")
    for name, stage, text, more in (
        ("pretrain", "pretrain", "Train the trunk that all DEQs start from.", ("handoff",)),
        ("train-deq", "train_deq", "Train a DEQ adversarially from the trunk.", ("trunk",)),
        ("train-resnet", "train_resnet", "Train a ResNet adversarially.", ()),
    ):
        parser = _add(commands, name, _train, text)
        parser.set_defaults(stage=stage)
        _add_job(parser, (stage,))
        _add_paths(parser, *outputs, *more)
        _add_budget(parser)
        interval = "seconds between two saves within an epoch"
        parser.add_argument("--save-interval", type=_not_negative, default=300.0, metavar="SECONDS", help=interval)


def _add_evaluation(commands: Any) -> None:
    for name, stage, text in (
        ("select-early-state", "select", "Choose the state that decides, on the held-out images."),
        ("clean", "clean", "Judge the test images as they are."),
        ("attack-pgd", "attack_pgd", "Attack at the final state."),
        ("attack-grid", "attack_grid", "Attack a part of the grid of Eq. (11)."),
        ("attack-point", "attack_grid", "Attack one point of the grid, for a closer look."),
    ):
        parser = _add(commands, name, _evaluate, text)
        parser.set_defaults(verb=name)
        _add_job(parser, (stage,))
        _add_paths(parser, "data", "checkpoint", "output")
        parser.add_argument("--batch-size", type=_positive_int, required=True, help="images at once")
        if name in ("attack-grid", "attack-point"):
            parser.add_argument("--images", type=_range, required=True, metavar="FIRST-LAST")
        if name == "attack-grid":
            parser.add_argument("--states", type=_range, required=True, metavar="FIRST-LAST")
            _add_paths(parser, "state")
            _add_budget(parser)
        if name == "attack-point":
            parser.add_argument("--point", type=_point, required=True, help="such as state3_steps5_damping0.5")


def _add_reporting(commands: Any) -> None:
    for name, text in (("table", "Write a table."), ("figure", "Draw a figure.")):
        parser = _add(commands, name, _table if name == "table" else _figure, text)
        parser.add_argument("number", type=int)
        _add_paths(parser, "config", "results", "output-stem")
    report = _add(commands, "report", _report, "Write the report.")
    _add_paths(report, "config", "results", "output")
    show = _add(commands, "show-table", _show_table, "Print a table that is already written.")
    show.add_argument("number", type=int)
    _add_paths(show, "results")


def _positive_int(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST-LAST, such as 1-8")
    return int(match[1]), int(match[2])


def _positive(text: str) -> float:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _point(text: str) -> specs.GridPoint:
    try:
        return specs.GridPoint.parse(text)
    except UserError as error:  # a ValueError, whose text argparse would swallow
        raise argparse.ArgumentTypeError(str(error)) from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"holds a {type(value).__name__}, but must hold keys and values")
    return value


def _spec(stages: Sequence[str]) -> Callable[[str], dict[str, Any]]:
    def parse(text: str) -> dict[str, Any]:
        spec, stage = _json_object(text), " or ".join(stages)
        if spec.get("stage") not in stages:
            raise argparse.ArgumentTypeError(f"not a spec of stage {stage}; `deqpipe spec` prints one")
        wanted = {"config", "upstream", *(("seed",) if spec["stage"] != "data" else ())}
        wanted |= {"model"} if spec["stage"] in specs.STAGE_MODELS else set()
        if not wanted <= spec.keys():
            lacking = ", ".join(sorted(wanted - spec.keys()))
            raise argparse.ArgumentTypeError(f"spec of stage {stage} lacks {lacking}; `deqpipe spec` prints one")
        if spec.get("revision") != specs.REVISION[spec["stage"]]:
            allowed = specs.REVISION[spec["stage"]]
            raise argparse.ArgumentTypeError(f"spec has revision {spec.get('revision')}, but this is {allowed}")
        return spec

    return parse


def _check_config(options: argparse.Namespace) -> int:
    config.load(options.files)
    print(f"{', '.join(map(str, options.files))}: valid")
    return 0


def _write_config(options: argparse.Namespace) -> int:
    text = yaml.safe_dump(config.parse(options.spec).model_dump(mode="json"), sort_keys=False)
    records.write_text(options.output, text)
    return 0


def _print_spec(options: argparse.Namespace) -> int:
    loaded = config.load(options.files)
    print(specs.dumps(specs.build(options.stage, loaded, model=options.model, seed=options.seed)))
    return 0


def _prepare_data(options: argparse.Namespace) -> int:
    from deqpipe import data
    from deqpipe.provenance import provenance

    settings = options.spec["config"]
    dataset = data.prepare(settings["data.source"], options.root, validation=settings["data.validation"])
    # No seconds: images prepared again must be the same file, or everything after them would run again.
    data.save(options.output, dataset, provenance=provenance(options.spec, device="CPU", inputs={}, seconds=0.0))
    return 0


def _train(options: argparse.Namespace) -> int:
    from deqpipe import device
    from deqpipe.training import run

    inputs = {name: getattr(options, name) for name in ("data", "trunk") if hasattr(options, name)}
    names = ("best", "last", "history", "handoff")
    job = run.Job(
        spec=options.spec,
        inputs=inputs,
        outputs={name: getattr(options, name) for name in names if hasattr(options, name)},
        state=options.state,
        device=device.choose(options.device),
        threads=options.threads,
        budget_minutes=options.time_budget_minutes,
        save_interval=options.save_interval,
    )
    verbs = {"pretrain": run.pretrain, "train_deq": run.train_deq, "train_resnet": run.train_resnet}
    return verbs[options.stage](job)


def _evaluate(options: argparse.Namespace) -> int:
    from deqpipe import device
    from deqpipe.evaluation import jobs
    from deqpipe.evaluation.subject import Job

    job = Job(
        spec=options.spec,
        data=options.data,
        checkpoint=options.checkpoint,
        output=options.output,
        device=device.choose(options.device),
        threads=options.threads,
        batch_size=options.batch_size,
    )
    if options.verb == "attack-grid":
        shard = jobs.GridShard(options.states, _images(options), options.state, options.time_budget_minutes)
        return jobs.attack_grid(job, shard)
    if options.verb == "attack-point":
        return jobs.attack_point(job, point=options.point, images=_images(options))
    plain = {"clean": jobs.clean, "attack-pgd": jobs.attack_pgd, "select-early-state": jobs.select_early_state}
    return plain[options.verb](job)


def _images(options: argparse.Namespace) -> range:
    first, last = options.images
    return range(first, last + 1)


def _table(options: argparse.Namespace) -> int:
    from deqpipe.reporting import tables

    tables.write(options.number, config.load([options.config]), options.results, output_stem=options.output_stem)
    return 0


def _figure(options: argparse.Namespace) -> int:
    from deqpipe.reporting import figures

    figures.write(options.number, config.load([options.config]), options.results, output_stem=options.output_stem)
    return 0


def _report(options: argparse.Namespace) -> int:
    from deqpipe.reporting import report

    report.write(config.load([options.config]), options.results, options.output)
    return 0


def _show_table(options: argparse.Namespace) -> int:
    from deqpipe.reporting import tables

    print(tables.text(options.number, options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
