"""Mutated configurations: refused in one line when they are read, or good to the end of every job.

Of fifty cases 33 are changed in any way at all (values, keys, bytes of config.yaml or of an overlay), 16 are overlays
drawn from the constraints of the sections' types, valid by construction unless two keys contradict each other, and one
is such an overlay that fits and is run: every stage that computes, whose spec is not that of the unchanged settings,
and those that it needs.

A configuration fits if its jobs end in seconds: it lies over the micro settings (tests/faults/world.py), and what
decides how long a job takes is drawn from the ranges of `mutations.SMALL`; everything else, from the learning rate to
the solver, from all that the schema allows. A training may then diverge, and say so in one line: that is an end, too.
"""

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from deqpipe import cli, config
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.workflow import specs
from deqpipe.workflow.defences import DECIDING
from deqpipe.workflow.stages import STAGES
from tests.faults import children, mutations, world
from tests.faults.cases import Bench, Case, Kind, Verdict, judged
from tests.faults.world import JOBS, Undisturbed, World, prepare, undisturbed, with_needs
from tests.tiny import ROOT

_OF = 50
_WILD = 33
_BASES = ("config.yaml", "config/demo.yaml", "config/gpu-trial.yaml")
_RUN_JOBS = (
    "train-deq", "train-feedforward", "select-early-state", "clean", "attack-pgd", "attack-grid", "autoattack",
    "attack-top", "attack-sweep", "attack-in-loop", "attack-example", "time-training", "time-inference",
)  # fmt: skip
_SECONDS = 15.0
"""To check a configuration."""


@dataclass(frozen=True)
class Configurations:
    """What all cases share.

    Attributes:
        bench: where they run.
        unchanged: the micro settings.
        known: its jobs, run once.
    """

    bench: Bench
    unchanged: World
    known: Callable[[str], Undisturbed]

    def __call__(self, number: int) -> Verdict:
        """Change a configuration, and see what becomes of it."""
        place, folder = number % _OF, self.bench.folder(number)
        if place < _WILD:
            verdict = self._wild(number, folder)
        elif place < _OF - 1:
            verdict = self._allowed(number, folder)
        else:
            verdict = self._run(number, folder)
        return self.bench.leave(folder, verdict)

    def _wild(self, number: int, folder: Path) -> Verdict:
        draws = self.bench.draws(number)
        base = draws.choice(_BASES)
        content, told = mutations.wild((ROOT / base).read_text(), draws)
        changed = folder / "changed.yaml"
        changed.write_bytes(content)
        files = [changed] if base == "config.yaml" else [ROOT / "config.yaml", changed]
        status, wrong = _checked(files, folder)
        row = "changed in any way, accepted" if status == 0 else "changed in any way, refused"
        return judged(row, None if wrong is None else f"{base}, {told}: {wrong}")

    def _allowed(self, number: int, folder: Path) -> Verdict:
        draws = self.bench.draws(number)
        overlay = mutations.Drawn(draws, small=False).overlay(draws.randint(1, 4))
        changed = folder / "changed.yaml"
        changed.write_text(yaml.safe_dump(overlay))
        base = [ROOT / "config.yaml", *([ROOT / "config/demo.yaml"] if draws.random() < 0.5 else [])]
        status, wrong = _checked([*base, changed], folder)
        row = "allowed by the schema, accepted" if status == 0 else "allowed by the schema, contradictory"
        if wrong is None and status == 2 and "should be" in (folder / "log").read_text():
            wrong = f"refused by a type: {children.last_line(folder / 'log')}"
        return judged(row, None if wrong is None else f"{overlay}: {wrong}")

    def _run(self, number: int, folder: Path) -> Verdict:
        overlay, settings = self._fitting(number)
        changed = World(folder / "world", settings, settings.evaluation.expected_batch_size)
        for job in with_needs(_RUN_JOBS):
            self.known(job)  # and this process has imported what it needs
        row, wrong, started = "run, to its end", None, time.monotonic()
        for job in with_needs(self._affected(changed)):
            wrong = self._one_job(changed, job)
            if wrong is not None:
                break
        if wrong == _DIVERGED:
            row, wrong = "run, until it diverged", None
        told = None if wrong is None else f"{json.dumps(overlay)}: {wrong}"
        return judged(row, told, seconds=time.monotonic() - started)

    def _one_job(self, changed: World, name: str) -> str | None:
        """What is wrong with how a job ended; one that the change does not concern is not run again."""
        if changed.spec_of(name) == self.unchanged.spec_of(name):
            changed.write_inputs()
            (changed.folder / name).symlink_to(self.known(name).folder)
            return None
        prepare(changed, name)
        (changed.folder / name).mkdir()
        child = children.start(JOBS[name].arguments(changed, changed.folder / name), changed.folder / f"{name}.log")
        status = child.ended(self.bench.patience)
        if status == 1 and "Traceback" not in child.log.read_text(errors="replace"):
            return _DIVERGED
        return None if status == 0 else f"{name} ended with {status}: {children.last_line(child.log)}"

    def _fitting(self, number: int) -> tuple[dict[str, object], Config]:
        """An overlay that is accepted, and the micro settings with it."""
        draws = self.bench.draws(number)
        while True:
            overlay = mutations.Drawn(draws, small=True).overlay(draws.randint(1, 4))
            try:
                settings = world.settings(overlay)
            except UserError:
                continue
            if self._affected(World(Path(), settings)):
                return overlay, settings

    def _affected(self, changed: World) -> list[str]:
        """Jobs that the unchanged settings have another spec for."""
        return [name for name in _RUN_JOBS if changed.spec_of(name) != self.unchanged.spec_of(name)]


_DIVERGED = "diverged"


def _checked(files: list[Path], folder: Path) -> tuple[int | None, str | None]:
    """The exit status of a check, and what is wrong with it."""

    def work() -> int:
        status = cli.main(["check-config", *map(str, files)])
        if status == 0:
            _build_all(config.load(files))
        return status

    status = children.start_work(work, folder / "log").ended(_SECONDS)
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    if status is None:
        return status, f"it took more than {_SECONDS:g} s"
    if status not in (0, 2):
        return status, f"it ended with {status}: {lines[-1] if lines else ''}"
    if len(lines) != 1:
        return status, f"it said {len(lines)} lines: {lines}"
    return status, None


def _build_all(accepted: Config) -> None:
    """The specs of all jobs, as the Snakefile builds them."""
    for stage in STAGES.values():
        for model in stage.models or (None,):
            for defence in DECIDING[:1] if stage.name == "autoattack" else (None,):
                seed = accepted.seeds[0] if stage.seeded else None
                specs.dumps(specs.build(stage.name, accepted, model=model, seed=seed, defence=defence))


def _open(bench: Bench) -> Case:
    unchanged = World(bench.scratch / "unchanged")
    return Configurations(bench, unchanged, functools.cache(functools.partial(undisturbed, unchanged, timed=False)))


KIND = Kind("configurations", "configurations changed at random: refused, or good to the end", 3_000, _open)
