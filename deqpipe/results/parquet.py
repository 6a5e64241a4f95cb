"""Columns of numpy arrays in Parquet files. No pandas, which Arrow's own ways from and to numpy import."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Kind = type[np.generic] | type[str]
"""What a column holds: numbers of a type, or words out of a few."""


def write(
    path: Path, columns: Mapping[str, np.ndarray], kinds: Mapping[str, Kind], metadata: Mapping[bytes, bytes]
) -> None:
    """Write columns of shape (rows,) or (rows, values).

    Raises:
        ValueError: a whole number does not fit its column.
    """
    arrays = [
        _words(column) if kinds[name] is str else _numbers(column, kinds[name]) for name, column in columns.items()
    ]
    pq.write_table(pa.Table.from_arrays(arrays, names=list(columns), metadata=metadata), path, compression="zstd")


def _numbers(values: np.ndarray, kind: Kind) -> pa.Array:
    stored: np.ndarray = np.ascontiguousarray(values, dtype=kind)
    if stored.dtype.kind == "i" and not np.array_equal(stored, values):
        raise ValueError(f"numbers from {values.min()} to {values.max()} do not fit {stored.dtype}")
    flat = pa.Array.from_buffers(pa.from_numpy_dtype(stored.dtype), stored.size, [None, pa.py_buffer(stored)])
    return flat if stored.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, stored.shape[1])


def _words(values: np.ndarray) -> pa.Array:
    listed = values.tolist()
    numbers = {word: number for number, word in enumerate(dict.fromkeys(listed))}
    texts = [word.encode() for word in numbers]
    ends = np.cumsum([0, *(len(text) for text in texts)], dtype=np.int32)
    words = pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))
    return pa.DictionaryArray.from_arrays(_numbers(np.array([numbers[word] for word in listed]), np.int8), words)


@dataclass(frozen=True)
class Content:
    """What was read of a file.

    Attributes:
        metadata: of the file.
        names: of all its columns.
        table: those that were asked for and are there.
    """

    metadata: Mapping[bytes, bytes]
    names: tuple[str, ...]
    table: pa.Table

    def words(self, name: str) -> tuple[tuple[str, ...], np.ndarray]:
        """The words of a column, and the number of its word for each row."""
        column = self.table[name].unify_dictionaries()
        numbers = [np.from_dlpack(chunk.indices) for chunk in column.chunks]
        words = column.chunk(0).dictionary.to_pylist() if column.num_chunks else ()
        return tuple(words), np.concatenate([np.empty(0, np.int8), *numbers])

    def column(self, name: str) -> np.ndarray:
        """A column as it was written."""
        column = self.table[name]
        parts = [_values(chunk) for chunk in column.chunks]
        return parts[0] if len(parts) == 1 else np.concatenate([_nothing(column.type), *parts])


def _values(array: pa.Array) -> np.ndarray:
    if pa.types.is_dictionary(array.type):
        words: np.ndarray = np.array(array.dictionary.to_pylist(), dtype=object)[np.from_dlpack(array.indices)]
        return words
    if not pa.types.is_fixed_size_list(array.type):
        return np.from_dlpack(array)
    rows, size = len(array), array.type.list_size
    flat: np.ndarray = np.from_dlpack(array.values.slice(array.offset * size, rows * size))  # flatten() imports more
    return flat.reshape(rows, size)


def _nothing(kind: pa.DataType) -> np.ndarray:
    """A column without rows; files without rows have no chunks."""
    if pa.types.is_dictionary(kind):
        return np.empty(0, object)
    nested = pa.types.is_fixed_size_list(kind)
    number = (kind.value_type if nested else kind).to_pandas_dtype()  # one of numpy's
    return np.empty((0, kind.list_size) if nested else 0, number)


def read(path: Path, names: Sequence[str]) -> Content:
    """The columns of these names that a file has.

    Raises:
        OSError: the file is missing, damaged or no Parquet file.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        table = file.read(columns=[name for name in names if name in schema.names])
    return Content(schema.metadata or {}, tuple(schema.names), table)


def groups(path: Path, names: Sequence[str]) -> Iterator[Content]:
    """The same columns, of one group of rows after the other: files may hold more rows than memory does.

    Raises:
        OSError: as `read`.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        there = [name for name in names if name in schema.names]
        for number in range(max(1, file.num_row_groups)):  # without rows there is no group
            table = file.read_row_group(number, columns=there) if file.num_row_groups else file.read(columns=there)
            yield Content(schema.metadata or {}, tuple(schema.names), table)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except pa.ArrowInvalid as error:
        raise OSError(str(error)) from None
