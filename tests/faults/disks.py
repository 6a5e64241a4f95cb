"""Disks that are full: one line and status 2, nothing damaged, nothing left; with space again, the command goes on.

Every command that writes runs with its outputs and its state on a file system of its own that has some kilobytes left,
often none. In some cases its log lies there as well, in some an older output that must stay whole. Then space is made,
and the same command must end with what it comes to undisturbed. Without the right to mount, cases are skipped.
"""

import contextlib
import ctypes
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from deqpipe.model import architecture
from deqpipe.reporting import available
from deqpipe.results import checkpoint
from deqpipe.workflow import specs
from tests import tiny
from tests.faults import children, results, world
from tests.faults.cases import Bench, Case, Kind, Verdict, judged, skipped
from tests.faults.world import JOBS, OTHER, Job, World
from tests.reporting import fabricate

_SIZE = 256 * 2**20  # bytes of a disk
_LEFT = (0, 1, 4, 8, 16, 64, 256)  # kilobytes
_OURS = "deqpipe: "
_COMPLAINTS = re.compile(r"Traceback|Logging error|Exception ignored|Exception in thread")
_RESTS = re.compile(r"\.tmp|\.damaged")


def _tree(folder: Path) -> Path:
    """Results that tables are made of."""
    tree = folder / "tree"
    if not tree.exists():
        children.call(partial(_fabricated, tree), folder / "tree.log")
    return tree


def _fabricated(tree: Path) -> int:
    tiny.run("write-config", "--spec", fabricate.small().model_dump_json(), "--output", tree / "config.yaml")
    fabricate.tree(tree, fabricate.small())
    list(available.write(fabricate.small(), tree))
    return 0


def _imported(folder: Path) -> Path:
    """A model as an import leaves it."""
    path = folder / "imported.safetensors"
    if not path.exists():
        children.call(partial(_import, path), folder / "import.log")
    return path


def _import(path: Path) -> int:
    described = architecture.describe_deq(tiny.settings().model, tiny.dataset())
    told = {"provenance": {"spec": {"stage": "import", "model": OTHER, "seed": 0}}, "epoch": None}
    facts = {"kind": architecture.KIND, "architecture": described, **told}
    checkpoint.write(path, architecture.build(described, seed=3).state_dict(), facts)
    return 0


def _write_config(known: World, folder: Path) -> list[object]:
    return ["write-config", "--spec", known.config.model_dump_json(), "--output", folder / "config.yaml"]


def _prepare_data(known: World, folder: Path) -> list[object]:
    return ["prepare-data", "--spec", known.spec("data"), "--output", folder / "out.safetensors"]


def _use_imported(known: World, folder: Path) -> list[object]:
    spec = specs.dumps(specs.build_import(tiny.settings({"imported": {OTHER: "model.safetensors"}}), OTHER))
    files = ["--data", known.data_file, "--checkpoint", _imported(known.folder), "--output", folder / "out.safetensors"]
    return ["use-imported", "--spec", spec, *files]


def _export(known: World, folder: Path) -> list[object]:
    return ["export-checkpoint", _imported(known.folder), folder / "out.pth.tar"]


def _import_checkpoint(known: World, folder: Path) -> list[object]:
    source = tiny.ROOT / "tests" / "golden" / "release" / "small.pth.tar"
    return ["import-checkpoint", source, folder / "out.safetensors", "--groups", 4, "--image-size", 16]


def _export_robustbench(known: World, folder: Path) -> list[object]:
    usual = ["--configuration", _tree(known.folder) / "config.yaml", "--state", 2]
    return ["export-robustbench", _imported(known.folder), folder / "handin", *usual]


def _strongest(known: World, folder: Path) -> list[object]:
    configuration = ["--configuration", fabricate.small().model_dump_json(), "--results", _tree(known.folder)]
    return ["strongest", "--model", OTHER, "--seed", 0, *configuration, "--output", folder / "out.json"]


def _product(kind: str, number: int, known: World, folder: Path) -> list[object]:
    tree = _tree(known.folder)
    return [kind, number, "--config", tree / "config.yaml", "--results", tree, "--output-stem", folder / "out"]


def _report(known: World, folder: Path) -> list[object]:
    tree = _tree(known.folder)
    return [
        "report",
        "--config",
        tree / "config.yaml",
        "--results",
        tree,
        "--output",
        folder / "report.html",
        "--numbers",
        folder / "results.json",
    ]


_TABLE, _FIGURE = (".csv", ".html", ".md", ".tex", ".json"), (".png", ".pdf", ".csv", ".json")
_HAND_IN = tuple(
    f"handin/{name}"
    for name in (
        "Yang2023Improving.py", "Yang2023Improving.pt", "reproduce.py", "new-model.md",
        "model_info/stripes/Linf/Yang2023Improving.json",
    )
)  # fmt: skip
_SAME_BYTES = (".py", ".pt")
WRITERS: Mapping[str, Job] = {
    **JOBS,
    **{
        job.name: job
        for job in (
            Job("write-config", _write_config, (), ("config.yaml",)),
            Job("prepare-data", _prepare_data, (), ("out.safetensors",)),
            Job("use-imported", _use_imported, (), ("out.safetensors",)),
            Job("export-checkpoint", _export, (), ("out.pth.tar",)),
            Job("export-robustbench", _export_robustbench, (), _HAND_IN, replaces=False),
            Job("import-checkpoint", _import_checkpoint, (), ("out.safetensors",)),
            Job("strongest", _strongest, (), ("out.json",)),
            Job("table 2", partial(_product, "table", 2), (), tuple(f"out{ending}" for ending in _TABLE)),
            Job("figure 2", partial(_product, "figure", 2), (), tuple(f"out{ending}" for ending in _FIGURE)),
            Job("figure 4", partial(_product, "figure", 4), (), tuple(f"out{ending}" for ending in _FIGURE)),
            Job("report", _report, (), ("report.html", "results.json")),
        )
    },
}
"""Every command that writes files."""


@cache
def _mounting() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def mounted(folder: Path, *, size: int = _SIZE, more: str = "") -> Iterator[None]:
    """A file system of so many bytes in memory, at a folder.

    Raises:
        OSError: this process may not mount.
    """
    libc, options = _mounting(), f"size={size}{more}".encode()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        yield
    finally:
        libc.umount2(str(folder).encode(), 2)  # as soon as nobody uses it


def fill(disk: Path, *, left: int) -> Path:
    """A file that leaves so many bytes of a disk."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - left))
    return filler


@dataclass(frozen=True)
class Disks:
    """What all cases share."""

    bench: Bench
    world: World
    names: tuple[str, ...]

    def __call__(self, number: int) -> Verdict:
        """Let a command run out of space, and give it some."""
        name, draws = self.names[number % len(self.names)], self.bench.draws(number)
        reference, folder = self._reference(name), self.bench.folder(number)
        whole = sum(path.stat().st_size for path in reference.rglob("*") if path.is_file())
        left = draws.choice([*(1024 * size for size in _LEFT), draws.randrange(whole + 1), draws.randrange(whole + 1)])
        try:
            with mounted(folder):
                case = Full(WRITERS[name], self.world, folder, reference, left, self.bench.patience)
                log_there, older = draws.random() < 0.3, draws.random() < 0.3
                ran_out, wrong = case.tried(log_there=log_there, older=older and case.job.replaces)
        except PermissionError as error:
            return skipped(name, f"file systems cannot be mounted here ({error})")
        return self.bench.leave(folder, judged(name, wrong and f"with {left} bytes left: {wrong}", faults=int(ran_out)))

    def _reference(self, name: str) -> Path:
        """What an undisturbed run leaves."""
        folder = self.world.folder / name
        if not (folder / WRITERS[name].outputs[-1]).exists():
            if name in JOBS:
                return world.undisturbed(self.world, name).folder
            folder.mkdir(parents=True, exist_ok=True)
            child = children.start(WRITERS[name].arguments(self.world, folder), self.world.folder / f"{name}.log")
            if child.ended(self.bench.patience) != 0:
                raise RuntimeError(f"{name} did not end well: {children.last_line(child.log)}")
        return folder


@dataclass(frozen=True)
class Full:
    """A command on a disk.

    Attributes:
        job: the command.
        world: of it.
        disk: where the file system is mounted.
        reference: what the job leaves undisturbed.
        left: bytes that are free.
        patience: seconds that it may take.
    """

    job: Job
    world: World
    disk: Path
    reference: Path
    left: int
    patience: float

    def tried(self, *, log_there: bool, older: bool) -> tuple[bool, str | None]:
        """Whether it ran out of space, and what goes wrong, if anything.

        Args:
            log_there: whether the log is on the disk as well.
            older: whether outputs are there already.
        """
        out, log = self.disk / "out", (self.disk if log_there else self.world.folder) / "disk.log"
        log.unlink(missing_ok=True)
        out.mkdir()
        for name in self.job.outputs if older else ():
            shutil.copy(self.reference / name, out / name)
        filler = fill(self.disk, left=self.left)
        child = children.start(self.job.arguments(self.world, out), log)
        status = child.ended(self.patience)
        wrong = self._answered(status, log, certain=not log_there) or self._whole(out)
        filler.unlink()
        done = status == 0 and not self.job.replaces
        return status == 2, wrong or (None if done else self._goes_on(out))

    def _answered(self, status: int | None, log: Path, *, certain: bool) -> str | None:
        said = log.read_text(errors="replace") if log.exists() else ""
        lines = [line for line in said.splitlines() if line.startswith(_OURS)]
        if status not in (0, 2):
            return f"status {status}: {said[-300:]!r}"
        if _COMPLAINTS.search(said):
            return f"it complains in {said[-300:]!r}"
        if status == 2 and certain and (len(lines) != 1 or "No space left on device" not in lines[0]):
            return f"it says {said[-300:]!r}"
        rests = [path.name for path in self.disk.rglob("*") if _RESTS.search(path.name)]
        return f"it leaves {rests}" if rests else None

    def _whole(self, out: Path) -> str | None:
        """Whether what is there is whole."""
        there = tuple(name for name in self.job.outputs if (out / name).exists())
        return None if self.job.timed else _difference(self.reference, out, there)

    def _goes_on(self, out: Path) -> str | None:
        log = self.world.folder / "again.log"
        log.unlink(missing_ok=True)
        child = children.start(self.job.arguments(self.world, out), log)
        status = child.ended(self.patience)
        if status != 0:
            return f"with space again it ends with {status}: {children.last_line(child.log)}"
        return self._whole(out) or results.leftovers(self.reference, out)


def _difference(one: Path, other: Path, names: tuple[str, ...]) -> str | None:
    """As `results.difference`; code is compared as it is, and texts and pictures are not empty."""
    plain = tuple(name for name in names if Path(name).suffix not in (".safetensors", ".parquet", ".npz"))
    for name in plain:
        if not (other / name).stat().st_size:
            return f"{name} is empty"
        if Path(name).suffix in _SAME_BYTES and (one / name).read_bytes() != (other / name).read_bytes():
            return f"{name} is another one"
    return results.difference(one, other, tuple(name for name in names if name not in plain))


def _open(bench: Bench) -> Case:
    return Disks(bench, World(bench.scratch / "world"), bench.chosen(tuple(WRITERS)))


KIND = Kind("disks", "disks that are full at every write, then have space again", 8 * len(WRITERS), _open)
