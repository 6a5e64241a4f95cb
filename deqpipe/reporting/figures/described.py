"""The words of a figure, in the sidecar beside its picture; to read them draws nothing and imports no matplotlib."""

from dataclasses import dataclass
from pathlib import Path

from deqpipe.reporting.sidecar import Origin, read_sidecar


@dataclass(frozen=True)
class Described:
    """What stands in a figure's sidecar."""

    number: int
    title: str
    caption: str
    alt: str
    notes: tuple[str, ...]
    conditions: tuple[str, ...]
    origin: Origin


@dataclass(frozen=True)
class Overview:
    """The words of the picture at the top: caption, and what it shows for those who cannot see it."""

    caption: str
    alt: str


def read(path: Path) -> Described:
    """The words of a figure from its sidecar.

    Raises:
        UserError: the file is missing or no sidecar.
    """
    return read_sidecar(path, Described, what="figure")
