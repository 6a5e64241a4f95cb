"""results.json: every number of a run's tables in one file, with all that a reader needs to use it elsewhere. No torch.

The format is `Numbers`; schemas/results.schema.json is made from it. Its version rises in front of the point where what
was there is gone or means something else, behind it where something was added.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deqpipe.errors import DamagedFileError, UserError
from deqpipe.results import document, integrity, records

NAME = "results.json"
VERSION = "1.1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Interval(_Part):
    """The interval of a value."""

    low: float
    high: float
    level: float | None
    """Confidence, such as 0.95; null: low and high are the slowest and the fastest of repeated measurements."""


class OverSeeds(_Part):
    """A value over all seeds that have it."""

    values: dict[str, float]
    """By seed."""
    mean: float
    deviation: float
    """Standard deviation, with one less than the number of seeds in the denominator."""
    lowest: float
    highest: float


class Number(_Part):
    """A cell of a table."""

    table: int
    row: str
    column: str
    model: str | None
    """The trained model that the row is about; null where it is about none alone."""
    defence: str | None
    """The defence at test time of that row."""
    value: float | None
    """Of the first seed, unrounded; null where there is none, and `note` says why."""
    unit: str
    """Of value, interval, paper and over_seeds."""
    higher_is_better: bool | None
    """null: it is no matter of better and worse."""
    interval: Interval | None
    n: int | None
    """Test images behind the value; of speeds, repeats."""
    paper: float | None
    """The paper's number."""
    difference: float | None
    """value minus paper, where all settings are the paper's."""
    over_seeds: OverSeeds | None
    """null: one seed."""
    note: str


class TableFacts(_Part):
    """What all cells of a table have in common."""

    table: int
    title: str
    caption: str
    conditions: tuple[str, ...]
    """What the numbers were made under."""
    notes: tuple[str, ...]


class Origin(_Part):
    """What the file was made from."""

    config: str
    """Digest of the resolved configuration."""
    spec: str
    """Digest of what of it the file depends on."""
    revision: int
    """Of the code that makes the report and this file."""


class Made(_Part):
    """What computed the records that the numbers were counted from; several values where they differ."""

    versions: dict[str, tuple[str, ...]]
    """Of deqpipe, Python and libraries."""
    code: tuple[str, ...]
    """Hashes of deqpipe's source."""
    devices: tuple[str, ...]
    seconds: float
    """Computing time of all of them together."""
    evaluations: dict[str, int]
    """How often f was evaluated for an image: forward, backward to inputs, backward to weights."""


class Numbers(_Part):
    """All numbers of a run."""

    schema_version: Literal["1.1"] = "1.1"
    summary: tuple[str, ...]
    """What they amount to, in plain sentences, the most telling first."""
    warnings: tuple[str, ...] = ()
    """Checks of the attacks that failed, a sentence each: numbers that rest on these attacks are worth nothing."""
    seeds: tuple[int, ...]
    """Repetitions that the configuration asks for; values are those of the first."""
    tables: tuple[TableFacts, ...]
    cells: tuple[Number, ...]
    config: dict[str, Any]
    """The resolved configuration."""
    made: Made
    origin: Origin
    digest: str = Field(default="", pattern=r"^[0-9a-f]{64}$", validate_default=False)
    """SHA-256 of the rest: a file that decayed is refused."""


def write(path: Path, numbers: Numbers) -> None:
    """Write all numbers whole; the same numbers give the same bytes."""
    content = numbers.model_dump(mode="json", exclude={integrity.KEY})
    text = json.dumps(integrity.sealed(content), indent=1, ensure_ascii=False, allow_nan=False)
    records.write_text(path, text + "\n")


def read(path: Path) -> Numbers:
    """The numbers of a file.

    Raises:
        DamagedFileError: the file is not as it was written.
        UserError: it is missing, of another version of the format, or no such file.
    """
    content = document.read_object(path)
    _refuse_other_version(content, path)
    integrity.unsealed(content, str(path))
    try:
        return Numbers.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DamagedFileError(f"{path} is no results file of deqpipe: {place}: {first['msg']}") from None


def _refuse_other_version(content: Mapping[str, Any], path: Path) -> None:
    told = content.get("schema_version")
    if told is None:
        raise UserError(f"{path} says no schema_version, so it is no results file of deqpipe")
    if told != VERSION:
        raise UserError(f"{path} has schema_version {told!r}, but this deqpipe reads {VERSION}: make its report again")


def json_schema() -> dict[str, Any]:
    """JSON schema of the file."""
    schema = Numbers.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def finite(value: float | None) -> float | None:
    """The value where it is a number that JSON has."""
    return value if value is not None and math.isfinite(value) else None
