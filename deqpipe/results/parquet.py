"""Columns of numpy arrays in Parquet files. No pandas, which Arrow's own ways from and to numpy import.

Every page has a checksum, compared when it is read; the footer, which says where pages lie and what they hold, carries
a digest of itself. So what is read is verified, and nothing else is: tables read few columns of large files.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deqpipe.errors import DamagedFileError
from deqpipe.machine import faults
from deqpipe.results import integrity

_MAGIC = b"PAR1"
_MARK = b"deqpipe-sha256:"  # before the digits of the digest
_DIGITS = 64
_NOTHING = b"0" * _DIGITS  # in their place while the digest is computed
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
    sealed = {**metadata, integrity.KEY.encode(): _MARK + _NOTHING}
    table = pa.Table.from_arrays(arrays, names=list(columns), metadata=sealed)
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    seal(path)


def seal(path: Path) -> None:
    """Put the digest of a file's footer into its place there.

    Raises:
        OSError: the file has no such footer.
    """
    with path.open("r+b") as file:
        start, footer = _footer(file)
        digits = _place(footer)
        if digits is None:
            raise OSError("there is no one place for a digest")
        file.seek(start + digits.start)
        file.write(_digest(footer, digits))


def _footer(file: BinaryIO) -> tuple[int, bytes]:
    """Where the footer begins, and its bytes with those that end the file.

    Raises:
        OSError: there is none.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    end = file.read()
    length = int.from_bytes(end[:4], "little") + 8
    if end[4:] != _MAGIC or length > size:
        raise OSError("it does not end as a Parquet file does")
    file.seek(size - length)
    return size - length, file.read()


def _place(footer: bytes) -> slice | None:
    """Where the digits of the digest stand in a footer; None where there is no one place."""
    if footer.count(_MARK) != 1:
        return None
    start = footer.index(_MARK) + len(_MARK)
    return slice(start, start + _DIGITS)


def _digest(footer: bytes, digits: slice) -> bytes:
    blank = footer[: digits.start] + _NOTHING + footer[digits.stop :]
    return hashlib.sha256(blank).hexdigest().encode()


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


def read(path: Path, names: Sequence[str], *, where: str) -> Content:
    """The columns of these names that a file has.

    Args:
        path: of the file.
        names: of columns.
        where: what a message calls it.

    Raises:
        DamagedFileError: the file is no Parquet file, or not as it was written.
        OSError: it is missing or cannot be opened.
    """
    with _opened(path, where) as file:
        schema = file.schema_arrow
        return _content(schema, file.read(columns=[name for name in names if name in schema.names]))


def groups(path: Path, names: Sequence[str], *, where: str) -> Iterator[Content]:
    """The same columns, of one group of rows after the other: files may hold more rows than memory does.

    Raises:
        OSError: as `read`.
    """
    with _opened(path, where) as file:
        schema = file.schema_arrow
        there = [name for name in names if name in schema.names]
        for number in range(max(1, file.num_row_groups)):  # without rows there is no group
            table = file.read_row_group(number, columns=there) if file.num_row_groups else file.read(columns=there)
            yield _content(schema, table)


def _content(schema: pa.Schema, table: pa.Table) -> Content:
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            column.validate(full=True)  # no checksum is of how many words a page says that it holds
    return Content(schema.metadata or {}, tuple(schema.names), table)


@contextmanager
def _opened(path: Path, where: str) -> Iterator[pq.ParquetFile]:
    _refuse_damaged_footer(path, where)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        if faults.is_out_of_memory(error) or faults.as_of_files(error):  # which says nothing of the file
            raise
        raise _unreadable(where, error) from None


def _refuse_damaged_footer(path: Path, where: str) -> None:
    """Compare the digest before anything is made of the footer; a file without one is for the caller to judge."""
    with path.open("rb") as file:
        try:
            _, footer = _footer(file)
        except OSError as error:
            if faults.is_of_files(error):
                raise
            raise _unreadable(where, error) from None
    digits = _place(footer)
    if digits is not None and footer[digits] != _digest(footer, digits):
        raise integrity.damaged(where)


def _unreadable(where: str, error: Exception) -> DamagedFileError:
    return DamagedFileError(f"{where} cannot be read: {' '.join(str(error).split())}; {integrity.ADVICE}")


def is_sealed(content: Content) -> bool:
    """Whether a file carries the digest that was compared when it was opened."""
    return content.metadata.get(integrity.KEY.encode(), b"").startswith(_MARK)
