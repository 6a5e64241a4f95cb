"""Configurations checked and written, and the spec of a job printed."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from deqpipe import config, extending
from deqpipe.cli.arguments import add, add_paths, json_object
from deqpipe.workflow import inputs, specs
from deqpipe.workflow.stages import STAGES


def register(commands: Any) -> None:
    """Add check-config, write-config and spec."""
    check = add(commands, "check-config", _check_config, "Validate config files, later ones laid over earlier ones.")
    check.add_argument("files", type=Path, nargs="+")
    write = add(commands, "write-config", _write_config, "Write a resolved configuration as YAML.")
    write.add_argument("--spec", type=json_object, required=True, help="the configuration as JSON")
    add_paths(write, "output")
    spec = add(commands, "spec", _print_spec, "Print the spec of a job, for the other commands' --spec.")
    spec.add_argument("stage", choices=sorted(STAGES))
    spec.add_argument("files", type=Path, nargs="+", help="config files, later ones laid over earlier ones")
    spec.add_argument("--model", help="of stages that concern one")
    spec.add_argument("--seed", type=int)
    spec.add_argument("--defence", help="of stages whose jobs attack one decision each")


def _check_config(options: argparse.Namespace) -> int:
    loaded = config.load(options.files)
    inputs.check_inputs(loaded)
    if any(piece.decide for piece, _ in extending.pieces(extending.Defence, loaded.extensions).values()):
        from deqpipe import build

        build.try_rules(loaded)
    print(f"{', '.join(map(str, options.files))}: valid")
    return 0


def _write_config(options: argparse.Namespace) -> int:
    from deqpipe.results import records

    text = yaml.safe_dump(config.parse(options.spec).model_dump(mode="json"), sort_keys=False)
    records.write_text(options.output, text)
    return 0


def _print_spec(options: argparse.Namespace) -> int:
    loaded = config.load(options.files)
    built = specs.build(options.stage, loaded, model=options.model, seed=options.seed, defence=options.defence)
    print(specs.dumps(built))
    return 0
