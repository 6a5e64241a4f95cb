"""Every job that computes, at a size that takes a second: their command lines, and what they come to undisturbed."""

import argparse
import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from deqpipe import cli, data
from deqpipe.config import Config, merge
from deqpipe.data import Dataset
from deqpipe.results import ranking
from deqpipe.workflow import specs, vocabulary
from deqpipe.workflow.defences import DECIDING
from deqpipe.workflow.gridpoints import grid_points, ready_made
from tests import tiny
from tests.faults import children

PGD_AT, RANDOM, OTHER, FEEDFORWARD = (
    "deq_pgd_at_base", "deq_trades_random_states", "deq_trades_base", "resnet18_pgd_at",
)  # fmt: skip
MICRO: dict[str, Any] = {
    "pretrain": {"steps": 4},
    "training": {"epochs": 3},
    "jacobian": {"stop_epoch": 2},
    "resnet": {"training": {"epochs": 2}},
    "attack": {"grid": {"states": [1, 3], "steps": [1], "damping": [0.5]}, "in_loop_points": 1},
    "autoattack": {
        "iterations": 2, "targets": 2, "queries": 3, "batch_size": 6, "images_per_job": 12, "square_images": 9,
        "restarts": 1, "top_points": 1,
    },
    "entropy_sweep": {"solver_steps": [1, 2], "input_steps": [1], "points": 1},
    "timing": {"batch_size": 8, "warmup": 1, "repeats": 3},
}  # fmt: skip
"""Laid over tests/tiny.py: few of everything."""


@dataclass(frozen=True)
class World:
    """The images and settings that jobs run with.

    Attributes:
        folder: of what undisturbed jobs have left, one folder each.
        config: of the jobs.
        batch_size: images at once, of evaluations.
        images: what is trained and evaluated on.
        prepared: where other jobs have left what jobs need; None: in `folder`.
    """

    folder: Path
    config: Config = field(default_factory=lambda: tiny.settings(MICRO))
    batch_size: int = 5
    images: Callable[[], Dataset] = tiny.dataset
    prepared: Path | None = None

    def spec(self, stage: Any, model: str | None = None) -> str:
        """A job's spec as JSON."""
        defence: Any = "plain" if stage == "autoattack" else None
        return specs.dumps(specs.build(stage, self.config, model=model, seed=0, defence=defence))

    def spec_of(self, name: str) -> str:
        """The spec that a job gets on its command line."""
        arguments = JOBS[name].arguments(self, Path())
        return arguments[arguments.index("--spec") + 1]

    @property
    def data_file(self) -> Path:
        """The images, as `prepare-data` would leave them."""
        return self.folder / "data.safetensors"

    def made(self, job: str) -> Path:
        """Where a job that others need has left its files."""
        return (self.prepared or self.folder) / job

    def weights(self, job: str) -> Path:
        """What a training has left."""
        return self.made(job) / "best.safetensors"

    @property
    def trunk(self) -> Path:
        """What pretraining hands over."""
        return self.made("pretrain") / "handoff.safetensors"

    def strongest(self, model: str) -> Path:
        """Ranked points, as `deqpipe strongest` would write them."""
        return self.folder / f"strongest_{model}.json"

    @property
    def images_file(self) -> Path:
        """Images to predict."""
        return self.folder / "images.npz"

    def write_inputs(self) -> None:
        """Make the files that no job leaves: the images, those to predict, and ranked points."""
        if self.images_file.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        images = self.images()
        data.save(self.data_file, images, provenance={})
        for model in (PGD_AT, RANDOM):
            self._write_ranking(model)
        shape = (self.batch_size, *images.image_shape)
        drawn = np.random.default_rng(0).random(shape, dtype=np.float32)
        np.savez(self.images_file, x=drawn, y=np.zeros(self.batch_size, np.int64))

    def _write_ranking(self, model: str) -> None:
        points = (ready_made(self.config), *grid_points(self.config))
        ranked = tuple(ranking.RankedPoint(point, correct=1, n=2) for point in dict.fromkeys(points))
        early = {str(defence): self.config.solver.steps for defence in DECIDING}
        found = ranking.Ranking(early, dict.fromkeys(early, ranked))
        ranking.write(self.strongest(model), found, {"spec": {"stage": "strongest", "model": model, "seed": 0}})

    @property
    def last_image(self) -> int:
        """Of those that are evaluated."""
        return self.config.evaluation.images - 1


Line = Callable[[World, Path], list[object]]


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        name: of it.
        line: its command line, for a folder that it writes into.
        needs: jobs that run before it.
        outputs: files that it publishes there.
        timed: what it puts out are times, which differ from run to run.
        replaces: outputs that are there already; otherwise it refuses to run.
    """

    name: str
    line: Line
    needs: tuple[str, ...]
    outputs: tuple[str, ...]
    timed: bool = False
    replaces: bool = True

    def arguments(self, world: World, folder: Path) -> list[str]:
        """Its command line as texts."""
        return [str(part) for part in self.line(world, folder)]


def _training(verb: str, stage: str, model: str | None, *more: str, trunk: bool = False) -> Line:
    names = ("best", "last", *more)

    def line(world: World, folder: Path) -> list[object]:
        files = [part for name in names for part in (f"--{name}", folder / f"{name}.safetensors")]
        start = ["--trunk", world.trunk] if trunk else []
        state = ["--state", folder / "state", "--save-interval", 0]
        spec = ["--spec", world.spec(stage, model), "--data", world.data_file]
        return [verb, *spec, *start, *state, *files, "--history", folder / "history.csv"]

    return line


def accepts(verb: str, option: str) -> bool:
    """Whether a command has an option."""
    return option in _options(verb)


@cache
def _options(verb: str) -> frozenset[str]:
    (commands,) = (a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return frozenset(option for action in commands.choices[verb]._actions for option in action.option_strings)


def _evaluation(verb: str, stage: str, model: str, of: str, output: str, *, strongest: bool = False) -> Line:
    def line(world: World, folder: Path) -> list[object]:
        files = ["--data", world.data_file, "--checkpoint", world.weights(of), "--output", folder / output]
        swept_whole = verb == "attack-sweep" and world.config.entropy_sweep.points == "all"
        given: dict[str, object] = {
            "--batch-size": world.batch_size,
            "--images": f"0-{world.last_image}",
            "--state": folder / "state",
            "--states": f"1-{world.config.solver.steps}",
            "--strongest": world.strongest(model) if strongest and not swept_whole else None,
            "--other": world.weights(f"train-deq {OTHER}") if verb == "attack-in-loop" else None,
            "--select": world.made("select-early-state") / "out.json",
            "--clean": world.made("clean") / "out.parquet",
            "--grid": world.made("attack-grid"),
        }
        options = [part for name, value in given.items() if value and accepts(verb, name) for part in (name, value)]
        return [verb, "--spec", world.spec(stage, model), *files, *options]

    return line


def _time_training(world: World, folder: Path) -> list[object]:
    files = ["--data", world.data_file, "--trunk", world.trunk]
    return [
        "time-training",
        "--spec",
        world.spec("time_training"),
        *files,
        "--output",
        folder / "out.json",
        "--state",
        folder / "state",
    ]


def _predict(world: World, folder: Path) -> list[object]:
    surrogate = ["--surrogate", "1,2,0.5", "--defence", "entropy"]
    return ["predict", world.weights("train-deq"), world.images_file, folder / "out.npz", *surrogate]


_TRAINED = ("best.safetensors", "last.safetensors", "history.csv")
_ROWS, _JSON, _SHARD = ("out.parquet",), ("out.json",), "states1-4_images0-11.parquet"
JOBS: Mapping[str, Job] = {
    job.name: job
    for job in (
        Job("pretrain", _training("pretrain", "pretrain", None, "handoff"), (), (*_TRAINED, "handoff.safetensors")),
        *(
            Job(name, _training("train-deq", "train_deq", model, trunk=True), ("pretrain",), _TRAINED)
            for name, model in (("train-deq", PGD_AT), *((f"train-deq {m}", m) for m in (RANDOM, OTHER)))
        ),
        Job("train-feedforward", _training("train-feedforward", "train_feedforward", FEEDFORWARD), (), _TRAINED),
        Job(
            "select-early-state", _evaluation("select-early-state", "select", PGD_AT, "train-deq", "out.json"),
            ("train-deq",), _JSON,
        ),
        Job("clean", _evaluation("clean", "clean", PGD_AT, "train-deq", "out.parquet"), ("train-deq",), _ROWS),
        Job(
            "attack-pgd", _evaluation("attack-pgd", "attack_pgd", FEEDFORWARD, "train-feedforward", "out.parquet"),
            ("train-feedforward",), _ROWS,
        ),
        Job(
            "attack-grid", _evaluation("attack-grid", "attack_grid", PGD_AT, "train-deq", _SHARD),
            ("train-deq",), (_SHARD,),
        ),
        Job(
            "autoattack", _evaluation("autoattack", "autoattack", PGD_AT, "train-deq", "out.parquet", strongest=True),
            ("train-deq",), _ROWS,
        ),
        Job(
            "attack-top",
            _evaluation("attack-top", "attack_top", RANDOM, f"train-deq {RANDOM}", "out.parquet", strongest=True),
            (f"train-deq {RANDOM}",), _ROWS,
        ),
        Job(
            "attack-in-loop",
            _evaluation(
                "attack-in-loop", "attack_in_loop", RANDOM, f"train-deq {RANDOM}", "out.parquet", strongest=True
            ),
            (f"train-deq {RANDOM}", f"train-deq {OTHER}"), _ROWS,
        ),
        Job(
            "attack-sweep",
            _evaluation("attack-sweep", "attack_sweep", RANDOM, f"train-deq {RANDOM}", "out.parquet", strongest=True),
            (f"train-deq {RANDOM}",), _ROWS,
        ),
        Job(
            "attack-example", _evaluation("attack-example", "attack_example", PGD_AT, "train-deq", "out.npz"),
            ("select-early-state", "clean", "attack-grid"), ("out.npz",),
        ),
        Job("time-training", _time_training, ("pretrain",), _JSON, timed=True),
        Job(
            "time-inference",
            _evaluation("time-inference", "time_inference", vocabulary.SWEEP_MODEL, f"train-deq {RANDOM}", "out.json"),
            (f"train-deq {RANDOM}",), _JSON, timed=True,
        ),
        Job("predict", _predict, ("train-deq",), ("out.npz",)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Undisturbed:
    """A job that nothing happened to.

    Attributes:
        folder: that it wrote into.
        seconds: that it took.
    """

    folder: Path
    seconds: float


def with_needs(names: Iterable[str]) -> tuple[str, ...]:
    """Jobs and all that have to run before them, in an order that they can run in."""
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys((*with_needs(JOBS[name].needs), name))
    return tuple(found)


def prepare(world: World, name: str) -> None:
    """Run what a job needs and what did not run yet."""
    world.write_inputs()
    for needed in JOBS[name].needs:
        if not (world.made(needed) / JOBS[needed].outputs[0]).exists():
            undisturbed(world, needed, timed=False)


def undisturbed(
    world: World, name: str, *, timed: bool = True, first: Callable[[], object] = lambda: None
) -> Undisturbed:
    """Run a job, and before it those that it needs; this process imports what it had to.

    Args:
        world: of the job.
        name: of the job.
        timed: whether its seconds matter: then it runs twice, as the first run imports as well.
        first: called in its process before.

    Raises:
        RuntimeError: it did not end well.
    """
    prepare(world, name)
    modules = world.folder / f"{name} modules.json"
    if timed and not modules.exists():
        _run(world, name, world.folder / "warm" / name, modules)
    folder = world.folder / name
    started = time.monotonic()
    _run(world, name, folder, modules, first=first)
    return Undisturbed(folder, time.monotonic() - started)


def _run(world: World, name: str, folder: Path, modules: Path, *, first: Callable[[], object] = lambda: None) -> None:
    def work() -> int:
        first()
        status = cli.main(JOBS[name].arguments(world, folder))
        children.note_modules(modules)
        return status

    folder.mkdir(parents=True, exist_ok=True)
    children.call(work, world.folder / f"{name}.log")
    children.import_noted(modules)
    if "history.csv" in JOBS[name].outputs:  # torch imports its compiler where an optimiser is given back its state
        importlib.import_module("torch._dynamo")


def settings(*changes: Mapping[str, Any]) -> Config:
    """The micro settings with changes laid over them."""
    merged: dict[str, Any] = dict(MICRO)
    for change in changes:
        merged = merge(merged, change)
    return tiny.settings(merged)
