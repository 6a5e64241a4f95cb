"""Models evaluated: one value per command, from which its arguments and its call follow."""

import argparse
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from deqpipe.cli.arguments import add, add_budget, add_job, add_paths, batch_size, first_last, point, ways
from deqpipe.config import TimingConfig
from deqpipe.lazy import named
from deqpipe.settings import Settings
from deqpipe.workflow.stages import StageName

Adder = Callable[[argparse.ArgumentParser], None]
Value = Callable[[argparse.Namespace], Any]


@dataclass(frozen=True)
class EvaluationCommand:
    """One command that evaluates a model.

    Attributes:
        name: as it is typed.
        stage: whose spec it takes.
        text: what it does, for --help.
        calls: `module:function` of deqpipe.evaluation.stages, imported when the command runs: it needs torch. Called
            with an `EvaluationJob`, it returns the exit status.
        adds: the arguments beside those of every evaluation, in the order of --help.
        gives: keywords of the function beside the job, and how options become their values.
        inputs: files that it reads beside data and checkpoint.
        together: whether it takes the checkpoints of several seeds, which decide as one.
    """

    name: str
    stage: StageName
    text: str
    calls: str
    adds: tuple[Adder, ...] = ()
    gives: Mapping[str, Value] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    together: bool = False

    def function(self) -> Callable[..., int]:
        """What the command calls, imported now."""
        function: Callable[..., int] = named(f"deqpipe.evaluation.stages.{self.calls}")
        return function


def register(commands: Any) -> None:
    """Add every command that evaluates a model."""
    for evaluation in EVALUATIONS:
        parser = add(commands, evaluation.name, functools.partial(_evaluate, evaluation), evaluation.text)
        add_job(parser, evaluation.stage)
        add_paths(parser, "data")
        _add_checkpoint(parser, together=evaluation.together)
        add_paths(parser, *evaluation.inputs, "output")
        for add_arguments in evaluation.adds:
            add_arguments(parser)


def _evaluate(evaluation: EvaluationCommand, options: argparse.Namespace) -> int:
    function, job = evaluation.function(), _job(options)
    return function(job, **{keyword: value(options) for keyword, value in evaluation.gives.items()})


def _job(options: argparse.Namespace) -> Any:
    from deqpipe.evaluation.evaluated_model import EvaluationJob
    from deqpipe.machine import device

    checkpoint, *further = options.checkpoint
    return EvaluationJob(
        spec=options.spec,
        data=options.data,
        checkpoint=checkpoint,
        further=tuple(further),
        output=options.output,
        device=device.choose(options.device),
        threads=options.threads,
        ways=ways(options),
        batch_size=_images_at_once(options),
        other=getattr(options, "other", None),
        strongest=getattr(options, "strongest", None),
    )


def _images_at_once(options: argparse.Namespace) -> int | None:
    """What was asked for; where time depends on it and is the result, what the spec says. None: as many as fit."""
    if "batch_size" in options:
        asked: int | None = options.batch_size
        return asked
    return Settings(options.spec["config"]).section("timing", TimingConfig).batch_size


def _add_checkpoint(parser: argparse.ArgumentParser, *, together: bool) -> None:
    if together:
        text = "the networks of all seeds, in the order of the spec's"
        parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, metavar="FILE", help=text)
    else:
        parser.add_argument("--checkpoint", type=Path, nargs=1, required=True)


def _add_batch_size(parser: argparse.ArgumentParser) -> None:
    text = "images at once, or auto: as many as fit into memory"
    parser.add_argument("--batch-size", type=batch_size, required=True, metavar="N", help=text)


def _add_batch_size_of_grid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=batch_size, required=True, help="as the grid was computed with")


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=first_last, required=True, metavar="FIRST-LAST")


def _add_kept(parser: argparse.ArgumentParser) -> None:
    add_paths(parser, "state")
    add_budget(parser)


def _add_part(parser: argparse.ArgumentParser) -> None:
    _add_images(parser)
    _add_kept(parser)


def _add_other(parser: argparse.ArgumentParser) -> None:
    text = "the other TRADES DEQ, whose decisions the images are scored on as well"
    parser.add_argument("--other", type=Path, metavar="CHECKPOINT", help=text)


def _add_race(parser: argparse.ArgumentParser) -> None:
    text = "what `deqpipe race` left of the points; without it, all of them"
    parser.add_argument("--race", type=Path, metavar="FILE", help=text)


def _add_strongest(parser: argparse.ArgumentParser) -> None:
    text = "the ranked points of the grid, as `deqpipe strongest` writes them"
    parser.add_argument("--strongest", type=Path, metavar="FILE", help=text)


def _add_select(parser: argparse.ArgumentParser) -> None:
    text = "the states at which decisions are taken; networks without states have none"
    parser.add_argument("--select", type=Path, metavar="FILE", help=text)


def _add_select_of_all(parser: argparse.ArgumentParser) -> None:
    text = "the states at which each network decides, in the order of the networks"
    parser.add_argument("--select", type=Path, nargs="+", required=True, metavar="FILE", help=text)


def _add_saved(parser: argparse.ArgumentParser) -> None:
    text = "the images that the suite made against every decision of every model and seed"
    parser.add_argument("--saved", type=Path, nargs="+", required=True, metavar="FILE", help=text)


def _add_own(parser: argparse.ArgumentParser) -> None:
    text = "the suite's records of this model's and seed's decisions"
    parser.add_argument("--own", type=Path, nargs="+", required=True, metavar="FILE", help=text)


def _add_states(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--states", type=first_last, required=True, metavar="FIRST-LAST")


def _add_point(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--point", type=point, required=True, help="such as state3_steps5_damping0.5")


def _images(options: argparse.Namespace) -> range:
    first, last = options.images
    return range(first, last + 1)


def _part(options: argparse.Namespace) -> Any:
    from deqpipe.evaluation.resumable import Part

    return Part(_images(options), options.state, options.time_budget_minutes)


def _grid_shard(options: argparse.Namespace) -> Any:
    from deqpipe.evaluation.stages.grid import GridShard

    return GridShard(options.states, _part(options), options.race)


_KEPT: Mapping[str, Value] = {"state": attrgetter("state"), "budget_minutes": attrgetter("time_budget_minutes")}

EVALUATIONS = (
    EvaluationCommand(
        "select-early-state",
        "select",
        "Choose the state that decides, on the held-out images.",
        calls="selection:select_early_state",
        adds=(_add_batch_size, _add_kept),
        gives=_KEPT,
    ),
    EvaluationCommand(
        "clean",
        "clean",
        "Judge the test images as they are.",
        calls="clean:clean",
        adds=(_add_batch_size, _add_kept),
        gives=_KEPT,
    ),
    EvaluationCommand(
        "attack-pgd",
        "attack_pgd",
        "Attack at the final state.",
        calls="clean:attack_pgd",
        adds=(_add_batch_size, _add_kept),
        gives=_KEPT,
    ),
    EvaluationCommand(
        "attack-grid",
        "attack_grid",
        "Attack a part of the grid of Eq. (11).",
        calls="grid:attack_grid",
        adds=(_add_batch_size, _add_part, _add_other, _add_race, _add_states),
        gives={"shard": _grid_shard},
    ),
    EvaluationCommand(
        "attack-point",
        "attack_grid",
        "Attack one point of the grid, for a closer look.",
        calls="grid:attack_point",
        adds=(_add_batch_size, _add_images, _add_point),
        gives={"point": attrgetter("point"), "images": _images},
    ),
    EvaluationCommand(
        "autoattack",
        "autoattack",
        "Run AutoAttack at the strongest point of a decision.",
        calls="autoattack:autoattack",
        adds=(_add_batch_size, _add_part, _add_strongest),
        gives={"part": _part},
    ),
    EvaluationCommand(
        "attack-top",
        "attack_top",
        "Run APGD-CE and Square at the strongest points (Table 4).",
        calls="autoattack:attack_top",
        adds=(_add_batch_size, _add_part, _add_strongest),
        gives={"part": _part},
    ),
    EvaluationCommand(
        "attack-in-loop",
        "attack_in_loop",
        "Attack the strongest points through Sec. 3.2 (Table 3).",
        calls="transfer:attack_in_loop",
        adds=(_add_batch_size, _add_part, _add_other, _add_strongest),
        gives={"part": _part},
    ),
    EvaluationCommand(
        "attack-sweep",
        "attack_sweep",
        "Score attacks on Sec. 3.2 with other T_f and R (Table 5).",
        calls="sweep:attack_sweep",
        adds=(_add_batch_size, _add_part, _add_race, _add_strongest),
        gives={"part": _part, "race": attrgetter("race")},
    ),
    EvaluationCommand(
        "attack-suite",
        "attack_suite",
        "Attack a decision with all that is known of it (Table 11).",
        calls="suite:attack_suite",
        adds=(_add_batch_size, _add_part, _add_select),
        gives={"part": _part, "select": attrgetter("select")},
    ),
    EvaluationCommand(
        "attack-transferred",
        "attack_transferred",
        "Judge all saved images of the suite on every decision of a model.",
        calls="transferred:attack_transferred",
        adds=(_add_batch_size, _add_part, _add_select, _add_saved, _add_own),
        gives={"part": _part, **{name: attrgetter(name) for name in ("select", "saved", "own")}},
    ),
    EvaluationCommand(
        "attack-radius",
        "attack_radius",
        "Attack a decision within balls of other radii (Figure 7).",
        calls="suite:attack_radius",
        adds=(_add_batch_size, _add_part, _add_select),
        gives={"part": _part, "select": attrgetter("select")},
    ),
    EvaluationCommand(
        "attack-ensemble",
        "attack_ensemble",
        "Attack what the networks of all seeds decide together (Table 11).",
        calls="ensemble:attack_ensemble",
        adds=(_add_batch_size, _add_part, _add_select_of_all, _add_saved),
        gives={"part": _part, "select": attrgetter("select"), "saved": attrgetter("saved")},
        together=True,
    ),
    EvaluationCommand(
        "attack-own",
        "attack_own",
        "Attack a decision with an attack that a user's file defines.",
        calls="own:attack_own",
        adds=(_add_batch_size, _add_part, _add_select),
        gives={"part": _part, "select": attrgetter("select")},
    ),
    EvaluationCommand(
        "time-inference",
        "time_inference",
        "Time inference with Sec. 3.2 (Table 10).",
        calls="timing:time_inference",
        adds=(_add_kept,),
        gives=_KEPT,
    ),
    EvaluationCommand(
        "attack-example",
        "attack_example",
        "Craft the images of Figure 2 (c) again, and keep them.",
        calls="example:attack_example",
        adds=(_add_batch_size_of_grid,),
        gives={name: attrgetter(name) for name in ("select", "clean", "grid")},
        inputs=("select", "clean", "grid"),
    ),
)
"""In the order in which --help lists them."""
