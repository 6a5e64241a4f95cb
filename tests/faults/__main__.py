"""Faults made on purpose: commands are killed, stopped, starved and fed damaged files, and must end right all the same.

    python -m tests.faults [KIND ...] [--seed S] [--count N] [--case N] [--of NAME ...] [--scratch FOLDER]

A full run tries every kind and takes about an hour on two cores (`make test-faults`). Cases are drawn from the seed,
each from its own number: one that went wrong is tried again alone with `KIND --seed S --case N`. The exit status is 1
if any was wrong.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.faults import configurations, damage, disks, kills, pairs, signals
from tests.faults.cases import Bench, Kind, Verdict

KINDS = {
    kind.name: kind for kind in (kills.KIND, signals.KIND, damage.KIND, configurations.KIND, pairs.KIND, disks.KIND)
}
_EVERY_SECONDS = 10.0  # between two lines of progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the cases that were asked for; returns the exit status."""
    options = _parser().parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="faults", dir=options.scratch))
    found = [verdict for name in options.kinds or KINDS for verdict in _tried(KINDS[name], options, folder)]
    if any(verdict.outcome == "wrong" for verdict in found):
        print(f"what went wrong lies in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").split("\n")[0])
    kinds = "; ".join(f"{kind.name}: {kind.text}" for kind in KINDS.values())
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="KIND", help=f"all, or some: {kinds}")
    parser.add_argument("--seed", type=int, default=0, help="that cases are drawn from")
    parser.add_argument("--count", type=int, help="how many cases of each kind, instead of a full run's")
    parser.add_argument("--case", type=int, help="the case of this number alone")
    parser.add_argument("--of", nargs="+", default=[], metavar="NAME", help="these jobs or formats alone")
    parser.add_argument("--scratch", type=Path, help="folder for the files of cases; by default that of the system")
    parser.add_argument("--patience", type=float, default=120.0, metavar="SECONDS", help="what takes longer is wrong")
    parser.add_argument("--large", action="store_true", help="signals: at the size of MDEQ-Large")
    parser.add_argument("--batch", type=int, default=96, help="images at once there")
    return parser


def _tried(kind: Kind, options: argparse.Namespace, scratch: Path) -> list[Verdict]:
    """The verdicts on the cases of a kind; what is wrong is printed at once, the counts at the end."""
    folder = scratch / kind.name
    folder.mkdir()
    bench = Bench(
        kind.name, folder, options.seed, options.patience, options.large, options.batch, only=tuple(options.of)
    )
    numbers = range(options.count or kind.count) if options.case is None else (options.case,)
    print(f"{kind.name}: {kind.text}; {len(numbers)} cases of seed {options.seed}", flush=True)
    started, case = time.monotonic(), kind.open(bench)
    verdicts = list(_watched(((number, case(number)) for number in numbers), len(numbers), _again(kind, options)))
    print(*table(verdicts), f"{time.monotonic() - started:.0f} s\n", sep="\n", flush=True)
    return verdicts


def _again(kind: Kind, options: argparse.Namespace) -> str:
    """The command that tries a case again, but for its number."""
    more = [*(["--of", *options.of] if options.of else []), *(["--large"] if options.large else [])]
    return " ".join(["python -m tests.faults", kind.name, "--seed", str(options.seed), *more, "--case"])


def _watched(tried: Iterable[tuple[int, Verdict]], total: int, again: str) -> Iterator[Verdict]:
    """The verdicts, with a line now and then, and one for each that is wrong."""
    started = told = time.monotonic()
    wrong = 0
    for done, (number, verdict) in enumerate(tried, 1):
        if verdict.outcome == "wrong":
            wrong += 1
            print(f"  wrong: case {number}, {verdict.row}: {verdict.told}\n    again: {again} {number}", flush=True)
        if time.monotonic() - told >= _EVERY_SECONDS:
            told = time.monotonic()
            print(f"  {done} of {total}, {wrong} wrong, {told - started:.0f} s", flush=True)
        yield verdict


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """Counts by row and in all, in lines."""
    rows = defaultdict[str, list[Verdict]](list)
    for verdict in verdicts:
        rows[verdict.row].append(verdict)
    width = max([len("in all"), *map(len, rows)])
    head = f"  {'':{width}} {'cases':>6} {'faults':>6} {'right':>6} {'wrong':>6} {'skipped':>7} {'longest':>8}"
    return [head, *(_line(name, rows[name], width) for name in sorted(rows)), _line("in all", verdicts, width)]


def _line(name: str, verdicts: Sequence[Verdict], width: int) -> str:
    count = {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in ("right", "wrong", "skipped")}
    seconds = [verdict.seconds for verdict in verdicts if verdict.seconds is not None]
    longest = f"{max(seconds):6.2f} s" if seconds else ""
    faults = sum(verdict.faults for verdict in verdicts)
    return (
        f"  {name:{width}} {len(verdicts):6,} {faults:6,} {count['right']:6,} {count['wrong']:6,} "
        f"{count['skipped']:7,} {longest:>8}"
    )


if __name__ == "__main__":
    sys.exit(main())
