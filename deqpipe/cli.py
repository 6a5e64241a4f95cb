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

from deqpipe import __version__, config
from deqpipe.errors import NonFiniteLossError, UserError
from deqpipe.results import records
from deqpipe.workflow import gridpoints, specs, vocabulary
from deqpipe.workflow.stages import STAGES

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
    _add_checkpoints(commands)
    _add_imported(commands)
    _add_evaluation(commands)
    _add_reporting(commands)
    _add_predict(commands)
    _add_plan(commands)
    _add_trial(commands)
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
    _add_ways(parser)


def _add_ways(parser: argparse.ArgumentParser) -> None:
    text = "compile f; auto: on CUDA, where it gives the same and is faster"
    parser.add_argument("--compile", choices=("auto", "true", "false"), default="auto", help=text)
    text = "replay attack steps as CUDA graphs; auto: likewise"
    parser.add_argument("--graphs", choices=("auto", "true", "false"), default="auto", help=text)
    text = "folder that keeps what auto found out about this device; without it, every job finds out anew"
    parser.add_argument("--verdicts", type=Path, metavar="FOLDER", help=text)


def _ways(options: argparse.Namespace) -> Any:
    from deqpipe.compute.ways import Asked

    switch = {"auto": None, "true": True, "false": False}
    return Asked(compiled=switch[options.compile], graphs=switch[options.graphs], verdicts=options.verdicts)


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
    spec.add_argument("stage", choices=sorted(STAGES))
    spec.add_argument("files", type=Path, nargs="+", help="config files, later ones laid over earlier ones")
    spec.add_argument("--model", choices=tuple(vocabulary.MODELS))
    spec.add_argument("--seed", type=int)
    spec.add_argument("--defence", choices=("plain", "entropy"), help="for stage autoattack")


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


def _add_checkpoints(commands: Any) -> None:
    text = "Make a checkpoint of the authors' release, or of a CIFAR model of locuslab/deq, one of ours."
    parser = _add(commands, "import-checkpoint", _import_checkpoint, text)
    parser.add_argument("source", type=Path, metavar="SRC", help="a file of torch.save; none of its code is run")
    parser.add_argument("target", type=Path, metavar="DST", help="the safetensors file to write")
    groups = "of every GroupNorm in f; no file tells, and without it the possible numbers are named"
    parser.add_argument("--groups", type=_positive_int, help=groups)
    parser.add_argument("--image-size", type=_positive_int, default=32, metavar="PIXELS", help="height and width")
    parser.add_argument("--dropout", type=_not_negative, default=0.22, help="of f, in training")
    names = "of the classes, with commas between; by default CIFAR-10's where it can be CIFAR-10, else numbers"
    parser.add_argument("--classes", type=_names, metavar="NAMES", help=names)
    model = "what it is to the evaluation commands; they take no model without --model and --seed"
    parser.add_argument("--model", choices=(vocabulary.TRUNK, *vocabulary.DEQS), help=model)
    parser.add_argument("--seed", type=int, help="which repetition of the model it is")
    parser = _add(commands, "export-checkpoint", _export_checkpoint, "Write a DEQ's checkpoint as the release does.")
    parser.add_argument("source", type=Path, metavar="SRC", help="a safetensors file, trained here or imported")
    parser.add_argument("target", type=Path, metavar="DST", help="the file of torch.save to write")
    form = "with or without epoch and so on around the tensors; by default as it was imported, else checkpoint"
    parser.add_argument("--form", choices=("checkpoint", "state_dict"), help=form)
    spelling = "how weight norm is spelled; by default as it was imported, else weight_g"
    parser.add_argument("--names", choices=("weight_g", "parametrizations"), help=spelling)


def _add_imported(commands: Any) -> None:
    parser = _add(commands, "use-imported", _use_imported, "Take an imported DEQ into the workflow, if it fits.")
    parser.add_argument("--spec", type=_json_object, required=True, help="which model, architecture and seed")
    _add_paths(parser, "data", "checkpoint", "output")


def _add_evaluation(commands: Any) -> None:
    for name, stage, text in (
        ("select-early-state", "select", "Choose the state that decides, on the held-out images."),
        ("clean", "clean", "Judge the test images as they are."),
        ("attack-pgd", "attack_pgd", "Attack at the final state."),
        ("attack-grid", "attack_grid", "Attack a part of the grid of Eq. (11)."),
        ("attack-point", "attack_grid", "Attack one point of the grid, for a closer look."),
        ("autoattack", "autoattack", "Run AutoAttack at the strongest point of a decision."),
        ("attack-top", "attack_top", "Run APGD-CE and Square at the strongest points (Table 4)."),
        ("attack-in-loop", "attack_in_loop", "Attack the strongest points through Sec. 3.2 (Table 3)."),
        ("attack-sweep", "attack_sweep", "Score attacks on Sec. 3.2 with other T_f and R (Table 5)."),
        ("time-inference", "time_inference", "Time inference with Sec. 3.2 (Table 10)."),
    ):
        parser = _add(commands, name, _evaluate, text)
        parser.set_defaults(verb=name)
        _add_job(parser, (stage,))
        _add_paths(parser, "data", "checkpoint", "output")
        if name != "time-inference":
            text = "images at once, or auto: as many as fit into memory"
            parser.add_argument("--batch-size", type=_batch_size, required=True, metavar="N", help=text)
        if name in _PARTS or name == "attack-point":
            parser.add_argument("--images", type=_range, required=True, metavar="FIRST-LAST")
        if name in _PARTS:
            _add_paths(parser, "state")
            _add_budget(parser)
        if name in ("attack-grid", "attack-in-loop"):
            text = "the other TRADES DEQ, whose decisions the images are scored on as well"
            parser.add_argument("--other", type=Path, metavar="CHECKPOINT", help=text)
        if name in ("attack-grid", "attack-sweep"):
            text = "what `deqpipe race` left of the points; without it, all of them"
            parser.add_argument("--race", type=Path, metavar="FILE", help=text)
        if name in ("autoattack", "attack-top", "attack-in-loop", "attack-sweep"):
            text = "the ranked points of the grid, as `deqpipe strongest` writes them"
            parser.add_argument("--strongest", type=Path, metavar="FILE", help=text)
        if name == "attack-grid":
            parser.add_argument("--states", type=_range, required=True, metavar="FIRST-LAST")
        if name == "attack-point":
            parser.add_argument("--point", type=_point, required=True, help="such as state3_steps5_damping0.5")
    example = _add(commands, "attack-example", _example, "Craft the images of Figure 2 (c) again, and keep them.")
    _add_job(example, ("attack_example",))
    _add_paths(example, "data", "checkpoint", "select", "clean", "grid", "output")
    example.add_argument("--batch-size", type=_batch_size, required=True, help="as the grid was computed with")
    timing = _add(commands, "time-training", _time_training, "Time training steps of the four methods (Table 9).")
    _add_job(timing, ("time_training",))
    _add_paths(timing, "data", "trunk", "output")


_PARTS = ("attack-grid", "autoattack", "attack-top", "attack-in-loop", "attack-sweep")


def _add_reporting(commands: Any) -> None:
    for name, text in (("table", "Write a table."), ("figure", "Draw a figure.")):
        parser = _add(commands, name, _table if name == "table" else _figure, text)
        parser.add_argument("number", type=int)
        _add_paths(parser, "config", "results", "output-stem")
    for name, text in (
        ("strongest", "Rank the points of the grid by the accuracy of each decision."),
        ("race", "Say which points could still be the strongest (racing)."),
    ):
        parser = _add(commands, name, _strongest if name == "strongest" else _race, text)
        parser.add_argument("--model", choices=vocabulary.DEQS, required=True)
        parser.add_argument("--seed", type=int, required=True)
        if name == "race":
            parser.add_argument("--of", choices=("grid", "sweep"), default="grid", help="which attacks race")
        parser.add_argument("--configuration", type=_json_object, required=True, help="the whole of it, as JSON")
        _add_paths(parser, "results", "output")
    report = _add(commands, "report", _report, "Write the report.")
    _add_paths(report, "config", "results", "output")
    show = _add(commands, "show-table", _show_table, "Print a table that is already written.")
    show.add_argument("number", type=int)
    _add_paths(show, "results")


def _add_predict(commands: Any) -> None:
    text = "States, logits and gradients of a DEQ on images of your own."
    parser = _add(commands, "predict", _predict, text)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="trained or imported by deqpipe")
    parser.add_argument(
        "images", type=Path, metavar="IMAGES.npz", help="x (B, channels, H, W) in [0, 1]; y for gradients"
    )
    parser.add_argument("output", type=Path, metavar="OUT.npz")
    parser.add_argument("--protocol", choices=sorted(config.PROTOCOLS), help="paper, unless --config says otherwise")
    text = "settings of a run, such as results/config.yaml, instead of the paper's; several are laid over each other"
    parser.add_argument("--config", type=Path, action="append", default=[], metavar="FILE", help=text)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="what is computed in")
    parser.add_argument("--defence", choices=("none", "entropy"), default="none", help="entropy: Sec. 3.2")
    parser.add_argument("--states", action="store_true", help="write the states themselves, too")
    text = "logits behind z^[i] and their gradient, such as 3,5,0.5; may be given several times"
    parser.add_argument("--surrogate", type=_surrogate, action="append", default=[], metavar="i,K_a,lambda", help=text)
    text = (
        "images at once; by default evaluation.batch_size. With the solver of the release images of a batch are coupled"
    )
    parser.add_argument("--batch-size", type=_batch_size, help=text)
    parser.add_argument("--threads", type=_positive_int, default=1, help="threads of the CPU")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _add_plan(commands: Any) -> None:
    text = "Say per rule what a run would cost on this machine, and what is done already."
    parser = _add(commands, "plan", _plan, text)
    parser.add_argument(
        "--configfile", type=Path, action="append", default=[], metavar="F", help="overlay of config.yaml"
    )
    parser.add_argument("--cores", type=_positive_int, help="cores to plan for; by default all of this machine")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _add_trial(commands: Any) -> None:
    text = "Run the workflow for at most so long, and write the tables that its results allow."
    parser = _add(commands, "trial", _trial, text)
    overlay = "overlay of config.yaml"
    parser.add_argument("--configfile", type=Path, action="append", default=[], metavar="F", help=overlay)
    parser.add_argument("--seconds", type=_positive, default=math.inf, help="then it is stopped; it can go on later")
    parser.add_argument("--gpu-jobs", type=_positive_int, default=1, metavar="N", help="jobs that share the GPU")


def _positive_int(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _batch_size(text: str) -> int | None:
    """None: as many images as fit."""
    return None if text == "auto" else _positive_int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


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


def _point(text: str) -> gridpoints.GridPoint:
    try:
        return gridpoints.GridPoint.parse(text)
    except UserError as error:  # a ValueError, whose text argparse would swallow
        raise argparse.ArgumentTypeError(str(error)) from None


def _surrogate(text: str) -> tuple[str, gridpoints.GridPoint]:
    """The name that its arrays get, and the point."""
    match = re.fullmatch(r"([1-9]\d*),([1-9]\d*),(\d+(?:\.\d+)?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not i,K_a,lambda, such as 3,5,0.5")
    return text.replace(",", "_"), gridpoints.GridPoint(
        damping=float(match[3]), state=int(match[1]), steps=int(match[2])
    )


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
        value = STAGES[spec["stage"]]
        wanted = {"config", "upstream", *(("seed",) if value.seeded else ()), *(("model",) if value.models else ())}
        if not wanted <= spec.keys():
            lacking = ", ".join(sorted(wanted - spec.keys()))
            raise argparse.ArgumentTypeError(f"spec of stage {stage} lacks {lacking}; `deqpipe spec` prints one")
        if spec.get("revision") != value.revision:
            raise argparse.ArgumentTypeError(f"spec has revision {spec.get('revision')}, but this is {value.revision}")
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
    built = specs.build(options.stage, loaded, model=options.model, seed=options.seed, defence=options.defence)
    print(specs.dumps(built))
    return 0


def _prepare_data(options: argparse.Namespace) -> int:
    from deqpipe import data
    from deqpipe.results.provenance import provenance

    settings = options.spec["config"]
    dataset = data.prepare(settings["data.source"], options.root, validation=settings["data.validation"])
    # No seconds: images prepared again must be the same file, or everything after them would run again.
    data.save(options.output, dataset, provenance=provenance(options.spec, device="CPU", inputs={}, seconds=0.0))
    return 0


def _train(options: argparse.Namespace) -> int:
    from deqpipe.machine import device
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
        ways=_ways(options),
        budget_minutes=options.time_budget_minutes,
        save_interval=options.save_interval,
    )
    verbs = {"pretrain": run.pretrain, "train_deq": run.train_deq, "train_resnet": run.train_resnet}
    return verbs[options.stage](job)


def _import_checkpoint(options: argparse.Namespace) -> int:
    from deqpipe.model import convert
    from deqpipe.model.release.inference import Told

    told = Told(
        groups=options.groups,
        image_size=options.image_size,
        dropout=options.dropout,
        classes=options.classes,
        model=options.model,
        seed=options.seed,
    )
    print(*convert.import_checkpoint(options.source, options.target, told), sep="\n")
    return 0


def _export_checkpoint(options: argparse.Namespace) -> int:
    from deqpipe.model import convert

    print(convert.export_checkpoint(options.source, options.target, form=options.form, weight_norm=options.names))
    return 0


def _use_imported(options: argparse.Namespace) -> int:
    from deqpipe import data
    from deqpipe.model import adopt

    adopt.adopt(options.checkpoint, options.output, spec=options.spec, dataset=data.load(options.data))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from deqpipe.evaluation import autoattack, jobs, resumable, sweep, timing, transfer

    job = _job(options)
    if options.verb in _PARTS:
        part = resumable.Part(_images(options), options.state, options.time_budget_minutes)
        if options.verb == "attack-grid":
            return jobs.attack_grid(job, jobs.GridShard(options.states, part, options.race))
        if options.verb == "attack-sweep":
            return sweep.attack_sweep(job, part, race=options.race)
        parts = {
            "autoattack": autoattack.autoattack,
            "attack-top": autoattack.attack_top,
            "attack-in-loop": transfer.attack_in_loop,
        }
        return parts[options.verb](job, part)
    if options.verb == "attack-point":
        return jobs.attack_point(job, point=options.point, images=_images(options))
    plain = {
        "clean": jobs.clean, "attack-pgd": jobs.attack_pgd, "select-early-state": jobs.select_early_state,
        "time-inference": timing.time_inference,
    }  # fmt: skip
    return plain[options.verb](job)


def _job(options: argparse.Namespace) -> Any:
    from deqpipe.evaluation.evaluated_model import Job
    from deqpipe.machine import device

    return Job(
        spec=options.spec,
        data=options.data,
        checkpoint=options.checkpoint,
        output=options.output,
        device=device.choose(options.device),
        threads=options.threads,
        ways=_ways(options),
        batch_size=options.batch_size
        if hasattr(options, "batch_size")
        else options.spec["config"]["timing"]["batch_size"],
        other=getattr(options, "other", None),
        strongest=getattr(options, "strongest", None),
    )


def _example(options: argparse.Namespace) -> int:
    from deqpipe.evaluation.example import attack_example

    return attack_example(_job(options), select=options.select, clean=options.clean, grid=options.grid)


def _time_training(options: argparse.Namespace) -> int:
    from deqpipe.machine import device
    from deqpipe.training import timing

    job = timing.Job(
        spec=options.spec,
        data=options.data,
        trunk=options.trunk,
        output=options.output,
        device=device.choose(options.device),
        threads=options.threads,
        ways=_ways(options),
    )
    return timing.time_training(job)


def _strongest(options: argparse.Namespace) -> int:
    from deqpipe.analysis import ranking
    from deqpipe.analysis.decisions import Tree

    tree = Tree(options.results, config.parse(options.configuration), options.seed)
    ranking.write(tree, options.model, output=options.output)
    return 0


def _race(options: argparse.Namespace) -> int:
    from deqpipe.analysis import race
    from deqpipe.analysis.decisions import Tree

    tree = Tree(options.results, config.parse(options.configuration), options.seed)
    race.write(tree, options.model, of=options.of, output=options.output)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from deqpipe import planning

    return planning.plan(options.configfile, cores=options.cores, device=options.device)


def _trial(options: argparse.Namespace) -> int:
    from deqpipe import trial

    return trial.trial(options.configfile, seconds=options.seconds, gpu_jobs=options.gpu_jobs)


def _images(options: argparse.Namespace) -> range:
    first, last = options.images
    return range(first, last + 1)


def _predict(options: argparse.Namespace) -> int:
    import torch

    from deqpipe.evaluation.predict import Request, predict
    from deqpipe.machine import device
    from deqpipe.settings import Settings

    settings = _prediction_settings(options)
    request = Request(
        settings=Settings(settings),
        defence="plain" if options.defence == "none" else "entropy",
        surrogates=dict(options.surrogate),
        keep_states=options.states,
        batch_size=_images_at_once(options, settings["evaluation.batch_size"]),
        dtype=getattr(torch, options.dtype),
        device=device.choose(options.device),
        threads=options.threads,
    )
    predict(request, checkpoint=options.checkpoint, images=options.images, output=options.output)
    return 0


def _images_at_once(options: argparse.Namespace, configured: int | str) -> int:
    return options.batch_size or (config.DEFAULT_BATCH if configured == "auto" else int(configured))


def _prediction_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What predictions depend on: the paper's settings, or those of config files, under the protocol asked for."""
    from deqpipe.reporting.paper import experiment

    keys = ("solver", "entropy", "threat_model", "attack.unroll", "evaluation.final_unroll_steps",
            "evaluation.batch_size", "precision")  # fmt: skip
    if options.config:
        return specs.pick(config.load(options.config, protocol=options.protocol).model_dump(mode="json"), *keys)
    return specs.pick(experiment.nested(options.protocol or "paper"), *keys)


def _table(options: argparse.Namespace) -> int:
    from deqpipe.reporting.tables import tables

    tables.write(options.number, config.load([options.config]), options.results, output_stem=options.output_stem)
    return 0


def _figure(options: argparse.Namespace) -> int:
    from deqpipe.reporting.figures import figures

    figures.write(options.number, config.load([options.config]), options.results, output_stem=options.output_stem)
    return 0


def _report(options: argparse.Namespace) -> int:
    from deqpipe.reporting.report import report

    report.write(config.load([options.config]), options.results, options.output)
    return 0


def _show_table(options: argparse.Namespace) -> int:
    from deqpipe.reporting.tables import tables

    print(tables.text(options.number, options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
