"""Per-image records of an evaluation, and the provenance that travels in the same file. No torch.

One row is one image under one attack, judged by one decision. Columns are `COLUMNS`; the columns of `PER_STATE` hold
one value for every state z^[1] .. z^[N] and, last, for the final (unrolled) state; a ResNet has the final state only.

What nobody reads is not computed: the residual of the final state; residuals and the final state where attacks are
scored for one table (pgd_in_loop, and other T_f and R); all states but the deciding one under AutoAttack's attacks.
There the class is `NOT_COMPUTED` and numbers are NaN.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqpipe.errors import UserError
from deqpipe.workflow.gridpoints import GridPoint

SCALARS: Mapping[str, type[np.generic] | type[str]] = {
    "image": np.int32,  # index in the split, counted from 0
    "label": np.int16,
    "model": str,  # whose weights decide
    "defence": str,  # defences.DefenceName
    "attack": str,  # clean | pgd | pgd_in_loop | config.AttackName
    "crafted_on": str,  # whose gradients made the image; "" for clean ones
    "state": np.int16,  # i of the surrogate; 0: no surrogate of Eq. (11)
    "steps": np.int16,  # K_a
    "damping": np.float32,  # lambda
    "perturbation": np.float32,  # largest change of a pixel, in units of the pixel range
    "lost_gradient": np.float32,  # share of attack steps whose gradient was zero, or no number, in every pixel
    "status": np.int8,  # how the solve ended, as solver.solve.Status: 1 converged, 2 all steps, 3 not finite; 0: none
}
PER_STATE: Mapping[str, type[np.generic]] = {
    "predicted": np.int16,  # class; -1: logits that are not finite; NOT_COMPUTED
    "margin": np.float32,  # logit of the label minus the largest other logit
    "entropy": np.float32,  # of the softmax, in nats
    "residual": np.float32,  # norm(f(z) - z) / norm(f(z)); NaN for a ResNet and the final state
    "deviation": np.float32,  # norm(z - z_clean) / norm(z_clean); NaN for clean images and controls
}
COLUMNS = (*SCALARS, *PER_STATE)
NOT_COMPUTED = -2
"""The class at a state that was not computed."""
METADATA_KEY = b"deqpipe"


@dataclass(frozen=True)
class Records:
    """Rows as arrays: scalars of shape (rows,), per-state columns of shape (rows, states)."""

    columns: Mapping[str, np.ndarray]
    provenance: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.columns["image"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def under(self, point: GridPoint) -> NDArray[np.bool_]:
        """Which rows are of one attack of the grid; records keep its damping in single precision."""
        same: NDArray[np.bool_] = (self["state"] == point.state) & (self["steps"] == point.steps)
        same &= self["damping"] == np.float32(point.damping)
        return same

    def where(self, mask: np.ndarray) -> "Records":
        """The rows that a boolean mask selects."""
        return Records({name: column[mask] for name, column in self.columns.items()}, self.provenance)


@dataclass(frozen=True)
class Group:
    """Some rows of a file, whose words are kept as they are stored: each once, and its number in every row.

    Attributes:
        numbers: columns as in `Records`.
        words: the words of a column, and their numbers (rows,).
    """

    numbers: Mapping[str, np.ndarray]
    words: Mapping[str, tuple[tuple[str, ...], np.ndarray]]

    def __len__(self) -> int:
        return len(self.numbers["image"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.numbers[name]

    def where(self, **words: str) -> NDArray[np.intp]:
        """Indices of the rows that have these words in the columns of these names."""
        masks = [self._has(name, word) for name, word in words.items()]
        return np.flatnonzero(np.logical_and.reduce(masks))

    def _has(self, name: str, word: str) -> NDArray[np.bool_]:
        known, numbers = self.words[name]
        mask: NDArray[np.bool_] = numbers == (known.index(word) if word in known else -1)
        return mask

    def occurring(self, name: str) -> tuple[str, ...]:
        """The words that rows have in a column."""
        known, numbers = self.words[name]
        return tuple(known[number] for number in np.flatnonzero(np.bincount(numbers, minlength=len(known))))


def write(path: Path, columns: Mapping[str, np.ndarray], *, provenance: Mapping[str, Any]) -> None:
    """Write records whole: under a temporary name, then renamed. `provenance` goes into the file's metadata.

    Raises:
        ValueError: a whole number does not fit its column.
    """
    from deqpipe.results import parquet

    metadata = {METADATA_KEY: json.dumps(provenance, sort_keys=True).encode()}
    with atomic(path) as temporary:
        parquet.write(temporary, {name: columns[name] for name in COLUMNS}, {**SCALARS, **PER_STATE}, metadata)


def read(path: Path, columns: Sequence[str] = COLUMNS) -> Records:
    """Records from one file.

    Raises:
        UserError: the file is missing, is not a records file, is cut short, or lacks a column.
    """
    from deqpipe.results import parquet

    with _readable(path):
        content = parquet.read(path, columns)
        provenance = _checked(content.metadata, content.names, path, columns)
    return Records({name: content.column(name) for name in columns}, (provenance,))


def groups(path: Path, columns: Sequence[str]) -> Iterator[Group]:
    """The rows of one file, in the groups that they are stored in: at most a million at once.

    Raises:
        UserError: as `read`.
    """
    from deqpipe.results import parquet

    texts = [name for name in columns if SCALARS.get(name) is str]
    with _readable(path):
        for content in parquet.groups(path, columns):
            _checked(content.metadata, content.names, path, columns)
            numbers = {name: content.column(name) for name in columns if name not in texts}
            yield Group(numbers, {name: content.words(name) for name in texts})


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"records {path} do not exist") from None
    except OSError as error:
        raise UserError(f"records {path} cannot be read: {' '.join(str(error).split())}") from None


def _checked(metadata: Mapping[bytes, bytes], names: Sequence[str], path: Path, columns: Sequence[str]) -> Any:
    """The provenance of a file that has it, and all columns."""
    if METADATA_KEY not in metadata:
        raise UserError(f"records {path} carry no provenance: not written by deqpipe")
    lacking = [name for name in columns if name not in names]
    if lacking:
        raise UserError(f"records {path} lack {', '.join(lacking)}: an older revision wrote them; delete the file")
    return json.loads(metadata[METADATA_KEY])


def merge(parts: Sequence[Records]) -> Records:
    """Records of several shards of one spec as one.

    Raises:
        UserError: the shards come from different specs or from different weights, or an image stands twice under the
            same attack and decision.
    """
    provenance = tuple(entry for part in parts for entry in part.provenance)
    refuse_mixed(provenance)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].columns}
    merged = Records(columns, provenance)
    _refuse_duplicates(merged)
    return merged


def refuse_mixed(provenance: Sequence[Mapping[str, Any]]) -> None:
    """Refuse records that must not be put together.

    Raises:
        UserError: they come from different specs or from different weights.
    """
    specs = {json.dumps(entry["spec"], sort_keys=True) for entry in provenance}
    if len(specs) > 1:
        raise UserError(f"records of {len(specs)} different specs cannot be put together; delete the older ones")
    weights = {entry.get("weights") for entry in provenance}
    if len(weights) > 1:
        raise UserError(f"records of {len(weights)} differently trained models of one spec cannot be put together")


def _refuse_duplicates(records: Records) -> None:
    names = ("model", "defence", "attack", "crafted_on", "state", "steps", "damping", "image")
    keys = np.zeros(len(records), np.int64)  # one number per row, made of the number of its value in every column
    for name in names:
        if name in records.columns:
            values, numbers = np.unique(_sortable(records[name]), return_inverse=True)
            keys = keys * len(values) + numbers
    unique = len(np.unique(keys))
    if unique != len(keys):
        raise UserError(f"{len(keys) - unique} images stand twice in records that should be put together")


def _sortable(values: np.ndarray) -> np.ndarray:
    """Numbers in place of words: words by the million take seconds to sort."""
    if values.dtype != object:
        return values
    listed = values.tolist()
    numbers = {word: number for number, word in enumerate(dict.fromkeys(listed))}
    return np.array([numbers[word] for word in listed])


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends without an exception.

    Raises:
        UserError: `path` is a folder, or its folder cannot be made or written to.
    """
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with _told(path):
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {' '.join(str(error).split())}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
