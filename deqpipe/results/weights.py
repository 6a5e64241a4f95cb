"""What a weights file says of itself, read without torch: its origin, its epoch, and how many parameters it has."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqpipe.results import document, header
from deqpipe.results.provenance import checked

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Weights:
    """The header of a weights file.

    Attributes:
        parameters: trainable numbers, batch-norm statistics left out.
        epoch: after which these weights were kept, counted from 1; of an imported model as it says, if it does.
        provenance: where they come from.
        history: the digest of the training's history; None: of an imported model, which has none.
        content: the digest of the tensors; its first sixteen digits are what records call the weights by.
    """

    parameters: int
    epoch: int | None
    provenance: dict[str, Any]
    history: str | None = None
    content: str = ""


def read(path: Path) -> Weights:
    """The header of a weights file.

    Raises:
        DamagedFileError: the file is not as it was written.
        UserError: it is missing, or no weights file of ours.
    """
    where = f"weights file {path}"
    with header.opened(path, "weights file", "numpy") as file:
        told = header.read(file, where)
    parameters = sum(math.prod(shape) for name, shape in told.shapes.items() if not name.endswith(_BUFFERS))
    provenance = checked(told.metadata.get("provenance"), path)
    with document.understood(path, as_what="weights"):
        return Weights(parameters, told.metadata["epoch"], provenance, told.metadata.get("history"), told.tensors)
