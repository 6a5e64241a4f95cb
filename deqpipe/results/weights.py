"""What a weights file says of itself, read without torch: its origin, its epoch, and how many parameters it has."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from deqpipe.errors import UserError

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Weights:
    """The header of a weights file.

    Attributes:
        parameters: trainable numbers, batch-norm statistics left out.
        epoch: after which these weights were kept, counted from 1; of an imported model as it says, if it does.
        provenance: where they come from.
    """

    parameters: int
    epoch: int | None
    provenance: dict[str, Any]


def read(path: Path) -> Weights:
    """The header of a weights file.

    Raises:
        UserError: the file is missing, or no safetensors file of ours.
    """
    if not path.exists():
        raise UserError(f"weights {path} do not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if not name.endswith(_BUFFERS)]  # noqa: SIM118 (not a mapping)
            parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
            metadata = json.loads((file.metadata() or {})["deqpipe"])
        return Weights(parameters, metadata["epoch"], metadata["provenance"])
    except (SafetensorError, KeyError, json.JSONDecodeError):
        raise UserError(f"weights {path} cannot be read, or were not written by deqpipe") from None
