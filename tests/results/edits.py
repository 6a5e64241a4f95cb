"""Changes of files by hand, by somebody who puts the digest right again."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deqpipe.results import document, example, integrity, parquet


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write keys and values, and their digest in place of one that they have."""
    path.write_text(document.sealed_text({k: v for k, v in content.items() if k != integrity.KEY}, sort_keys=False))


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a table of records, which has a place for a digest."""
    pq.write_table(table, path, **options)
    parquet.seal(path)


def edit_arrays(path: Path, changed: Mapping[str, Any]) -> None:
    """Change arrays of an npz file; None takes one out."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != integrity.KEY} | dict(changed)
    kept = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    np.savez(path, **(kept if any(array.dtype == object for array in kept.values()) else example.sealed(kept)))


def without_digest(path: Path) -> str:
    """The text of a JSON file as it would be without its digest."""
    text = path.read_text()
    assert re.search(r'"digest": "[0-9a-f]{64}"', text)
    return re.sub(r'\n "digest": "[0-9a-f]{64}",|,\n "digest": "[0-9a-f]{64}"(?=\n})', "", text)
