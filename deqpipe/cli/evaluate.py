"""How robust somebody's own model is."""

import argparse
import logging
import math
from pathlib import Path
from typing import Any

from deqpipe.cli.arguments import add, add_device, add_threads, positive, positive_int
from deqpipe.machine.stopping import EXIT_UNFINISHED, Interrupted
from deqpipe.workflow.endings import GO_ON

_logger = logging.getLogger(__name__)


def register(commands: Any) -> None:
    """Add evaluate."""
    text = (
        "Evaluate a model of your own: clean accuracy, AutoAttack, attacks that know its solver and defence, sanity "
        "checks. The model's file is run; a checkpoint is only read."
    )
    parser = add(commands, "evaluate", _evaluate, text)
    parser.add_argument("model", type=Path, metavar="MODEL.py", help="gives `model` a value or defines load(tensors)")
    parser.add_argument("checkpoint", type=Path, nargs="?", metavar="CHECKPOINT", help="its weights")
    help_ = "npz file with x in [0, 1] and y, or a dataset.safetensors, whose test images are taken"
    parser.add_argument("--data", type=Path, required=True, help=help_)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where it goes on when stopped")
    parser.add_argument("--images", type=positive_int, metavar="N", help="the first so many only")
    parser.add_argument("--epsilon-255", type=positive, metavar="E", help="radius of the ball, in 1/255 (default: 8)")
    parser.add_argument("--effort", choices=("quick", "standard", "thorough"), default="standard")
    parser.add_argument("--mode", choices=("standard", "individual"), default="standard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N", help="images at once")
    help_ = "how long all tries together may compute; the strongest attacks come first, and what is left out is said"
    parser.add_argument("--budget-minutes", type=positive, default=math.inf, metavar="MINUTES", help=help_)
    add_threads(parser)
    add_device(parser)


def _evaluate(options: argparse.Namespace) -> int:
    from deqpipe.foreign import evaluation, loading
    from deqpipe.foreign.evaluation import Options
    from deqpipe.machine import device

    where = device.choose(options.device)
    device.set_up(precision="fp32", threads=options.threads)
    x, y = loading.read_images(options.data, options.images)
    described = loading.read_description(options.model, options.checkpoint)
    described = evaluation.with_epsilon(described, options.epsilon_255)
    asked = Options(options.effort, options.mode, options.seed, options.batch_size, options.budget_minutes)
    try:
        evaluated = evaluation.run(described, *evaluation.to_device(x, y, where), asked, options.output)
    except Interrupted as why:
        _logger.info("%s: what is finished is kept in %s; %s", why.reason, options.output, GO_ON)
        return EXIT_UNFINISHED
    for text in evaluated.warnings:
        _logger.warning("%s", text)
    clean, union = evaluated.card["clean"], evaluated.card["union"]
    print(
        f"{described.name}: {clean['right']} of {clean['n']} right when clean, {union['right']} under every attack "
        f"that ran; {options.output / evaluation.PAGE}"
    )
    return 0
