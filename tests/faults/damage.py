"""Damaged and made-up files of every format that commands read: refused in one line, or read as they were written.

Most cases read a file as the commands do, in a process of its own; every eighth hands it to a whole command, which must
refuse it or come to the results of an undisturbed run. What is damaged of a job's own state is set aside there and
computed again. A file whose digest was put right by who edited it may be read as something else; a traceback is wrong
even then, and so is a reader that takes seconds or all memory.
"""

import functools
import hashlib
import json
import resource
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deqpipe import data
from deqpipe.compute import ways
from deqpipe.compute.ways import Way
from deqpipe.counts import NO_EVALUATIONS
from deqpipe.data import opening
from deqpipe.errors import UserError, line
from deqpipe.evaluation.stages import predict
from deqpipe.model import architecture
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.release import reader
from deqpipe.reporting.figures import described
from deqpipe.reporting.sidecar import Input, Origin, sidecar_text
from deqpipe.results import (
    checkpoint,
    document,
    early_states,
    example,
    history,
    lock,
    race,
    ranking,
    records,
    speeds,
    weights,
)
from deqpipe.workflow.gridpoints import GridPoint
from tests.faults import children, results
from tests.faults.cases import Bench, Case, Kind, Verdict, judged
from tests.faults.damages import Damage, drawn
from tests.faults.world import JOBS, Undisturbed, World, undisturbed

Read = Callable[[Path, World], Any]
_EVERY = 8
_ROOM = 3 * 2**30  # bytes of addresses that a reader may take beside what this process has: a bomb unpacks to more
_READER_SECONDS = 20.0


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        jobs: that make it, or what it is made of.
        file: where it lies then; makes it, if nobody has.
        read: as the commands do.
        job: a command that reads it.
        own: whether it is of that job's own state.
        digest: whether it carries one; images and what others have made do not.
    """

    jobs: tuple[str, ...]
    file: Callable[[World], Path]
    read: Read
    job: str | None = None
    own: bool = False
    digest: bool = True


def _tensors(path: Path, world: World) -> Any:
    return checkpoint.read(path)


def _model(path: Path, world: World) -> Any:
    loaded = architecture.load_model(path, torch.device("cpu"))
    return loaded.model.state_dict(), loaded.provenance, loaded.weights


def _history(world: World) -> Path:
    return world.made("pretrain") / "history.csv"


def _read_history(path: Path, world: World) -> Any:
    return history.read(path, history.digest(_history(world).read_bytes()))


def _figure(world: World) -> Path:
    path = world.folder / "figure.json"
    if not path.exists():
        read = Input("a.parquet", "0" * 16, "0" * 16, "CPU", {"torch": "2"}, 1.5, NO_EVALUATIONS)
        origin = Origin("0" * 16, "0" * 16, revision=1, inputs=(read,))
        told = described.Described(2, "Title", "Caption", "Words", ("Note",), ("Condition",), origin)
        path.write_text(sidecar_text(told))
    return path


def _race(world: World) -> Path:
    path = world.folder / "race.json"
    if not path.exists():
        left = race.Race((GridPoint(0.5, 1, 1),), of=2, images=12, confidence=0.8)
        race.write(path, left, {"spec": {"stage": "race"}})
    return path


def _verdict(world: World) -> Path:
    path = world.folder / "verdict.json"
    if not path.exists():
        told = asdict(ways.Verdict(Way(compiled=False, graphs=True), "fast", ("plain: 1 s",)))
        path.write_text(document.sealed_text({**told, "facts": {"code": "0"}}))
    return path


def _read_verdict(path: Path, world: World) -> Any:
    """The plain way where it is damaged: as if it had been refused."""
    way = ways._read(path, Way(compiled=False, graphs=False))
    if way == Way(compiled=False, graphs=False):
        raise UserError(f"verdict {path} cannot be read")
    return way


def _lock_file(world: World) -> Path:
    path = world.folder / "lock"
    if not path.exists():
        path.write_text(json.dumps({"host": socket.gethostname(), "pid": 1}))
    return path


def _read_lock(path: Path, world: World) -> Any:
    """Whatever stands in it, the lock is taken; an entry of another host is waited for, for a moment here."""
    (path.parent / "locked").mkdir(exist_ok=True)
    shutil.copy(path, path.parent / "locked" / "lock")
    with lock.locked(path.parent / "locked", heartbeat_seconds=0.05):
        return "taken"


def _image(world: World) -> Path:
    path = world.folder / "image.png"
    if not path.exists():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


def _read_image(path: Path, world: World) -> Any:
    with opening.opened(path) as image:
        return np.asarray(image.convert("RGB"))


def _read_images(path: Path, world: World) -> Any:
    model = architecture.load_model(world.weights("train-deq"), torch.device("cpu")).model
    assert isinstance(model, DEQClassifier)
    return predict.read_images(path, model, labelled=True)


def _release(world: World) -> Path:
    path = world.folder / "release.pth.tar"
    if not path.exists():
        torch.save({"epoch": 3, "state_dict": {"a.weight": torch.ones(4, 3), "a.bias": torch.zeros(4)}}, path)
    return path


def _read_release(path: Path, world: World) -> Any:
    return reader.read(path)


FORMATS: Mapping[str, Format] = {
    "weights": Format(("train-deq",), lambda w: w.weights("train-deq"), _model, job="clean"),
    "weights' header": Format(("train-deq",), lambda w: w.weights("train-deq"), lambda p, w: weights.read(p)),
    "handoff": Format(("pretrain",), lambda w: w.trunk, _tensors, job="train-deq"),
    "training state": Format(
        ("pretrain",), lambda w: w.made("pretrain") / "state" / "training.safetensors", _tensors, "pretrain", own=True
    ),
    "best weights so far": Format(
        ("pretrain",), lambda w: w.made("pretrain") / "state" / "best.safetensors", _tensors, "pretrain", own=True
    ),
    "piece": Format(
        ("attack-grid",), lambda w: sorted(w.made("attack-grid").rglob("points/*/*.parquet"))[0],
        lambda p, w: records.read(p), "attack-grid", own=True,
    ),
    "dataset": Format((), lambda w: w.data_file, lambda p, w: data.load(p), job="clean"),
    "records": Format(
        ("clean",), lambda w: w.made("clean") / "out.parquet", lambda p, w: records.read(p), job="attack-example"
    ),
    "records in groups": Format(
        ("clean",), lambda w: w.made("clean") / "out.parquet",
        lambda p, w: list(records.groups(p, ("image", "margin", "defence", "attack"))),
    ),
    "ranking": Format(
        (), lambda w: w.strongest("deq_pgd_at_base"), lambda p, w: ranking.read(p, states=w.config.solver.steps),
        job="autoattack",
    ),
    "race": Format((), _race, lambda p, w: race.read(p)),
    "early states": Format(
        ("select-early-state",), lambda w: w.made("select-early-state") / "out.json",
        lambda p, w: early_states.read(p, ("plain", "entropy")), job="attack-example",
    ),
    "speeds": Format(
        ("time-inference",), lambda w: w.made("time-inference") / "out.json", lambda p, w: speeds.read(p, "settings")
    ),
    "example": Format(
        ("attack-example",), lambda w: w.made("attack-example") / "out.npz", lambda p, w: example.read(p)
    ),
    "history": Format(("pretrain",), _history, _read_history),
    "sidecar": Format((), _figure, lambda p, w: described.read(p)),
    "verdict": Format((), _verdict, _read_verdict),
    "lock": Format((), _lock_file, _read_lock, digest=False),
    "image": Format((), _image, _read_image, digest=False),
    "images to predict": Format(("train-deq",), lambda w: w.images_file, _read_images, job="predict", digest=False),
    "checkpoint of the release": Format((), _release, _read_release, digest=False),
}  # fmt: skip


@dataclass(frozen=True)
class Damages:
    """What all cases share."""

    bench: Bench
    world: World
    names: tuple[str, ...]
    known: Callable[[str], Undisturbed]

    def __call__(self, number: int) -> Verdict:
        """Damage a file, and have it read."""
        name, turn = self.names[number % len(self.names)], number // len(self.names)
        form, draws, folder = FORMATS[name], self.bench.draws(number), self.bench.folder(number)
        for job in form.jobs:
            self.known(job)
        whole = form.file(self.world)
        harm = drawn(whole, draws)
        if form.job is not None and turn % _EVERY == _EVERY - 1:
            row, try_it = f"{name}, by {form.job}", functools.partial(self._by_command, form, form.job)
        else:
            row, try_it = name, functools.partial(self._by_reader, form)
        told, wrong = try_it(whole, harm, lambda path: harm.do(path, draws), folder)
        return self.bench.leave(folder, judged(row, None if wrong is None else f"{told}: {wrong}"))

    def _by_reader(
        self, form: Format, whole: Path, harm: Damage, do: Callable[[Path], str], folder: Path
    ) -> tuple[str, str | None]:
        damaged = folder / whole.name
        shutil.copy(whole, damaged)
        told = do(damaged)
        expected = _read(form, whole, self.world, folder / "expected")
        status = _read(form, damaged, self.world, folder / "found")
        log = (folder / "found.log").read_text(errors="replace") if status != 0 else ""
        if expected != 0:
            return "nothing yet", f"the whole file is refused: {(folder / 'expected.log').read_text()}"
        if status == 0:
            same = (folder / "expected").read_text() == (folder / "found").read_text()
            return told, None if same or harm.honest or not form.digest else "it is read as something else"
        return told, _refusal(status, log, damaged)

    def _by_command(
        self, form: Format, job: str, whole: Path, harm: Damage, do: Callable[[Path], str], folder: Path
    ) -> tuple[str, str | None]:
        known, files = self.known(job), folder / "files"
        files.mkdir()
        damaged = folder / whole.name
        if form.own:
            shutil.copytree(known.folder / "state", files / "state")
            damaged = files / whole.relative_to(known.folder)
        else:
            shutil.copy(whole, damaged)
        told = do(damaged)
        arguments = JOBS[job].arguments(self.world, files)
        replaced = [str(damaged) if argument == str(whole) else argument for argument in arguments]
        child = children.start(replaced, folder / "log")
        status, log = child.ended(self.bench.patience), (folder / "log").read_text(errors="replace")
        if status == 0:
            wrong = results.difference(known.folder, files, JOBS[job].outputs)
            return told, None if wrong is None or (harm.honest and not form.own) else wrong
        if form.own and not harm.honest:
            return told, f"it was not computed again, but left with {status}: {children.last_line(folder / 'log')!r}"
        return told, _refusal(status, log, damaged)


def _refusal(status: int | None, log: str, path: Path) -> str | None:
    """What is wrong with how a file was refused."""
    lines = log.strip().splitlines()
    if status is None:
        return "it took too long"
    if status != 2 or "Traceback" in log:
        return f"it ended with {status}: {lines[-1] if lines else ''}"
    refusals = [text for text in lines if text.startswith("deqpipe: ")]
    if len(refusals) != 1 or lines[-1] != refusals[0]:
        return f"it was not refused in one line: {lines}"
    return None if path.name in refusals[0] else f"the refusal does not name it: {refusals[0]}"


def _read(form: Format, path: Path, world: World, told: Path) -> int | None:
    """Read a file in a child, which tells what it read by a digest; its exit status."""

    def work() -> int:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, resource.RLIM_INFINITY))
        try:
            value = form.read(path, world)
        except UserError as error:
            print(f"deqpipe: {line(error)}")
            return 2
        told.write_text(hashlib.sha256("\n".join(_parts(value)).encode()).hexdigest())
        return 0

    return children.start_work(work, told.with_name(f"{told.name}.log")).ended(_READER_SECONDS)


def _parts(value: Any) -> Iterator[str]:
    """A value as texts: tensors and arrays by their bytes, whatever holds them by its parts."""
    if isinstance(value, Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
        yield f"{value.dtype} {value.shape} {hashlib.sha256(content).hexdigest()}"
    elif is_dataclass(value):
        for field in fields(value):
            yield field.name
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for name in value:
            yield repr(name)
            yield from _parts(value[name])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _parts(one)
    else:
        yield repr(value)


def _open(bench: Bench) -> Case:
    world = World(bench.scratch / "world")
    world.write_inputs()
    known = functools.cache(functools.partial(undisturbed, world, timed=False))
    names = bench.chosen(tuple(FORMATS))
    return Damages(bench, world, names, known)


KIND = Kind("damage", "damaged and made-up files of every format", 1600, _open)
