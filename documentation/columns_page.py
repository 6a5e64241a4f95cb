"""Generated parts of pages about files: the columns of records, of metrics.jsonl, and the fields of results.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deqpipe.results import columns, metrics, numbers
from deqpipe.results.columns import Column
from documentation.keys import cell


def records_blocks() -> dict[str, str]:
    """The three tables of docs/records.md."""
    return {
        "per-row": _columns(columns.SCALARS),
        "per-row-of-suite": _columns(columns.FURTHER),
        "per-state": _columns(columns.PER_STATE),
    }


def _columns(named: Mapping[str, Column[type[np.generic] | type[str]]]) -> str:
    rows = [f"| `{name}` | {_type(one.kind)} | {cell(one.meaning)} |" for name, one in named.items()]
    return "\n".join(["| column | type | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def _type(kind: type[np.generic] | type[str]) -> str:
    return "text" if kind is str else np.dtype(kind).name


def metrics_blocks() -> dict[str, str]:
    """The table of docs/training.md."""
    rows = [f"| `{name}` | {cell(meaning)} |" for name, meaning in metrics.COLUMNS.items()]
    return {"metrics": "\n".join(["| key | meaning |", "| --- | --- |", *rows]) + "\n"}


def results_blocks() -> dict[str, str]:
    """The tables of docs/results.md."""
    schema = numbers.json_schema()
    parts = schema["$defs"]
    return {"file": _fields(schema), "cell": _fields(parts["Number"]), "made": _fields(parts["Made"])}


def _fields(schema: Mapping[str, Any]) -> str:
    rows = [
        f"| `{name}` | {_kind(one)} | {cell(' '.join(one.get('description', '').split()))} |"
        for name, one in schema["properties"].items()
    ]
    return "\n".join(["| field | holds | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def _kind(schema: Mapping[str, Any]) -> str:
    """What a field may hold, in words."""
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return f"object ({schema['$ref'].rsplit('/', 1)[-1]})"
    return str(schema.get("type", "text")).replace("string", "text")
