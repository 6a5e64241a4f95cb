"""Whether two folders hold the same results but for what the clock says, and nothing beside them."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from benchmarks import same_results
from deqpipe.results import header, integrity, parquet, records

_CLOCK = {"seconds", "device", "versions", "code"}
_NOT_COMPARED = {integrity.KEY, header.TENSORS_KEY, "history"}  # digests, of files that say when they were made


def difference(one: Path, other: Path, names: tuple[str, ...]) -> str | None:
    """In which file of some names two folders differ, in words; None: in none."""
    for name in names:
        if not (other / name).exists():
            return f"{name} is missing"
        told = unequal(one / name, other / name)
        if told is not None:
            return f"{name} is another one: {told}"
    return None


def unequal(one: Path, other: Path) -> str | None:
    """In what two files of one format differ; None: in nothing. The second may be damaged."""
    parts = dict(contents(one))
    try:
        theirs = dict(contents(other))
    except (SafetensorError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        return f"it cannot be read ({type(error).__name__}: {error})"
    for name in sorted(parts.keys() | theirs.keys()):
        if not same_results.equal(parts.get(name), theirs.get(name)):
            return name
    return None


def contents(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """What a file holds, by name: its numbers, and what it says of itself."""
    yield from same_results.contents(path)
    yield "what it says of itself", np.array(json.dumps(_without_clock(_told(path)), sort_keys=True))


def _told(path: Path) -> Any:
    if path.suffix == ".safetensors":
        with header.opened(path, "file", "numpy") as file:
            return header.read(file, str(path)).metadata
    if path.suffix == ".parquet":
        return json.loads(parquet.read(path, (), where=str(path)).metadata[records.METADATA_KEY])
    if path.suffix == ".json":
        return json.loads(path.read_text())["provenance"]
    return None


def _without_clock(told: Any) -> Any:
    if isinstance(told, Mapping):
        left_out = _CLOCK | _NOT_COMPARED
        return {key: _without_clock(value) for key, value in told.items() if key not in left_out}
    return [_without_clock(value) for value in told] if isinstance(told, list) else told


def leftovers(one: Path, other: Path) -> str | None:
    """A file that the second folder has and the first has not, in words; None: there is none."""
    names = [{path.relative_to(folder).as_posix() for path in folder.rglob("*")} for folder in (one, other)]
    more = sorted(names[1] - names[0])
    return f"left behind: {', '.join(more[:5])}" if more else None
