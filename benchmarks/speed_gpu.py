"""What a GPU makes of it: is it right, does anything wait for it, how fast is each way, how long would everything take?

    python -m benchmarks.speed_gpu [--release FOLDER] [--checkpoint FILE --data FILE] [--only SECTION ...] [--minutes M]

In this order, the most valuable first, each finding in a file before the next is looked for:

1. states, logits and gradients in every way, against float64 on the CPU;
2. no host synchronisation in a solve, an attack or a training step, after a warm-up;
3. speeds in each precision, way after way, the plain way beside the first;
4. the hours of the full reproduction, from these speeds, and the rates that `deqpipe plan` reckons with;
5. with a checkpoint and its data: robust accuracy in tf32 and bf16 against fp32, crafted and scored in that precision;
6. the same as 1, 3 and 4 for what is compiled, and for the other operations and ways.

Started again, it goes on: what this device, torch and code have answered is not asked again. On a CPU
(`--device cpu --quick`) it shows that the script runs; what needs a GPU is left out, with a line that says so.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import device_checks, gpu_page, hours, operations, release_sides, speed_rows
from benchmarks.findings import Finding, Findings, Verdict
from benchmarks.measure import Patience, measured
from benchmarks.operations import Operation, Side
from benchmarks.release_code import Release, without_progress
from benchmarks.speed import PAGE, cores, positive
from benchmarks.speed_rows import Row
from benchmarks.ways import Computed
from benchmarks.world import MODELS, ROOT, SPREAD, ModelName, World
from deqpipe import config as configuration
from deqpipe.compute.precision import PrecisionName
from deqpipe.compute.ways import PLAIN, Way
from deqpipe.errors import UserError


@dataclass(frozen=True)
class Round:
    """A part of the measurement.

    Attributes:
        ways: in every precision.
        rows: beginnings of the names of the operations; none: all of them.
    """

    ways: tuple[Way, ...]
    rows: tuple[str, ...] = ()

    def computations(self) -> Iterator[Computed]:
        """Precision after precision in all its ways, so that what belongs together is there even if time runs short."""
        return (Computed(precision, way) for precision in PRECISIONS for way in self.ways)


CAPTURED = Way("channels_last", graphs=True)
TELLING = ("attack step, mean", "training step, TRADES", "training step, PGD-AT", "scoring")
ROUNDS = (
    Round((PLAIN, CAPTURED), TELLING),
    Round((replace(CAPTURED, compiled=True), Way(graphs=True)), TELLING),
    Round((PLAIN, CAPTURED, replace(CAPTURED, compiled=True))),
    Round((Way(compiled=True, graphs=True), Way(compiled=True)), TELLING),
    Round((Way("channels_last"), Way("channels_last", compiled=True)), TELLING),
)
"""What is measured, the most telling first: what compiles takes minutes, and comes after what does not."""
QUICK = (
    Round((PLAIN, Way("channels_last")), (TELLING[0], "training step, TRADES, Sec. 3.3", "scoring, un", "solver")),
)
PRECISIONS: tuple[PrecisionName, ...] = ("tf32", "bf16", "fp32")
SECTIONS = ("numbers", "waiting", "speeds", "hours", "answers")
NAN = float("nan")
TRIAL = ROOT / "results/bench/performance.md"


@dataclass(frozen=True)
class Bench:
    """A run of this script.

    Attributes:
        world: model and device, in the plain way; its batch is that of evaluations.
        findings: of the checks.
        table: file of the speeds.
        page: whose tables are written.
        patience: of the clock.
        quick: whether only a little of everything is done.
        deadline: when no further work is begun, by the monotonic clock.
    """

    world: World
    findings: Findings
    table: Path
    page: Path
    patience: Patience
    quick: bool
    deadline: float

    @property
    def on_gpu(self) -> bool:
        """Whether there is something to wait for, and to capture."""
        return self.world.device.type == "cuda"

    @property
    def over(self) -> bool:
        """Whether its time is."""
        return time.monotonic() > self.deadline

    def asked(self, section: str, what: str, computed: Computed) -> tuple[str, ...]:
        """The key of a finding."""
        return self._finding(section, what, computed, "told").key

    def tell(self, section: str, what: str, computed: Computed, verdict: Verdict, **facts: Any) -> None:
        """Write a finding down, and print it; `facts` are its value, limit and note, where it has them."""
        finding = replace(self._finding(section, what, computed, verdict), **facts)
        self.findings.add(finding)
        print(finding.line, flush=True)

    def _finding(self, section: str, what: str, computed: Computed, verdict: Verdict) -> Finding:
        held = speed_rows.conditions(self.world)
        facts = {name: held[name] for name in ("device", "torch", "code", "date")}
        return Finding(
            **facts, section=section, what=what, computed=computed.name, verdict=verdict, value=NAN, limit=NAN, note=""
        )


@without_progress()
def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure, write; returns the exit status: 1 if a check failed."""
    options = parsed(arguments)
    try:
        bench = prepared(options)
        for title, section in sections(bench, options):
            if bench.over:
                break
            print(title, flush=True)
            section(bench)
            gpu_page.write(bench.page, speed_rows.read(bench.table), list(bench.findings))
    except UserError as error:
        print(f"benchmarks.speed_gpu: {error}", file=sys.stderr)
        return 2
    if bench.over:
        print("Time is over; started again, it goes on.")
    return 1 if any(one.verdict == "failed" for one in bench.findings) else 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    name = "python -m benchmarks.speed_gpu"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a little of everything, with the demo's model")
    parser.add_argument("--model", choices=MODELS, default=None, help="MDEQ-Large; with --quick demo")
    parser.add_argument("--batch", type=positive, help="images at once of an evaluation (480; with --quick 4)")
    parser.add_argument("--repeats", type=positive, default=5, help="(%(default)s)")
    parser.add_argument("--threads", type=positive, default=cores(), help="of the CPU (%(default)s)")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS, help="sections; all of them")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further work is begun")
    parser.add_argument("--release", type=Path, metavar="FOLDER", help="work tree of the authors' code (862034f)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="a trained model, for its robust accuracy")
    parser.add_argument("--data", type=Path, metavar="FILE", help="its dataset, as prepare-data writes it")
    parser.add_argument(
        "--config", type=Path, action="append", default=[], help="laid over config.yaml, for that model"
    )
    parser.add_argument("--images", type=positive, default=2000, help="of its test images (%(default)s)")
    text = f"whose tables are written, csv files beside it (docs/performance.md; on a CPU {TRIAL.relative_to(ROOT)})"
    parser.add_argument("--page", type=Path, help=text)
    options = parser.parse_args(arguments)
    options.page = options.page or (PAGE if options.device == "cuda" else TRIAL)
    if options.release and (missing := Release(options.release).missing):
        parser.error(missing)
    if (options.checkpoint is None) != (options.data is None):
        parser.error("--checkpoint and --data belong together")
    return options


def prepared(options: argparse.Namespace) -> Bench:
    """The run that was asked for.

    Raises:
        UserError: there is no such device.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is available; --device cpu --quick shows on a CPU that the script runs")
    model: ModelName = options.model or ("demo" if options.quick else "MDEQ-Large")
    batch, few = options.batch or (4 if options.quick else 480), 2 if options.quick else None
    world = World(model, batch, device=torch.device(options.device), threads=options.threads, attack_steps=few)
    return Bench(
        world=world,
        findings=Findings(options.page.with_name(f"{options.page.stem}_gpu_checks.csv")),
        table=options.page.with_name(f"{options.page.stem}_gpu.csv"),
        page=options.page,
        patience=Patience(3 if options.quick else options.repeats, 20.0),
        quick=options.quick,
        deadline=time.monotonic() + 60 * options.minutes,
    )


Section = Callable[[Bench], None]


def sections(bench: Bench, options: argparse.Namespace) -> Iterator[tuple[str, Section]]:
    """What is done, in order: of those that were asked for."""
    for number, part in enumerate(QUICK if bench.quick else ROUNDS):
        every: dict[str, tuple[str, Section]] = {
            "numbers": ("1. Against float64 on the CPU", partial(check_numbers, part=part)),
            "waiting": ("2. Waiting for the device", check_waiting),
            "speeds": ("3. Speeds", partial(measure_speeds, part=part, folder=options.release)),
            "hours": ("4. Hours of the full reproduction", tell_hours),
            "answers": ("5. Robust accuracy in other precisions", partial(compare_answers, options=options)),
        }
        once = {"waiting", "answers"} if number else set()
        yield from (section for name, section in every.items() if name in options.only and name not in once)


# --- 1 and 2 ---------------------------------------------------------------------------------------------------------


def check_numbers(bench: Bench, part: Round) -> None:
    """States, logits and gradients in every way of a round."""
    section = "numbers"
    exact: dict[str, Any] = {}
    for computed in part.computations():
        if bench.over or bench.findings.has(bench.asked(section, "states", computed)):
            continue
        if missing := computed.missing(bench.world.device):
            bench.tell(section, "states", computed, "left out", note=missing)
            continue
        exact = exact or device_checks.reference(bench.world)
        try:
            found = device_checks.against(replace(bench.world, computed=computed), exact)
        except Exception as error:  # whatever a compiler or a library fails with is a finding, too
            bench.tell(section, "states", computed, "failed", note=_words(error))
            continue
        for what, value in reversed(found.items()):  # the states last: they stand for all
            limit = device_checks.LIMITS[computed.precision].of(what)
            bench.tell(section, what, computed, "passed" if value <= limit else "failed", value=value, limit=limit)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def check_waiting(bench: Bench) -> None:
    """No host synchronisation, in the plain way and in graphs."""
    section = "waiting"
    if not bench.on_gpu:
        print("  left out: a CPU waits for nobody")
        return
    few = replace(bench.world, batch=min(bench.world.batch, 96))
    for computed in (Computed("tf32"), Computed("tf32", CAPTURED)):
        world = replace(few, computed=computed)
        computed.enter(world.threads)
        for work in device_checks.works(world):
            if bench.over or bench.findings.has(bench.asked(section, work.name, computed)):
                continue
            note = device_checks.waits(work)
            bench.tell(section, work.name, computed, "failed" if note else "passed", note=note)


# --- 3 ---------------------------------------------------------------------------------------------------------------


def measure_speeds(bench: Bench, part: Round, folder: Path | None) -> None:
    """Way after way in every precision; of each the operations of a round, the plain way beside the first way."""
    for computed in part.computations():
        if missing := computed.missing(bench.world.device):
            print(f"  left out, {computed.name}: {missing}")
            continue
        for operation in _operations(bench, part):
            _measure(bench, _of_way(operation, computed), replace(_sized(bench, operation), computed=computed))
        if folder is None or computed.way != CAPTURED or computed.precision == "bf16":  # the authors have no bf16
            continue
        for operation in release_sides.operations(folder, points=len(SPREAD)):
            released = replace(_sized(bench, operation), computed=computed, protocol="release", dropout=False)
            _measure(bench, operation, released)


def _operations(bench: Bench, part: Round) -> list[Operation]:
    every = operations.operations(bench.world, points=2 if bench.quick else len(SPREAD))
    wanted = [one for one in every if not part.rows or one.name.startswith(part.rows)]
    return [one for one in wanted if not (bench.quick and "Jacobian" in one.name)]


def _sized(bench: Bench, operation: Operation) -> World:
    """The world with the batch of a training where it is one."""
    training = operation.name.startswith("training") and not bench.quick
    return replace(bench.world, batch=bench.world.config.training.batch_size) if training else bench.world


def _of_way(operation: Operation, computed: Computed) -> Operation:
    """The operation with the plain way beside ours where that is computed plainly, too; otherwise ours alone."""
    if computed.way == PLAIN:
        return operation

    def sides(world: World) -> list[Side]:
        return [side for side in operation.sides(world) if side.name != operations.PLAIN]

    return replace(operation, sides=sides)


def _measure(bench: Bench, operation: Operation, world: World) -> None:
    """Time an operation unless that was done; with half as many images where memory runs out."""
    rows = speed_rows.read(bench.table)
    if bench.over or _is_there(rows, operation, world):
        return
    _forget(world)
    try:
        found = measured(operation, world, _patience(bench, world.computed), {})
    except torch.OutOfMemoryError as error:
        if world.batch == 1:
            bench.tell("speeds", operation.name, world.computed, "failed", note=_words(error))
            return
        found = []
    except Exception as error:  # as above: the other ways are still worth knowing
        bench.tell("speeds", operation.name, world.computed, "failed", note=_words(error))
        return
    if not found:  # out of memory; what took it is given back by now
        _measure(bench, operation, replace(world, batch=world.batch // 2))
        return
    new = speed_rows.rows_of(operation.name, found, world)
    speed_rows.write(bench.table, [*rows, *new])
    for row in new:
        print(f"  {operation.name}, {row.side}, {world.computed.name}: {row.rate:.4g} images/s", flush=True)


def _patience(bench: Bench, computed: Computed) -> Patience:
    """On a GPU libraries choose their algorithms in a first run; what is captured is captured in a second one."""
    if not bench.on_gpu:
        return bench.patience
    captured = computed.way.graphs or computed.way.compiled
    return replace(bench.patience, warmups=4 if captured else 2)


def _forget(world: World) -> None:
    """Give back what operations before have taken: captured graphs, and compiled functions, whose number is limited."""
    if world.computed.way.compiled:
        torch.compiler.reset()
    if world.device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _is_there(rows: Sequence[Row], operation: Operation, world: World) -> bool:
    """Whether there is a row of this operation in this world, whatever its batch was."""
    held = speed_rows.conditions(world)
    same = ("device", "torch", "code", "model", "protocol", "precision", "layout", "compiled", "graphs")
    return any(
        row.operation == operation.name and all(getattr(row, name) == held[name] for name in same) for row in rows
    )


# --- 4 and 5 ---------------------------------------------------------------------------------------------------------


def tell_hours(bench: Bench) -> None:
    """Part by part in every precision that was measured."""
    if bench.world.model != "MDEQ-Large":
        print("  left out: the speeds are of another model")
        return
    rows, rates = _current(bench), bench.page.with_name("gpu-rates.csv")
    hours.write_rates(rates, rows)
    for part in hours.parts(bench.world.config, bench.world.shape):
        for precision in hours.PRECISIONS:
            found = hours.hours(part, rows, precision)
            if found is not None:
                bench.tell("hours", part.name, Computed(precision), "told", value=found, note="h")
    try:
        rules = hours.by_rule(bench.world.config, bench.world.shape, rates)
    except UserError as error:
        print(f"  left out, hours of every rule: {error}; `deqpipe plan` says them from {rates.name}")
        return
    measured_ones = {row.precision for row in rows}
    for rule, taken in rules.items():
        for precision in hours.PRECISIONS:
            if precision in measured_ones:
                bench.tell("hours", f"rule {rule}", Computed(precision), "told", value=taken[precision], note="h")


def _current(bench: Bench) -> list[Row]:
    """The speeds of this device, torch and code."""
    held = speed_rows.conditions(bench.world)
    same = ("device", "torch", "code", "model")
    return [row for row in speed_rows.read(bench.table) if all(getattr(row, name) == held[name] for name in same)]


def compare_answers(bench: Bench, options: argparse.Namespace) -> None:
    """Robust accuracy of a trained model in tf32 and bf16 minus that in fp32, on the same images."""
    if options.checkpoint is None:
        print("  left out: no --checkpoint was given")
        return
    changes: dict[str, Any] = {}
    for path in options.config:
        changes = configuration.merge(changes, configuration.read_yaml(path))
    world = replace(bench.world, model="MDEQ-Large", changes=changes)
    attacked = device_checks.Attacked(world, options.checkpoint, options.data, options.images)
    exact: device_checks.Answers | None = None
    for precision in ("bf16", "tf32"):
        computed = Computed(precision)
        if missing := computed.missing(world.device):
            print(f"  left out, {precision}: {missing}")
            continue
        what = f"{options.checkpoint.name}: robust accuracy minus that in fp32"
        if bench.over or bench.findings.has(bench.asked("answers", what, computed)):
            continue
        exact = exact or attacked.answers(Computed("fp32"))
        apart, changed = device_checks.paired(attacked.answers(computed), exact)
        note = f"{apart.low:+.2%} to {apart.high:+.2%}, {apart.n} images, {changed} answers changed"
        bench.tell("answers", what, computed, "told", value=apart.value, note=note)


if __name__ == "__main__":
    sys.exit(main())
