"""Answers from records that later jobs of the workflow need: the strongest attacks, and those left in a race."""

import argparse
from typing import Any

from deqpipe import config
from deqpipe.cli.arguments import add, add_expected_spec, add_paths, json_object, refuse_other_spec
from deqpipe.workflow import specs
from deqpipe.workflow.stages import StageName


def register(commands: Any) -> None:
    """Add strongest and race."""
    strongest = add(commands, "strongest", _strongest, "Rank the points of the grid by the accuracy of each decision.")
    _add_model(strongest)
    _add_records(strongest)
    race = add(commands, "race", _race, "Say which points could still be the strongest (racing).")
    _add_model(race)
    race.add_argument("--of", choices=("grid", "sweep"), default="grid", help="which attacks race")
    _add_records(race)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, required=True)


def _add_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--configuration", type=json_object, required=True, help="the whole of it, as JSON")
    add_paths(parser, "results", "output")
    add_expected_spec(parser)


def _tree(options: argparse.Namespace, stage: StageName) -> Any:
    from deqpipe.analysis.layout import Tree

    tree = Tree(options.results, config.parse(options.configuration), options.seed)
    if options.spec is not None:
        refuse_other_spec(options, specs.build(stage, tree.config, model=options.model, seed=options.seed))
    return tree


def _strongest(options: argparse.Namespace) -> int:
    from deqpipe.analysis import ranking

    ranking.write(_tree(options, "strongest"), options.model, output=options.output)
    return 0


def _race(options: argparse.Namespace) -> int:
    from deqpipe.analysis import race

    stage: StageName = "race" if options.of == "grid" else "race_sweep"
    race.write(_tree(options, stage), options.model, of=options.of, output=options.output)
    return 0
