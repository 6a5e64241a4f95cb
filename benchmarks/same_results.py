"""Do two results folders hold the same numbers? Every tensor, every column of every record, every cell, bit for bit.

    python -m benchmarks.same_results RESULTS_A RESULTS_B

What says when, where and by which code something was made is not compared: provenance, digests, and the speeds of
Tables 9 and 10. Files of older versions, which carry no digest, are read, too. Exit status 1 where something differs,
or is in one folder alone.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from deqpipe.results import integrity, parquet, records

TIMED = {f"tables/table{number}.{ending}" for number in (9, 10) for ending in ("csv", "md", "html", "tex", "json")}
HISTORY_TIMES = {"seconds"}
NOT_NUMBERS = {"provenance", integrity.KEY}
KINDS = {".safetensors": "tensors", ".parquet": "columns", ".npz": "columns", ".csv": "cells", ".json": "answers"}
JSON_FOLDERS = ("select", "strongest", "race")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was compared and what differs; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.same_results", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    options = parser.parse_args(arguments)
    compared, different = differences(options.first, options.second)
    print(", ".join(f"{count:,} {kind}" for kind, count in compared.items()), f"compared, {len(different)} different")
    print(*different, sep="\n", end="\n" if different else "")
    return 1 if different else 0


def differences(first: Path, second: Path) -> tuple[dict[str, int], list[str]]:
    """How many values of each kind two folders have been compared in, and where they differ, in words."""
    compared, different = dict.fromkeys(("tensors", "columns", "cells", "answers"), 0), list[str]()
    for path in sorted({*_files(first), *_files(second)}):
        one, other = first / path, second / path
        if not one.exists() or not other.exists():
            different.append(f"{path}: in {first if one.exists() else second} alone")
            continue
        parts, theirs = dict(contents(one)), dict(contents(other))
        compared[KINDS[path.suffix]] += len(parts)
        names = sorted(parts.keys() | theirs.keys())
        different += [f"{path}: {name}" for name in names if not equal(parts.get(name), theirs.get(name))]
    return compared, different


def _files(folder: Path) -> Iterator[Path]:
    """What holds numbers, but for speeds."""
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        counted = path.suffix in KINDS and (path.suffix != ".json" or inside.parts[0] in JSON_FOLDERS)
        if counted and inside.as_posix() not in TIMED:
            yield inside


def contents(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The numbers of a file, by their names."""
    if path.suffix == ".safetensors":
        yield from load_file(path).items()
    elif path.suffix == ".parquet":
        found = parquet.read(path, records.COLUMNS, where=str(path))
        yield from ((name, found.column(name)) for name in records.COLUMNS)
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            yield from ((name, arrays[name]) for name in arrays.files if name not in NOT_NUMBERS)
    elif path.suffix == ".json":
        told = json.loads(path.read_text(encoding="utf-8"))
        yield from ((name, np.array(json.dumps(value))) for name, value in told.items() if name not in NOT_NUMBERS)
    else:
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        for number, row in enumerate(rows):
            for name, cell in zip(head, row, strict=False):
                if name not in HISTORY_TIMES:
                    yield f"row {number + 1}, {name}", np.array(cell)


def equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two values are the same to the last bit; None: there is none."""
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == object or one.dtype.kind in "US":
        return bool((one == other).all())
    return one.tobytes() == other.tobytes()


if __name__ == "__main__":
    sys.exit(main())
