"""The rows of what was measured: one per operation and side, with the conditions that they were measured under."""

import csv
import datetime
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Clock, Measured
from benchmarks.operations import SOLVER_ALONE
from benchmarks.world import World
from deqpipe.errors import UserError
from deqpipe.machine import device, stopwatch
from deqpipe.planning import arithmetic
from deqpipe.results.provenance import code_hash
from deqpipe.results.records import write_text

CPU_NAMES = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Row:
    """A side of an operation.

    Attributes:
        device, threads, torch, date, code, load: where and when; load is the number of processes that wanted to compute
            just before.
        clock: wall, or the seconds that the process computed.
        model, protocol, batch: what was computed.
        precision, layout, compiled, graphs: how our f was computed.
        operation, side, against: what is compared with what.
        pairs: how many times.
        ratio, ratio_low, ratio_high: how many times as fast as `against`: median over pairs, and range.
        rate, rate_low, rate_high: images per second.
        forward, backward_input, backward_weights: evaluations of f per image.
        peak: bytes at once, beyond what stays; not a number where nobody counts them.
        teraflops: of f, 10^12 operations per second; not a number where f is another function.
        share: of the time, what these evaluations would take by themselves.
        difference: of its results in float64; not a number where nothing is compared.
        same_bits: whether its results in the precision measured are bit for bit those of `against`.
    """

    device: str
    threads: int
    torch: str
    date: str
    code: str
    load: float
    clock: str
    model: str
    protocol: str
    batch: int
    precision: str
    layout: str
    compiled: bool
    graphs: bool
    operation: str
    side: str
    against: str
    pairs: int
    ratio: float
    ratio_low: float
    ratio_high: float
    rate: float
    rate_low: float
    rate_high: float
    forward: float
    backward_input: float
    backward_weights: float
    peak: float
    teraflops: float
    share: float
    difference: float
    same_bits: bool

    @property
    def bound(self) -> float:
        """What the ratio would be if nothing but these evaluations took time."""
        return self.ratio / self.share if self.share else torch.inf


COLUMNS = [field.name for field in fields(Row)]


def rows_of(operation: str, found: Sequence[Measured], world: World, clock: Clock = "wall") -> list[Row]:
    """The rows of an operation, the side that the others are compared with first."""
    return [
        Row(
            **conditions(world),
            clock=clock,
            operation=operation,
            side=one.side,
            against=found[0].side,
            pairs=one.pairs,
            **_three("ratio", one.ratio.median, one.ratio.low, one.ratio.high),
            **_three("rate", one.rate.median, one.rate.low, one.rate.high),
            **asdict(one.evaluations),
            peak=one.peak,
            teraflops=torch.nan if operation == SOLVER_ALONE else _teraflops(one, world),
            share=one.share,
            difference=one.difference,
            same_bits=one.same_bits,
        )
        for one in found
    ]


def _teraflops(one: Measured, world: World) -> float:
    operations = arithmetic.cell_operations(world.config.model, image_shape=world.shape.shape)
    return one.rate.median * float(one.evaluations.total) * operations / 1e12


def conditions(world: World) -> dict[str, Any]:
    """What holds for all rows of a world."""
    return {
        "device": described(world.device),
        "threads": world.threads,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "code": code_hash(),
        "load": stopwatch.load()[0],
        "model": world.model,
        "protocol": world.protocol,
        "batch": world.batch,
        "precision": world.computed.precision,
        **asdict(world.computed.way),
    }


def described(where: torch.device) -> str:
    """A device, with the name of the processor where it is one."""
    if where.type == "cuda":
        return device.describe(where)
    lines = CPU_NAMES.read_text(encoding="utf-8").splitlines() if CPU_NAMES.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else 'CPU'}, {cores} cores"


def _three(name: str, median: float, low: float, high: float) -> dict[str, Any]:
    return {name: median, f"{name}_low": low, f"{name}_high": high}


def read(path: Path) -> list[Row]:
    """The rows of a csv; none where there is none.

    Raises:
        UserError: it has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has other columns than this version writes: delete it")
        return [_row(line) for line in reader]


def _row(line: dict[str, str]) -> Row:
    values: dict[str, Any] = {}
    for field in fields(Row):
        kind, text = field.type, line[field.name]
        assert isinstance(kind, type)
        values[field.name] = text == "True" if kind is bool else kind(text)
    return Row(**values)


def write(path: Path, rows: Iterable[Row]) -> None:
    """The csv of some rows, whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _short(value) for name, value in asdict(row).items()} for row in rows)
    write_text(path, text.getvalue())


def _short(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value


def replaced(rows: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """`rows` with those of the same operation, model and comparison replaced where they stand, or `new` at the end."""
    keys = {_key(row) for row in new}
    first = min((n for n, row in enumerate(rows) if _key(row) in keys), default=len(rows))
    before, after = rows[:first], [row for row in rows[first:] if _key(row) not in keys]
    return [*before, *new, *after]


def _key(row: Row) -> tuple[object, ...]:
    return row.model, row.against, row.operation
