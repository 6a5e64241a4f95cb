"""Per-image records of an evaluation, and the provenance that travels in the same file. No torch.

One row is one image under one attack, judged by one decision. Columns are `COLUMNS`; the columns of `PER_STATE` hold
one value for every state z^[1] .. z^[N] and, last, for the final (unrolled) state; a ResNet has the final state only.

What nobody reads is not computed: the residual of the final state; residuals and the final state where attacks are
scored for one table (pgd_in_loop, and other T_f and R); all states but the deciding one under AutoAttack's attacks.
There the class is `NOT_COMPUTED` and numbers are NaN.
"""

import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deqpipe.errors import UserError
from deqpipe.machine import faults
from deqpipe.results import columns as layout
from deqpipe.results import integrity
from deqpipe.results.provenance import checked
from deqpipe.workflow.gridpoints import GridPoint

if TYPE_CHECKING:
    from deqpipe.results.parquet import Content

SCALARS: Mapping[str, type[np.generic] | type[str]] = {name: one.kind for name, one in layout.SCALARS.items()}
FURTHER: Mapping[str, type[np.generic] | type[str]] = {name: one.kind for name, one in layout.FURTHER.items()}
PER_STATE: Mapping[str, type[np.generic]] = {name: one.kind for name, one in layout.PER_STATE.items()}
COLUMNS = (*SCALARS, *PER_STATE)
_KINDS = {**SCALARS, **FURTHER, **PER_STATE}
NOT_COMPUTED = -2
"""The class at a state that was not computed."""
METADATA_KEY = b"deqpipe"
_TEMPORARY = ".tmp"
_LOCK = ".lock"


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

    Further columns are written where there are any.

    Raises:
        ValueError: a whole number does not fit its column.
    """
    from deqpipe.results import parquet

    metadata = {METADATA_KEY: json.dumps(provenance, sort_keys=True).encode()}
    names = (*SCALARS, *(name for name in FURTHER if name in columns), *PER_STATE)
    with atomic(path) as temporary:
        parquet.write(temporary, {name: columns[name] for name in names}, _KINDS, metadata)


def read(path: Path, columns: Sequence[str] | None = None) -> Records:
    """Records from one file.

    Args:
        path: of it.
        columns: that it must have; None: those of every stage, and the further ones that it has.

    Raises:
        DamagedFileError: the file is cut short, or not as it was written.
        UserError: it is missing, cannot be read, is no records file, lacks a column, or carries no digest.
    """
    from deqpipe.results import parquet

    with _readable(path):
        content = parquet.read(path, columns or tuple(_KINDS), where=f"records {path}")
        provenance = _checked(content, path, columns or COLUMNS)
    found = [name for name in columns or _KINDS if name in content.names]
    return Records({name: content.column(name) for name in found}, (provenance,))


def groups(path: Path, columns: Sequence[str]) -> Iterator[Group]:
    """The rows of one file, in the groups that they are stored in: at most a million at once.

    Raises:
        UserError: as `read`.
    """
    from deqpipe.results import parquet

    texts = [name for name in columns if _KINDS.get(name) is str]
    with _readable(path):
        for content in parquet.groups(path, columns, where=f"records {path}"):
            _checked(content, path, columns)
            numbers = {name: content.column(name) for name in columns if name not in texts}
            yield Group(numbers, {name: content.words(name) for name in texts})


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"records {path} do not exist") from None
    except OSError as error:
        raise UserError(f"records {path} cannot be read: {faults.words(error, path)}") from None


def _checked(content: "Content", path: Path, columns: Sequence[str]) -> dict[str, Any]:
    """The provenance of a file that has it, a digest, and all columns."""
    from deqpipe.results import parquet

    if METADATA_KEY not in content.metadata:
        raise UserError(f"records {path} carry no provenance: not written by deqpipe")
    lacking = [name for name in columns if name not in content.names]
    if lacking:
        raise UserError(f"records {path} lack {', '.join(lacking)}: an older revision wrote them; delete the file")
    if not parquet.is_sealed(content):
        raise integrity.without_digest(f"records {path}")
    return checked(integrity.parsed(content.metadata[METADATA_KEY], f"records {path}"), path)


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
    names = ("model", "defence", "attack", "crafted_on", "crafted_seed", "crafted_defence", "radius", "state", "steps",
             "damping", "image")  # fmt: skip
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
    """A temporary path on the same file system that becomes `path` when the block ends without an exception.

    It lies in a folder of its own, where libraries may keep what they need meanwhile. The folder is locked as long as
    its writer lives: what killed writers of `path` have left is removed first. The user's umask says who may read and
    write the file.

    Raises:
        UserError: `path` is a folder, its folder cannot be made or written to, or the disk does not take the content.
    """
    with faults.written(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, but must be a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, of=glob.escape(path.name))
        folder, lock = _temporary_folder(path)
    temporary = folder / path.name
    try:
        with _faults_told(path, folder):
            yield temporary
        with faults.written(path):
            _publish(temporary, path)
    finally:
        _remove(folder, temporary)
        os.close(lock)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic`, an empty folder that becomes `path` with all that the block puts into it.

    Raises:
        UserError: `path` exists as a folder, or as `atomic`.
    """
    with atomic(path) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def _faults_told(path: Path, folder: Path) -> Iterator[None]:
    """As `faults.written`, of failures of the disk alone: a content may fail to be made for other reasons."""
    try:
        yield
    except OSError as error:
        if folder.exists() and not faults.is_of_files(error):
            raise
        raise UserError(f"{path} cannot be written: {faults.words(error, path)}") from None


def _temporary_folder(path: Path) -> tuple[Path, int]:
    """A new folder under a temporary name, and a handle that holds its lock."""
    while True:
        folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
        folder.mkdir()
        with suppress(FileNotFoundError):  # removed as a leftover before it was locked
            lock = _open_lock(folder)
            if _lock_of_new(lock) and (folder / _LOCK).exists():
                return folder, lock
            os.close(lock)  # somebody takes it for a leftover


def _lock_of_new(handle: int) -> bool:
    """Lock a file that was made a moment ago; False where somebody was faster."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def _open_lock(folder: Path) -> int:
    try:
        return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        with suppress(OSError):
            folder.rmdir()
        raise


def _publish(temporary: Path, path: Path) -> None:
    """Put a file or folder on the disk under its final name, files with the permissions that the umask gives them."""
    for one in (temporary, *temporary.rglob("*")):
        if not one.is_dir():
            _settle(one, permissions=stat.S_IMODE((temporary.parent / _LOCK).stat().st_mode))
    temporary.replace(path)
    _flush_folder(path.parent)


def _settle(path: Path, *, permissions: int) -> None:
    """Put a file's content on the disk. Some libraries make files that nobody but their owner may read."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.chmod(permissions)  # of the lock, which was made with the umask


def _remove(folder: Path, temporary: Path) -> None:
    """Remove a temporary folder; where that fails as well, the next writer does."""
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
        (folder / _LOCK).unlink()
        folder.rmdir()
        return
    shutil.rmtree(folder, ignore_errors=True)


def _try_lock(handle: int) -> bool:
    """Whether a file could be locked: not where somebody holds it, nor on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(folder: Path, *, of: str = "") -> None:
    """Remove what killed writers have left in a folder; those that live are left alone.

    Args:
        folder: need not be there.
        of: the name of the file that they wrote; "": any.
    """
    for leftover in folder.glob(f".{of or '*'}.*{_TEMPORARY}"):
        with suppress(OSError):  # somebody else's, or gone in the meantime
            _remove_unlocked(leftover)


def _remove_unlocked(leftover: Path) -> None:
    try:
        with (leftover / _LOCK).open("r+b") as file:
            if _try_lock(file.fileno()):
                shutil.rmtree(leftover)
    except FileNotFoundError:
        leftover.rmdir()  # nothing was written yet; if its writer lives, it makes another one


def _flush_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where its file system can: else a power cut takes the new name back."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
