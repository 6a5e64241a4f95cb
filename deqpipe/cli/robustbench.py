"""A hand-in to RobustBench."""

import argparse
import re
from pathlib import Path
from typing import Any

from deqpipe.cli.arguments import add, add_device, add_threads, not_negative, positive_int
from deqpipe.workflow.defences import DEFENCES, PLAIN


def register(commands: Any) -> None:
    """Add export-robustbench."""
    text = "Write a network as RobustBench takes it: one module, weights, model_info, and a script that measures it."
    parser = add(commands, "export-robustbench", _export, text)
    parser.add_argument("source", type=Path, metavar="CHECKPOINT", help="a safetensors file, trained here or imported")
    parser.add_argument("target", type=Path, metavar="FOLDER", help="to be made")
    _add_decision(parser)
    _add_claim(parser)
    _add_measurement(parser)


def _add_decision(parser: argparse.ArgumentParser) -> None:
    text = "a resolved config.yaml; by default that of the results folder that CHECKPOINT lies in, else the paper's"
    parser.add_argument("--configuration", type=Path, metavar="FILE", help=text)
    text = "which state decides, from 1 on, or final; by default the early state that was chosen for CHECKPOINT"
    parser.add_argument("--state", type=_state, help=text)
    text = "whose decision; RobustBench takes the undefended one alone, and others are refused with the reason"
    parser.add_argument("--defence", choices=tuple(DEFENCES), default=PLAIN.name, help=text)


def _add_claim(parser: argparse.ArgumentParser) -> None:
    text = "of the model: first author, year, first word of the title"
    parser.add_argument("--name", type=_name, default="Yang2023Improving", help=text)
    parser.add_argument("--title", help="of the paper; by default that of the ICML 2023 paper, as in what follows")
    parser.add_argument("--link", default="https://arxiv.org/abs/2306.01435", help="to the paper")
    parser.add_argument("--authors", default="Zonghan Yang, Peng Li, Tianyu Pang, Yang Liu", help="with commas between")
    parser.add_argument("--venue", default="ICML 2023", help="where and when the paper came out")
    parser.add_argument(
        "--additional-data", action="store_true", help="more than the dataset's training images was used"
    )
    parser.add_argument("--reported", type=not_negative, metavar="PERCENT", help="robust accuracy in the paper, if any")
    text = "robust accuracy under the strongest attack that is known, where AutoAttack leaves more"
    parser.add_argument("--external", type=not_negative, metavar="PERCENT", help=text)
    parser.add_argument("--footnote", default="", metavar="TEXT", help="to be added to what the leaderboard says below")


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    text = "measure both accuracies now, on the first N test images; without it they stay null"
    parser.add_argument("--measure", type=positive_int, metavar="N", help=text)
    text = (
        "where CIFAR-10 is or is downloaded to; of other images a folder with test/CLASS/*, or an npz file of x and y"
    )
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"), help=text)
    parser.add_argument("--batch-size", type=positive_int, default=250, help="images at once")
    add_threads(parser)
    add_device(parser)


def _state(text: str) -> int | str:
    return text if text == "final" else positive_int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of letters, digits, _ and -, such as Yang2023Improving")
    return text


def _export(options: argparse.Namespace) -> int:
    from deqpipe.machine import device
    from deqpipe.robustbench.contents import TITLE, Claim
    from deqpipe.robustbench.export import Measurement, export

    claim = Claim(
        name=options.name,
        title=options.title or TITLE,
        link=options.link,
        authors=options.authors,
        venue=options.venue,
        additional_data=options.additional_data,
        reported=options.reported,
        external=options.external,
        footnote=options.footnote,
    )
    where = str(device.choose(options.device))
    measurement = Measurement(options.measure, options.data, options.batch_size, where) if options.measure else None
    lines = export(
        options.source, options.target, claim, configuration=options.configuration, state=options.state,
        defence=options.defence, measurement=measurement,
    )  # fmt: skip
    for line in lines:
        print(line)
    return 0
