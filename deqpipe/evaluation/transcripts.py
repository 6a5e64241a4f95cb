"""Transcripts of attacks under way, in files beside the pieces that these will become (safetensors)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deqpipe.attack.transcript import Kept, Transcript
from deqpipe.counts import Evaluations
from deqpipe.errors import DamagedFileError
from deqpipe.machine.stopping import Interrupted
from deqpipe.results import checkpoint, integrity
from deqpipe.workflow import specs

_WHAT = "transcript of an attack"


@contextmanager
def transcript(path: Path, spec: Mapping[str, Any], *, counted: Callable[[], Evaluations]) -> Iterator[Transcript]:
    """An attack's transcript, saved now and then, and where the block is left because somebody asked for it.

    Args:
        path: where it is kept; whoever keeps what the attack comes to removes it.
        spec: that the attack belongs to.
        counted: evaluations of f that this process has made so far.

    Raises:
        Interrupted: as it was raised in the block, with what was kept.
    """

    def save(kept: Kept) -> None:
        checkpoint.write(path, kept.tensors(), {"spec": dict(spec), **kept.facts()})

    recorder = Transcript(_earlier(path, spec), save=save, counted=counted)
    try:
        yield recorder
    except Interrupted as why:
        raise Interrupted(why.reason, recorder.leave()) from None


def _earlier(path: Path, spec: Mapping[str, Any]) -> Kept:
    """What is known; nothing, where there is no file, or one that decayed or belongs to another spec."""
    if not path.exists():
        return Kept()
    try:
        stored = checkpoint.read(path, what=_WHAT)
        if specs.dumps(stored.metadata.get("spec", {})) != specs.dumps(spec):
            return Kept()
        return _kept(stored, path)
    except DamagedFileError as why:
        integrity.set_aside(path, why)
        return Kept()


def _kept(stored: checkpoint.Checkpoint, path: Path) -> Kept:
    try:
        return Kept.of(stored.tensors, stored.metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{_WHAT} {path} lacks a part of itself ({error!r})") from None
