"""Where a table or figure comes from: the sidecar that stands beside it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from deqpipe.analysis.reading import Source
from deqpipe.config import Config
from deqpipe.counts import Evaluations
from deqpipe.errors import UserError
from deqpipe.results import integrity
from deqpipe.results.provenance import evaluations_of
from deqpipe.workflow import specs
from deqpipe.workflow.products import Definition
from deqpipe.workflow.stages import PRODUCTS

T = TypeVar("T")


@dataclass(frozen=True)
class Input:
    """A records file that was counted."""

    path: str
    spec: str
    """Fingerprint of its spec."""
    code: str
    """Hash of the package that made it."""
    device: str
    versions: dict[str, str | None]
    seconds: float
    evaluations: Evaluations


@dataclass(frozen=True)
class Origin:
    """What a product was made from."""

    config: str
    """Fingerprint of the resolved configuration."""
    spec: str
    """Fingerprint of what of it the product depends on."""
    revision: int
    """Of the stage that made it."""
    inputs: tuple[Input, ...]


def origin(
    config: Config,
    stage: Literal["table", "figure", "report"],
    sources: Iterable[Source],
    definition: Definition | None = None,
) -> Origin:
    """The origin of a product made from these files; a file that was read twice stands once."""
    unique = {source.path: source for source in sources}
    inputs = tuple(_input(unique[path]) for path in sorted(unique))
    spec = specs.fingerprint(specs.build_product(stage, config, definition))
    return Origin(config_fingerprint(config), spec, revision=PRODUCTS[stage].revision, inputs=inputs)


def config_fingerprint(config: Config) -> str:
    """Sixteen hexadecimal digits that stand for a resolved configuration."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _input(source: Source) -> Input:
    entry: dict[str, Any] = source.provenance
    return Input(
        path=source.path,
        spec=specs.fingerprint(entry["spec"]),
        code=str(entry.get("code", "unknown")),
        device=str(entry.get("device", "unknown")),
        versions={
            str(name): None if value is None else str(value) for name, value in entry.get("versions", {}).items()
        },
        seconds=float(entry.get("seconds", 0)),
        evaluations=evaluations_of(entry, Path(source.path)),
    )


def sidecar_text(product: Any) -> str:
    """The JSON that stands beside a table or figure: all of its dataclass that is to be written, and a digest."""
    return json.dumps(integrity.sealed(_written(product)), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _written(value: Any) -> Any:
    """A dataclass as JSON values."""
    if is_dataclass(value):
        told = (one for one in fields(value) if one.metadata.get("written", True))
        return {one.name: _written(getattr(value, one.name)) for one in told}
    if isinstance(value, tuple | list):
        return [_written(one) for one in value]
    return value


def read_sidecar(path: Path, kind: type[T], *, what: str) -> T:
    """A table or figure from its sidecar.

    Raises:
        DamagedFileError: the file is not as it was written.
        UserError: it is missing or no sidecar.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    where = f"{what} {path}"
    value = integrity.parsed(content, where)
    try:
        found = TypeAdapter(kind).validate_python(value)
        integrity.unsealed(value, where)
        return found
    except ValidationError:
        raise UserError(f"{what} {path} is no sidecar of a {what}") from None
