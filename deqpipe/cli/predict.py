"""Predictions of a DEQ on images of one's own."""

import argparse
import re
from pathlib import Path
from typing import Any

from deqpipe import config
from deqpipe.cli.arguments import add, add_device, add_threads, batch_size
from deqpipe.workflow import specs
from deqpipe.workflow.defences import DECIDING, PLAIN
from deqpipe.workflow.gridpoints import GridPoint

_DEFENCES = tuple(name for name in DECIDING if name != PLAIN.name)


def register(commands: Any) -> None:
    """Add predict."""
    text = "States, logits and gradients of a DEQ on images of your own."
    parser = add(commands, "predict", _predict, text)
    _add_files(parser)
    _add_settings(parser)
    text = (
        "images at once; by default evaluation.batch_size. With the solver of the release images of a batch are coupled"
    )
    parser.add_argument("--batch-size", type=batch_size, help=text)
    add_threads(parser)
    add_device(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="trained or imported by deqpipe")
    text = "x (B, channels, H, W) in [0, 1]; y for gradients"
    parser.add_argument("images", type=Path, metavar="IMAGES.npz", help=text)
    parser.add_argument("output", type=Path, metavar="OUT.npz")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocol", choices=sorted(config.PROTOCOLS), help="paper, unless --config says otherwise")
    text = "settings of a run, such as results/config.yaml, instead of the paper's; several are laid over each other"
    parser.add_argument("--config", type=Path, action="append", default=[], metavar="FILE", help=text)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="what is computed in")
    parser.add_argument("--defence", choices=("none", *_DEFENCES), default="none", help="entropy: Sec. 3.2")
    parser.add_argument("--states", action="store_true", help="write the states themselves, too")
    text = "logits behind z^[i] and their gradient, such as 3,5,0.5; may be given several times"
    parser.add_argument("--surrogate", type=_surrogate, action="append", default=[], metavar="i,K_a,lambda", help=text)


def _surrogate(text: str) -> tuple[str, GridPoint]:
    """The name that its arrays get, and the point."""
    match = re.fullmatch(r"([1-9]\d*),([1-9]\d*),(\d+(?:\.\d+)?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not i,K_a,lambda, such as 3,5,0.5")
    return text.replace(",", "_"), GridPoint(damping=float(match[3]), state=int(match[1]), steps=int(match[2]))


def _predict(options: argparse.Namespace) -> int:
    import torch

    from deqpipe.evaluation.stages.predict import Request, predict
    from deqpipe.machine import device
    from deqpipe.settings import Settings

    settings = _settings(options)
    request = Request(
        settings=Settings(settings),
        defence=PLAIN.name if options.defence == "none" else options.defence,
        surrogates=dict(options.surrogate),
        keep_states=options.states,
        batching=_images_at_once(options, settings["evaluation.batch_size"]),
        dtype=getattr(torch, options.dtype),
        device=device.choose(options.device),
        threads=options.threads,
    )
    predict(request, checkpoint=options.checkpoint, images=options.images, output=options.output)
    return 0


def _images_at_once(options: argparse.Namespace, configured: int | str) -> Any:
    """A `Batching`."""
    from deqpipe.evaluation.batching import Batching

    if options.batch_size:
        return Batching(options.batch_size, key="--batch-size")
    fixed = configured != "auto"
    return Batching(int(configured) if fixed else config.DEFAULT_BATCH, fixed=fixed, key="--batch-size")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What predictions depend on: the paper's settings, or those of config files, under the protocol asked for."""
    from deqpipe.reporting.paper import experiment

    keys = ("solver", "entropy", "threat_model", "attack.unroll", "evaluation.final_unroll_steps",
            "evaluation.batch_size", "precision")  # fmt: skip
    if options.config:
        return specs.pick(config.load(options.config, protocol=options.protocol).model_dump(mode="json"), *keys)
    return specs.pick(experiment.nested(options.protocol or "paper"), *keys)
