"""Trainings watched while they run."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqpipe.cli.arguments import add
from deqpipe.errors import UserError

if TYPE_CHECKING:
    from deqpipe.results.metrics import Interval


def register(commands: Any) -> None:
    """Add watch."""
    text = "Say how far trainings are: the last line of every metrics.jsonl below some folders."
    parser = add(commands, "watch", _watch, text)
    what = "state or results folder, or a metrics.jsonl"
    parser.add_argument("places", type=Path, nargs="+", metavar="FOLDER", help=what)
    board = "write all lines as event files for tensorboard --logdir"
    parser.add_argument("--tensorboard", type=Path, metavar="FOLDER", help=board)


def _watch(options: argparse.Namespace) -> int:
    from deqpipe.results import metrics

    runs: dict[str, tuple[Interval, ...]] = {}
    for path in _files(options.places):
        lines = metrics.read(path)
        name = f"{lines[-1].model}/seed{lines[-1].seed}" if lines else ""
        if lines and (name not in runs or lines[-1].step >= runs[name][-1].step):
            runs[name] = lines
    for name in sorted(runs):
        print(_line(name, runs[name]))
    if options.tensorboard is not None:
        from deqpipe.training import board

        board.export({name: runs[name] for name in sorted(runs)}, options.tensorboard)
    return 0


def _files(places: list[Path]) -> Iterator[Path]:
    from deqpipe.results import metrics

    for place in places:
        found = sorted(place.rglob(metrics.NAME)) if place.is_dir() else [place]
        if not found:
            raise UserError(f"folder {place} holds no {metrics.NAME}: a training writes one into its state")
        yield from found


def _line(name: str, lines: "tuple[Interval, ...]") -> str:
    """Where a training is, within 100 columns."""
    last = lines[-1]
    validated = next((one for one in reversed(lines) if one.validation_clean_accuracy is not None), None)
    parts = [f"{name}: step {last.step:,}, epoch {last.epoch}, loss {last.loss:.4f}"]
    if validated is not None:
        robust = validated.validation_robust_accuracy
        parts.append(f"validation {validated.validation_clean_accuracy:.1%}")
        parts += [] if robust is None else [f"under PGD {robust:.1%}"]
    parts += [] if last.images_per_second is None else [f"{last.images_per_second:.0f} images/s"]
    parts += [] if last.peak_share is None else [f"{last.peak_share:.0%} of peak"]
    return ", ".join(parts)
