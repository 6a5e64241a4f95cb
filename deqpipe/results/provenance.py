"""Where a result comes from: what stands beside every output."""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import deqpipe
from deqpipe.counts import NO_EVALUATIONS, Evaluations
from deqpipe.errors import UserError

PACKAGE = Path(deqpipe.__file__).parent
"""Whose source `code_hash` stands for."""
LIBRARIES = ("torch", "torchvision", "numpy", "pyarrow", "safetensors")


def provenance(
    spec: Mapping[str, Any],
    *,
    device: str,
    inputs: Mapping[str, Path],
    seconds: float,
    evaluations: Evaluations = NO_EVALUATIONS,
    weights: str | None = None,
) -> dict[str, Any]:
    """The record that goes with an output.

    Args:
        spec: of the job.
        device: what it ran on, in words.
        inputs: files that it read, by name.
        seconds: how long it computed, over all attempts.
        evaluations: of f, forward and backward, times images.
        weights: digest of the model that was evaluated; records of different ones are never put together.
    """
    return {
        "spec": dict(spec),
        "seed": spec.get("seed"),
        "code": code_hash(),
        "versions": versions(),
        "device": device,
        "inputs": {name: file_hash(path) for name, path in inputs.items()},
        "seconds": round(seconds, 3),
        "evaluations": asdict(evaluations),
        "weights": weights,
    }


def checked(told: Any, path: Path) -> dict[str, Any]:
    """The provenance that a file carries.

    Args:
        told: what stands in its place.
        path: where it was read, for the message.

    Raises:
        UserError: it is none.
    """
    if not isinstance(told, dict) or not isinstance(told.get("spec"), dict):
        raise UserError(f"{path} carries no provenance: not written by deqpipe")
    return told


def evaluations_of(told: Mapping[str, Any], path: Path) -> Evaluations:
    """How often f was evaluated for an output.

    Args:
        told: its provenance.
        path: where it was read, for the message.

    Raises:
        UserError: it does not say so.
    """
    try:
        return Evaluations(**told["evaluations"])
    except (KeyError, TypeError):
        raise UserError(
            f"{path} does not say how often f was evaluated forward and backward: an older version wrote it; delete it"
        ) from None


def versions() -> dict[str, str]:
    """Versions of Python, of the package and of the libraries that results depend on."""
    ours = {"python": platform.python_version(), "deqpipe": deqpipe.__version__}
    return ours | {name: metadata.version(name) for name in LIBRARIES}


@cache
def code_hash() -> str:
    """Sixteen hexadecimal digits that stand for the package's source."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
