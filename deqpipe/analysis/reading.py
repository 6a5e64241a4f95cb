"""The one reader of records: which files, columns, rows and states, checked as they are read. No torch.

Files hold millions of rows, and a table needs few of their numbers: rows are read group by group and parted by decision
at once, of columns with one value per state only the states stay that were asked for, and whether every attack has
every image exactly once is counted, not sorted.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.results.records import Group, Records
from deqpipe.workflow import specs
from deqpipe.workflow.gridpoints import GridPoint

Judge: TypeAlias = tuple[str, str]
"""Who decides: a model, and a defence as records call it."""
Points: TypeAlias = tuple[GridPoint, ...]

T = TypeVar("T")
_PLACE = ("image", "state", "steps", "damping")


@dataclass(frozen=True)
class Source:
    """A file that was read, and where its content comes from."""

    path: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Files:
    """Records files that were seen to be of the spec that the configuration asks for.

    Attributes:
        paths: in the order in which they are read.
        sources: the same files with where they come from.
    """

    paths: tuple[Path, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class RowQuery:
    """Which rows of a decision, and which of its states.

    Attributes:
        states: of columns with one value per state: an index counted from 0, which leaves no axis of states, or
            several; None: all.
        points: attacks of the grid; None: all rows.
    """

    states: int | slice | None = None
    points: Collection[GridPoint] | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of one decision, in the order of the files.

    Attributes:
        grid: the attacks that there can be, in their sort order; None: one attack, whatever its surrogate is called.
        point: (rows,) index into the grid; -1: none of it.
        image: (rows,).
        columns: those that were asked for.
        counts: (attacks, images) how often each of these pairs is there.
        foreign: the first attack that is none of the grid.
    """

    grid: Points | None
    point: NDArray[np.int16]
    image: NDArray[np.int32]
    columns: Mapping[str, np.ndarray]
    counts: NDArray[np.int32]
    foreign: GridPoint | None

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @property
    def present(self) -> Points:
        """The attacks of the grid that there are rows of."""
        return tuple((self.grid or ())[number] for number in np.flatnonzero(self.counts.sum(axis=1)))

    def table(
        self, *names: str, points: Points | None = None, images: int | None = None, where: str
    ) -> tuple[np.ndarray, ...]:
        """Columns as (attacks, images, ...), once it is sure that there is exactly one row for each of these pairs.

        Args:
            names: of the columns.
            points: rows of other attacks of the grid are passed over; None: all attacks.
            images: how many there must be, counted from 0; None: all images that are evaluated.
            where: what the rows are called where they are refused.

        Raises:
            UserError: rows are missing, doubled, or belong to other attacks or images.
        """
        images, chosen = images or self.counts.shape[1], self._chosen(points)
        self.refuse_foreign(where)
        rank = np.full(len(self.counts) + 1, -1, np.intp)  # one more, for rows of no point of the grid
        rank[chosen] = np.arange(len(chosen))
        mine = np.flatnonzero(rank[self.point] >= 0)
        _refuse_outside(self.image[mine], images, where)
        counts = self.counts[chosen, :images]
        if (counts != 1).any():
            raise UserError(f"{where} {_incomplete(counts, points or self.grid)}")
        cell: NDArray[np.intp] = rank[self.point[mine]] * images + self.image[mine]
        return tuple(_placed(self.columns[name][mine], cell, counts.shape) for name in names)

    def refuse_foreign(self, where: str) -> None:
        """Refuse rows of an attack that is none of the grid.

        Raises:
            UserError: there is such a row.
        """
        if self.foreign is not None:
            raise UserError(f"{where} hold the attack {self.foreign.name}, which the configuration does not ask for")

    def _chosen(self, points: Points | None) -> NDArray[np.intp]:
        if points is None or self.grid is None:
            return np.arange(len(self.counts))
        return np.array([self.grid.index(point) for point in points], dtype=np.intp)


def _refuse_outside(held: NDArray[np.int32], images: int, where: str) -> None:
    outside = held[(held < 0) | (held >= images)]
    if len(outside):
        raise UserError(f"{where} hold image {outside[0]}, but images 0 to {images - 1} are evaluated")


def _incomplete(counts: NDArray[np.int32], points: Points | None) -> str:
    point, image = divmod(int(np.argmax(counts != 1)), counts.shape[1])
    attack = f"attack {points[point].name}, " if points else ""
    if counts[point, image]:
        return f"hold {attack}image {image} {counts[point, image]} times"
    lacking = int((counts == 0).sum())
    if not points:
        return f"lack {lacking} of {counts.size} images, the first of them {image}"
    return f"lack {lacking} of {counts.size} rows, the first of them {attack}image {image}"


def _placed(values: np.ndarray, cell: NDArray[np.intp], shape: tuple[int, int]) -> np.ndarray:
    placed = np.empty((shape[0] * shape[1], *values.shape[1:]), values.dtype)
    placed[cell] = values
    return placed.reshape(*shape, *values.shape[1:])


def opened(paths: Sequence[Path], spec: Mapping[str, Any], *, root: Path) -> Files:
    """Files of a spec, once each of them was seen to be of it; no row is read.

    Args:
        paths: of the files.
        spec: that the configuration asks for.
        root: of the tree that they are named in.

    Raises:
        UserError: a file is missing, no records file or of another spec, or they are of different weights.
    """
    entries = []
    for path in paths:
        entries.append(records.read(path, ()).provenance[0])
        refuse_other_spec(entries[-1], spec, path)
    records.refuse_mixed(entries)
    sources = (Source(str(path.relative_to(root)), dict(one)) for path, one in zip(paths, entries, strict=True))
    return Files(tuple(paths), tuple(sources))


def refuse_other_spec(entry: Mapping[str, Any], spec: Mapping[str, Any], path: Path) -> None:
    """Refuse a file of another configuration.

    Raises:
        UserError: its provenance names another spec.
    """
    if specs.dumps(entry["spec"]) != specs.dumps(spec):
        raise UserError(
            f"{path} was made by spec {specs.fingerprint(entry['spec'])}, but the configuration asks for "
            f"{specs.fingerprint(spec)}; run the workflow again"
        )


def read(
    files: Files,
    asked: Mapping[Judge, RowQuery],
    columns: Sequence[str],
    *,
    grid: Points | None,
    images: int,
    crafted_on: str | None = None,
) -> dict[Judge, Rows]:
    """The rows of several decisions.

    Args:
        files: where they stand.
        asked: which rows of each decision.
        columns: beside image and attack.
        grid: the attacks that there can be; None: one attack, whatever its surrogate is called.
        images: how many are evaluated.
        crafted_on: the model that all images of the files must have been crafted on; None: it is not looked at.

    Raises:
        UserError: files are damaged or lack a column, rows stand twice, or images were crafted on another model.
    """
    parts: dict[Judge, list[_Part]] = {judge: [] for judge in asked}
    for path, group in _ahead(_groups(files, columns, crafted_on)):
        if crafted_on is not None:
            _refuse_crafted_elsewhere(group, crafted_on, path)
        point = _positions(group, grid)
        for judge, wanted in asked.items():
            parts[judge].append(_part(group, point, judge, wanted, columns, grid))
    rows = {judge: _joined(parts.pop(judge), columns, grid, images) for judge in asked}  # frees as it goes
    _refuse_doubled(rows, files)
    return rows


def defences(files: Files) -> tuple[str, ...]:
    """All defences that rows of the files are of, in alphabetical order."""
    occurring = (group.occurring("defence") for path in files.paths for group in records.groups(path, ("defence",)))
    return tuple(sorted({word for words in occurring for word in words}))


def whole(files: Files, columns: Sequence[str]) -> Records:
    """All rows of files that hold few.

    Raises:
        UserError: files are damaged or lack a column, or rows stand twice.
    """
    return records.merge([records.read(path, columns) for path in files.paths])


def same_labels(labels: NDArray[np.int16], where: str) -> NDArray[np.int16]:
    """The labels (images,) of a table of attacks and images.

    Raises:
        UserError: an image has another label under another attack.
    """
    if (labels != labels[0]).any():
        raise UserError(f"{where} give one image different labels")
    one: NDArray[np.int16] = labels[0]
    return one


def _groups(files: Files, columns: Sequence[str], crafted_on: str | None) -> Iterator[tuple[Path, Group]]:
    names = (*_PLACE, "model", "defence", *(("crafted_on",) if crafted_on is not None else ()), *columns)
    for path in files.paths:
        for group in records.groups(path, names):
            yield path, group


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, of which the next one is made while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _refuse_crafted_elsewhere(group: Group, model: str, path: Path) -> None:
    others = [name for name in group.occurring("crafted_on") if name != model]
    if others:
        raise UserError(f"{path} holds images crafted on {others[0]}, but must on {model}")


@dataclass(frozen=True)
class _Part:
    """The rows of one decision in one group."""

    point: NDArray[np.int16]
    image: NDArray[np.int32]
    columns: Mapping[str, np.ndarray]
    foreign: GridPoint | None


def _part(
    group: Group, point: NDArray[np.int16], judge: Judge, asked: RowQuery, columns: Sequence[str], grid: Points | None
) -> _Part:
    where = group.where(model=judge[0], defence=judge[1])
    if asked.points is not None:
        indices = [index for index, one in enumerate(grid or ()) if one in asked.points]
        where = where[np.isin(point[where], indices)]
    values = {name: group[name] for name in columns}
    return _Part(
        point[where],
        group["image"][where],
        {name: _of_states(one, asked.states)[where] for name, one in values.items()},
        _foreign(group, where[point[where] < 0]),
    )


def _of_states(values: np.ndarray, states: int | slice | None) -> np.ndarray:
    return values if values.ndim == 1 or states is None else values[:, states]


def _foreign(group: Group, rows: NDArray[np.intp]) -> GridPoint | None:
    if not len(rows):
        return None
    state, steps, damping = (group[name][rows[0]] for name in ("state", "steps", "damping"))
    return GridPoint(damping=float(damping), state=int(state), steps=int(steps))


def _joined(parts: Sequence[_Part], columns: Sequence[str], grid: Points | None, images: int) -> Rows:
    point = np.concatenate([part.point for part in parts])
    image = np.concatenate([part.image for part in parts])
    attacks = 1 if grid is None else len(grid)
    known = (point >= 0) & (image >= 0) & (image < images)
    cell = point[known].astype(np.intp) * images + image[known]
    return Rows(
        grid=grid,
        point=point,
        image=image,
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in columns},
        counts=np.bincount(cell, minlength=attacks * images).astype(np.int32).reshape(attacks, images),
        foreign=next((part.foreign for part in parts if part.foreign), None),
    )


def _refuse_doubled(rows: Mapping[Judge, Rows], files: Files) -> None:
    doubled = {judge: int(np.maximum(one.counts - 1, 0).sum()) for judge, one in rows.items()}
    first = next((judge for judge, count in doubled.items() if count), None)
    if first is not None:
        image, paths = _first_doubled(rows[first], first, files)
        raise UserError(
            f"{sum(doubled.values())} images stand twice in records that should be put together, the first of them "
            f"image {image} of {first[0]}, {first[1]}, in {' and '.join(map(str, paths))}"
        )


def _first_doubled(rows: Rows, judge: Judge, files: Files) -> tuple[int, tuple[Path, ...]]:
    """The first image of a decision that stands twice, and the files, read once more, that it stands in."""
    point, image = divmod(int(np.argmax(rows.counts > 1)), rows.counts.shape[1])
    paths = []
    for path, group in _groups(files, (), None):
        own = group.where(model=judge[0], defence=judge[1])
        if ((_positions(group, rows.grid)[own] == point) & (group["image"][own] == image)).any():
            paths.append(path)
    return image, tuple(dict.fromkeys(paths))


def _positions(group: Group, grid: Points | None) -> NDArray[np.int16]:
    """Which point of the grid each row is of; records keep a point's damping in single precision."""
    if grid is None:
        return np.zeros(len(group), np.int16)
    dampings = tuple(dict.fromkeys(np.float32(point.damping) for point in grid))
    beyond = max(point.state for point in grid) + 1, max(point.steps for point in grid) + 1  # no point has these
    index = np.full((1 + len(dampings), 1 + beyond[0], 1 + beyond[1]), -1, np.int16)
    for number, point in enumerate(grid):
        index[1 + dampings.index(np.float32(point.damping)), point.state, point.steps] = number
    known = np.zeros(len(group), np.int16)
    for number, damping in enumerate(dampings, start=1):
        known[group["damping"] == damping] = number
    return index[known, _at_most(group["state"], beyond[0]), _at_most(group["steps"], beyond[1])]


def _at_most(values: NDArray[np.int16], most: int) -> NDArray[np.uint16]:
    """The values, with `most` in place of larger and of negative ones."""
    return np.minimum(values.astype(np.uint16), np.uint16(most))
