"""Trainings watched while they run."""

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Mapping
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
    runs = _runs(options.places)
    shared = Counter(map(_name, runs.values()))
    for folder, lines in sorted(runs.items(), key=lambda run: (_name(run[1]), run[0])):
        print(_line(_name(lines) if shared[_name(lines)] == 1 else f"{_name(lines)} in {folder}", lines))
    if options.tensorboard is not None:
        from deqpipe.training import board

        board.export(_curves(runs, shared), options.tensorboard)
    return 0


def _runs(places: list[Path]) -> "dict[Path, tuple[Interval, ...]]":
    """The lines of every training by its folder: a state and its own published copy are one."""
    from deqpipe.results import metrics

    runs: dict[Path, tuple[Interval, ...]] = {}
    for path in _files(places):
        lines = metrics.read(path)
        same = next((folder for folder, others in runs.items() if _is_copy(lines, others)), path.parent)
        if lines:
            runs[same] = max(lines, runs.get(same, ()), key=len)
    return runs


def _is_copy(one: "tuple[Interval, ...]", other: "tuple[Interval, ...]") -> bool:
    """Whether one goes on where the other ends: times of training differ from any other training's."""
    both = min(len(one), len(other))
    return one[:both] == other[:both]


def _name(lines: "tuple[Interval, ...]") -> str:
    return f"{lines[-1].model}/seed{lines[-1].seed}"


def _curves(
    runs: "Mapping[Path, tuple[Interval, ...]]", shared: Mapping[str, int]
) -> "dict[str, tuple[Interval, ...]]":
    """By names that are folders below one; what share a name are told apart by where they lie."""
    above = Path(os.path.commonpath([folder.resolve() for folder in runs])) if runs else Path()
    return {
        _name(lines)
        if shared[_name(lines)] == 1
        else f"{_name(lines)}-{'-'.join(folder.resolve().relative_to(above).parts)}": lines
        for folder, lines in runs.items()
    }


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
