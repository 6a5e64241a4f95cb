"""The state at which each defence of a DEQ decides, chosen on held-out images (JSON)."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deqpipe.errors import UserError
from deqpipe.results import document
from deqpipe.results.document import number, whole
from deqpipe.workflow.defences import DefenceName


@dataclass(frozen=True)
class EarlyState:
    """The state that decides, and what it was chosen by.

    Attributes:
        state: counted from 1.
        accuracy: validation accuracy of the states 1 .. N under ready-made PGD.
        final: the same of the final state.
        n: validation images.
    """

    state: int
    accuracy: tuple[float, ...]
    final: float
    n: int


def write(path: Path, chosen: Mapping[str, EarlyState], provenance: Mapping[str, Any]) -> None:
    """Write the early state of every defence."""
    document.write(path, {defence: asdict(one) for defence, one in chosen.items()}, provenance)


def read(path: Path, defences: Iterable[DefenceName]) -> tuple[dict[DefenceName, EarlyState], dict[str, Any]]:
    """The early states of some defences, and their provenance.

    Raises:
        UserError: the file is missing, holds no early states or lacks one of these, or names a state that has no
            accuracy.
    """
    content, provenance = document.read(path)
    with document.understood(path, as_what="file of early states"):
        chosen = {defence: _chosen(content[defence]) for defence in defences}
    for one in chosen.values():
        _check(one, path)
    return chosen, provenance


def _chosen(entry: Mapping[str, Any]) -> EarlyState:
    accuracy = tuple(number(share) for share in entry["accuracy"])
    return EarlyState(whole(entry["state"]), accuracy, number(entry["final"]), whole(entry["n"]))


def _check(one: EarlyState, path: Path) -> None:
    last, shares = len(one.accuracy), (*one.accuracy, one.final)
    if not 1 <= one.state <= last:
        raise UserError(f"early states {path} choose state {one.state}, but the solver has states 1 to {last}")
    if not all(0 <= share <= 1 for share in shares):
        raise UserError(
            f"early states {path} have accuracies of {min(shares)} to {max(shares)}, but these are in [0, 1]"
        )
