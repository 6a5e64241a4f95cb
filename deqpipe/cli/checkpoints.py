"""Models of other code in and out: checkpoints imported, exported, and taken into the workflow."""

import argparse
from pathlib import Path
from typing import Any

from deqpipe.cli.arguments import add, add_paths, json_object, not_negative, positive_int
from deqpipe.workflow import vocabulary


def register(commands: Any) -> None:
    """Add import-checkpoint, export-checkpoint and use-imported."""
    _add_import(commands)
    _add_export(commands)
    parser = add(commands, "use-imported", _use_imported, "Take an imported DEQ into the workflow, if it fits.")
    parser.add_argument("--spec", type=json_object, required=True, help="which model, architecture and seed")
    add_paths(parser, "data", "checkpoint", "output")


def _add_import(commands: Any) -> None:
    text = "Make a checkpoint of the authors' release, or of a CIFAR model of locuslab/deq, one of ours."
    parser = add(commands, "import-checkpoint", _import_checkpoint, text)
    parser.add_argument("source", type=Path, metavar="SRC", help="a file of torch.save; none of its code is run")
    parser.add_argument("target", type=Path, metavar="DST", help="the safetensors file to write")
    text = "of every GroupNorm in f; no file tells, and without it the possible numbers are named"
    parser.add_argument("--groups", type=positive_int, help=text)
    parser.add_argument("--image-size", type=positive_int, default=32, metavar="PIXELS", help="height and width")
    parser.add_argument("--dropout", type=not_negative, default=0.22, help="of f, in training")
    text = "of the classes, with commas between; by default CIFAR-10's where it can be CIFAR-10, else numbers"
    parser.add_argument("--classes", type=_names, metavar="NAMES", help=text)
    text = "what it is to the evaluation commands; they take no model without --model and --seed"
    parser.add_argument("--model", choices=(vocabulary.TRUNK, *vocabulary.DEQS), help=text)
    parser.add_argument("--seed", type=int, help="which repetition of the model it is")


def _add_export(commands: Any) -> None:
    parser = add(commands, "export-checkpoint", _export_checkpoint, "Write a DEQ's checkpoint as the release does.")
    parser.add_argument("source", type=Path, metavar="SRC", help="a safetensors file, trained here or imported")
    parser.add_argument("target", type=Path, metavar="DST", help="the file of torch.save to write")
    text = "with or without epoch and so on around the tensors; by default as it was imported, else checkpoint"
    parser.add_argument("--form", choices=("checkpoint", "state_dict"), help=text)
    text = "how weight norm is spelled; by default as it was imported, else weight_g"
    parser.add_argument("--names", choices=("weight_g", "parametrizations"), help=text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _import_checkpoint(options: argparse.Namespace) -> int:
    from deqpipe.model import convert
    from deqpipe.model.release.inference import ImportOptions

    told = ImportOptions(
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
