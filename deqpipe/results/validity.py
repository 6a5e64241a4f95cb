"""Whether a file of the results folder is what the configuration asks for, by what the file itself says. No torch.

A file is valid if it was made by the spec that its job has now. When it was written, and by which run, is no matter: a
copy, a clone and a restored backup are as good as the original, and an old file is never believed because it is there.
Only what a file says of itself is read here, not its content: readers check that.
"""

import enum
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqpipe.config import Config, load
from deqpipe.errors import UserError
from deqpipe.results import integrity
from deqpipe.workflow import layout, products, specs
from deqpipe.workflow.products import Definition
from deqpipe.workflow.stages import ProductName

_HEADER_LIMIT = 100_000_000
"""Bytes of the longest header that the safetensors format allows."""


class State(enum.Enum):
    """What is to be thought of a file."""

    VALID = "valid"
    MISSING = "missing"
    STALE = "stale"
    """Made by another spec."""
    UNREADABLE = "unreadable"
    """Damaged, of an older version, or of somebody else: it says of no spec that it was made by it."""


def state_of(path: Path, wanted: str) -> State:
    """The state of a file that should have been made by a spec.

    Args:
        path: of the file.
        wanted: fingerprint of the spec.
    """
    if not path.exists():
        return State.MISSING
    told = fingerprint_in(path)
    if told is None:
        return State.UNREADABLE
    return State.VALID if told == wanted else State.STALE


def state_of_output(name: str, config: Config) -> State | None:
    """The state of an output; None of what tells nothing of itself, such as a history or a picture.

    Args:
        name: relative to the results folder.
        config: what is asked for.
    """
    path = Path(config.pathvars.results, name)
    if path.name == "history.csv":  # it is as the weights beside it are
        told = state_of_output(f"{name.removesuffix('history.csv')}best.safetensors", config)
        return told if path.exists() else State.MISSING
    if name == "config.yaml":
        return _state_of_config(path, config)
    if product := _product(name):
        return _state_of_product(path, product, config)
    job = layout.job_of(name, config)
    return None if job is None else state_of(path, specs.fingerprint_of_job(job, config))


@dataclass(frozen=True)
class Finding:
    """The state of one output.

    Attributes:
        name: relative to the results folder.
        state: of it.
        why: in what its spec differs from that of today, if it is stale.
    """

    name: str
    state: State
    why: str = ""


def survey(config: Config) -> tuple[Finding, ...]:
    """The states of all results that a configuration asks for: of jobs, tables, figures and the report."""
    results = Path(config.pathvars.results)
    found = []
    for name in layout.asked_for(config):
        state = state_of_output(name, config)
        if state is not None:
            found.append(Finding(name, state, _why(results / name, name, config) if state is State.STALE else ""))
    return tuple(found)


def _why(path: Path, name: str, config: Config) -> str:
    job = layout.job_of(name, config)
    if job is None:
        return "made by another configuration, or of other records"
    return f"made with {specs.difference(_told(path), specs.of_job(job, config))}"


def fingerprint_in(path: Path) -> str | None:
    """The fingerprint of the spec that a file says it was made by; None where it says nothing of the kind."""
    try:
        told = _told(path)
        return told if isinstance(told, str) else specs.fingerprint(told)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        return None


def _told(path: Path) -> Any:
    """The spec, or its fingerprint, that stands in a file; the first bytes tell the format."""
    with path.open("rb") as file:
        start = file.read(9)
        if start.startswith(b"PAR1"):
            return _of_records(path)["spec"]
        if start.startswith(b"PK"):
            return _of_arrays(path)["spec"]
        if start.startswith(b"<!DOCTYP"):
            return _of_page(path)
        if start.lstrip().startswith(b"{"):
            return _of_json(_sealed(json.loads(path.read_text(encoding="utf-8"))))
        (length,) = struct.unpack("<Q", start[:8])
        if length > _HEADER_LIMIT:
            raise ValueError("no header of a safetensors file")
        file.seek(8)
        header = json.loads(file.read(length))
        metadata = _sealed(json.loads(header["__metadata__"]["deqpipe"]))
        return metadata.get("adopted", metadata["provenance"])["spec"]


def _sealed(content: Any) -> Any:
    """What a file says, if it carries a digest, which its readers compare: they refuse what an older version wrote."""
    if integrity.KEY not in content:
        raise KeyError(integrity.KEY)
    return content


def _of_records(path: Path) -> Any:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import read_metadata

    from deqpipe.results.records import METADATA_KEY

    try:
        metadata = read_metadata(path).metadata or {}
        _sealed({key.decode() for key in metadata})
        return json.loads(metadata[METADATA_KEY])
    except ArrowInvalid as error:
        raise ValueError(str(error)) from None


def _of_arrays(path: Path) -> Any:
    import zipfile

    import numpy as np

    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return json.loads(str(_sealed(file)["provenance"]))
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None


def _of_json(content: Mapping[str, Any]) -> Any:
    """Sidecars of tables and figures say a fingerprint, all others their spec."""
    return content["origin"]["spec"] if "origin" in content else content["provenance"]["spec"]


_PAGE = re.compile(rb'<meta name="deqpipe-spec" content="([0-9a-f]{16})">')


def _of_page(path: Path) -> str:
    with path.open("rb") as file:
        found = _PAGE.search(file.read(4096))
    if found is None:
        raise ValueError("no report")
    return found[1].decode()


def _product(name: str) -> ProductName | None:
    matched = re.fullmatch(r"(table|figure)s/\1\d+\.\w+|report\.html|results\.json", name)
    return None if matched is None else matched[1] or "report"  # type: ignore[return-value]


def _state_of_product(path: Path, product: ProductName, config: Config) -> State:
    """A table or figure is as its sidecar says; what it was made of must be what it would be made of now."""
    if not path.exists():
        return State.MISSING
    sidecar = path if product == "report" else path.with_suffix(".json")
    state = state_of(sidecar, specs.fingerprint(specs.build_product(product, config, _table(path, config))))
    if state is not State.VALID or product == "report":
        return State.UNREADABLE if state is State.MISSING else state
    inputs = json.loads(sidecar.read_text(encoding="utf-8"))["origin"]["inputs"]
    same = all(_same_input(one, config) for one in inputs)
    return State.VALID if same else State.STALE


def _table(path: Path, config: Config) -> Definition | None:
    """Which table a file is of, if it is of one."""
    matched = re.fullmatch(r"table(\d+)", path.stem)
    return None if matched is None else products.tables(config).get(int(matched[1]))


def _same_input(told: Mapping[str, Any], config: Config) -> bool:
    """Whether a file that a product was made of would be made by the same spec now."""
    job = layout.job_of(str(told["path"]), config)
    return job is None or specs.fingerprint_of_job(job, config) == told["spec"]


def _state_of_config(path: Path, config: Config) -> State:
    if not path.exists():
        return State.MISSING
    try:
        return State.VALID if specs.conditions(load([path])) == specs.conditions(config) else State.STALE
    except UserError:
        return State.UNREADABLE
