"""Rounds of a timing job that are over, so that one that was stopped goes on behind them (JSON)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from deqpipe.errors import DamagedFileError
from deqpipe.results import document, integrity
from deqpipe.results.document import number
from deqpipe.workflow import specs

Round: TypeAlias = Mapping[str, float]
"""Images per second of everything that is timed, by name, of one repeat."""


def write(path: Path, rounds: Sequence[Round], *, spec: Mapping[str, Any], device: str) -> None:
    """Keep them.

    Args:
        path: of the file.
        rounds: in order.
        spec: of the job.
        device: in words; what another one took says nothing of this one.
    """
    document.write(path, {"rounds": [dict(one) for one in rounds], "device": device}, {"spec": dict(spec)})


def read(path: Path, *, names: Sequence[str], spec: Mapping[str, Any], device: str) -> tuple[Round, ...]:
    """Those that are kept; none where there is no file, one that decayed, or one of another spec or device.

    Args:
        path: of the file.
        names: of what is timed.
        spec: as it was written with.
        device: as it was written with.
    """
    if not path.exists():
        return ()
    try:
        content, told = document.read(path)
        if (specs.dumps(told["spec"]), content.get("device")) != (specs.dumps(spec), device):
            return ()
        with document.understood(path, as_what="file of rounds"):
            return tuple({name: number(one[name]) for name in names} for one in content["rounds"])
    except DamagedFileError as why:
        integrity.set_aside(path, why)
        return ()
