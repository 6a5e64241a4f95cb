"""Work in pieces that outlive their job: what is finished is kept, and a job started again goes on behind it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from deqpipe.counts import NO_EVALUATIONS, Evaluations, sum_of
from deqpipe.errors import DamagedFileError, UserError
from deqpipe.evaluation.batching import Batching
from deqpipe.evaluation.evaluated_model import EvaluatedModel
from deqpipe.evaluation.images import Chunk, slices
from deqpipe.evaluation.scoring import Columns, no_rows
from deqpipe.machine.device import describe
from deqpipe.machine.stopping import EXIT_UNFINISHED, Interrupted, StopRequest
from deqpipe.results import integrity, records, saved_images
from deqpipe.results.lock import locked
from deqpipe.results.provenance import evaluations_of, provenance
from deqpipe.results.records import Records
from deqpipe.results.saved_images import Saved
from deqpipe.workflow import specs
from deqpipe.workflow.defences import DECIDING
from deqpipe.workflow.endings import GO_ON

_logger = logging.getLogger(__name__)
_WITH_IMAGES = "with_images"
"""In the provenance of a piece: its attacked images lie beside it."""


@dataclass(frozen=True)
class PieceResult:
    """What a piece came to.

    Attributes:
        columns: its rows.
        flags: what a reader of the results must be told, such as the warnings of a library.
        earlier: evaluations of f that earlier tries have made for it, and kept.
        images: attacked images to keep beside its rows, by attack; None: none are kept.
    """

    columns: Columns
    flags: tuple[str, ...] = ()
    earlier: Evaluations = NO_EVALUATIONS
    images: Mapping[str, Saved] | None = None


Piece: TypeAlias = Callable[[], PieceResult]
"""Computes one piece."""
Publish: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], None]
"""Writes the output of a job: from the columns of all its rows, and their provenance."""


def _nothing_to_prepare() -> None:
    """For pieces that share nothing."""


@dataclass(frozen=True)
class Groups:
    """Pieces that are cheaper to compute several at once.

    Attributes:
        names: of all pieces.
        compute: the pieces of some names.
        size: how many at once.
        batching: of their images; None: the evaluated model's.
        prepare: what all of them need, and no one keeps. Its evaluations of f belong to the first piece: a job that
            goes on does it again, but what it tells is what the results take, however often it was stopped.
    """

    names: tuple[str, ...]
    compute: Callable[[Sequence[str]], Sequence[PieceResult]]
    size: int = 1
    batching: Batching | None = None
    prepare: Callable[[], object] = _nothing_to_prepare


@dataclass(frozen=True)
class Part:
    """The part of a stage that one job takes.

    Attributes:
        images: test images.
        state: folder of finished pieces.
        budget_minutes: the job leaves, with its finished pieces kept, when they are over.
        begun: when they began, by `time.monotonic`: before models are loaded and locks are waited for.
    """

    images: range
    state: Path
    budget_minutes: float
    begun: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """Such as images0-959."""
        return f"images{self.images.start}-{self.images.stop - 1}"


def file_of(evaluated: EvaluatedModel, part: Part, piece: str) -> Path:
    """Where a piece is kept once it is finished, for pieces that follow from others."""
    return part.state / "points" / evaluated.weights / f"{piece}_{part.name}.parquet"


def unfinished(file: Path) -> Path:
    """Where a piece keeps what it has so far; removed once the piece itself is kept."""
    return file.with_name(f"{file.stem}.unfinished.safetensors")


def run_pieces(
    evaluated: EvaluatedModel,
    part: Part,
    pieces: Mapping[str, Piece],
    *,
    piece_spec: Mapping[str, Any],
    name: str | None = None,
    batching: Batching | None = None,
    publish: Publish | None = None,
) -> int:
    """Compute the pieces that are not finished yet, one by one, then write all of them as the job's output.

    Args:
        evaluated: the model under evaluation, with the call that it was loaded for.
        part: which images, and where finished pieces are kept.
        pieces: by name; names are file names, and stand for the same rows in every job of this state folder.
        piece_spec: what a finished piece depends on.
        name: of the part, where its images alone do not tell it from others of the state folder.
        batching: of the images of a piece; None: the evaluated model's.
        publish: writes the job's output from all rows and their provenance; None: as records.

    Returns:
        The exit status: 0, or that of an unfinished job.

    Raises:
        UserError: the time was over before one piece was finished, or the state folder holds pieces of another spec.
    """

    def compute(names: Sequence[str]) -> list[PieceResult]:
        return [pieces[piece]() for piece in names]

    groups = Groups(tuple(pieces), compute, batching=batching)
    return run_groups(evaluated, part, groups, piece_spec=piece_spec, name=name, publish=publish)


def run_groups(
    evaluated: EvaluatedModel,
    part: Part,
    groups: Groups,
    *,
    piece_spec: Mapping[str, Any],
    name: str | None = None,
    publish: Publish | None = None,
) -> int:
    """The same for pieces that are computed several at once; those that are finished leave their groups.

    Args:
        evaluated: as for `run_pieces`.
        part: as there.
        groups: the pieces.
        piece_spec: as there.
        name: as there.
        publish: writes the job's output from all rows and their provenance; None: as records.
    """
    files = {piece: file_of(evaluated, part, piece) for piece in groups.names}
    stop = StopRequest(part.budget_minutes, since=part.begun)
    with locked(part.state / "locks" / (name or part.name)), stop:
        records.remove_leftovers(part.state / "points" / evaluated.weights)
        still_open = [piece for piece in groups.names if not _is_finished(files[piece], piece_spec, part)]
        kept = len(files) - len(still_open)
        if kept:
            _logger.info("%d of %d pieces are finished already", kept, len(files))
        try:
            work = replace(groups, names=tuple(still_open))
            counted = bool(still_open) and still_open[0] == groups.names[0]
            for result in _results(evaluated, work, piece_spec, stop, preparation_counts=counted):
                _keep(files[result.name], result)
                unfinished(files[result.name]).unlink(missing_ok=True)
                kept += 1
                _logger.info("%d/%d %s: %s", kept, len(files), result.name, scores(result.columns))
        except Interrupted as why:
            nothing_new = kept == len(files) - len(still_open) and not why.kept
            if nothing_new and not stop.signalled:
                allowed = f"{part.budget_minutes:g} minutes"
                raise UserError(f"not one piece finished within {allowed}: allow more time") from None
            beside = f", and {why.kept}" if why.kept else ""
            _logger.info("%s: %d of %d pieces are kept%s; %s", why.reason, kept, len(files), beside, GO_ON)
            return EXIT_UNFINISHED
        _publish(evaluated, list(files.values()), publish or partial(_as_records, evaluated.job.output))
    return 0


def run_sliced(
    evaluated: EvaluatedModel,
    part: Part,
    chunk: Chunk,
    rows: Callable[[Chunk], Columns],
    *,
    publish: Publish | None = None,
) -> int:
    """The same for a stage that goes through images once: a piece is a slice of them.

    Args:
        evaluated: as for `run_pieces`.
        part: as there, of all images of the chunk.
        chunk: the images.
        rows: of some of them.
        publish: as there.
    """

    def compute(images: range) -> PieceResult:
        return PieceResult(rows(Chunk(chunk.split, images)))

    pieces: dict[str, Piece] = {
        f"slice{images.start}-{images.stop - 1}": partial(compute, images) for images in slices(evaluated, chunk.images)
    }
    return run_pieces(evaluated, part, pieces, piece_spec=evaluated.job.spec, publish=publish)


def _is_finished(file: Path, piece_spec: Mapping[str, Any], part: Part) -> bool:
    if not file.exists():
        return False
    try:
        told = records.read(file).provenance[0]
        if told.get(_WITH_IMAGES) and not _has_images(file):
            return False
    except DamagedFileError as why:
        integrity.set_aside(file, why)
        return False
    if specs.dumps(told["spec"]) != specs.dumps(piece_spec):
        raise UserError(f"finished piece {file} belongs to another spec; delete {part.state}")
    unfinished(file).unlink(missing_ok=True)  # of who was killed in between
    return True


def _has_images(file: Path) -> bool:
    """Whether the images of a piece still lie beside it; a published job's do not.

    Raises:
        DamagedFileError: they are not as they were written.
    """
    beside = saved_images.beside(file)
    if not beside.exists():
        return False
    saved_images.read(beside)
    return True


@dataclass(frozen=True)
class _Finished:
    """A piece that can be written: its name, its rows, its provenance."""

    name: str
    columns: Columns
    told: Mapping[str, Any]
    images: Mapping[str, Saved] | None = None


def _keep(file: Path, result: _Finished) -> None:
    """Keep a piece. Its rows come last: where they are, it is finished."""
    if result.images is None:
        records.write(file, result.columns, provenance=result.told)
        return
    saved_images.write(saved_images.beside(file), result.images, provenance=result.told)
    records.write(file, result.columns, provenance={**result.told, _WITH_IMAGES: True})


def _results(
    evaluated: EvaluatedModel,
    groups: Groups,
    piece_spec: Mapping[str, Any],
    stop: StopRequest,
    *,
    preparation_counts: bool,
) -> Iterator[_Finished]:
    """The pieces, one after the other.

    Raises:
        Interrupted: somebody asked to stop; between groups, or within one.
    """
    batching = groups.batching or evaluated.batching
    before = evaluated.evaluations
    if groups.names:
        with stop.interruptible():
            batching.backing_off(groups.prepare)
    if not preparation_counts:
        before = evaluated.evaluations
    for first in range(0, len(groups.names), groups.size):
        if stop.should_stop():
            raise Interrupted(str(stop.reason))
        names, started = groups.names[first : first + groups.size], time.monotonic()
        with stop.interruptible():
            results = batching.backing_off(partial(groups.compute, names))
        told = origin(evaluated, piece_spec, started, before - sum_of(piece.earlier for piece in results))
        for name, piece, share in zip(names, results, _shares(told, len(names)), strict=True):
            yield _Finished(name, piece.columns, share | {"flags": list(piece.flags)}, piece.images)
        before = evaluated.evaluations


def _shares(told: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The provenance of each of `count` pieces computed at once: their cost is divided among them."""
    seconds = round(told["seconds"] / count, 3)
    shares = Evaluations(**told["evaluations"]).divided(count)
    return [told | {"seconds": seconds, "evaluations": asdict(share)} for share in shares]


def _publish(evaluated: EvaluatedModel, files: list[Path], publish: Publish) -> None:
    merged = records.merge([records.read(file) for file in files]) if files else _nothing(evaluated)
    whole = provenance(
        evaluated.job.spec,
        device=describe(evaluated.job.device),
        inputs=evaluated.job.inputs,
        weights=evaluated.weights,
        seconds=sum((part["seconds"] for part in merged.provenance), start=0.0),
        evaluations=sum_of(evaluations_of(part, files[0].parent) for part in merged.provenance),
    )
    publish(merged.columns, whole | {"flags": list(flags_of(merged))})


def _as_records(output: Path, columns: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    records.write(output, columns, provenance=provenance)


def _nothing(evaluated: EvaluatedModel) -> Records:
    """No rows: a race may leave a job without any point."""
    final = evaluated.final_point()
    return Records(no_rows(final.state if final else 0), ())


def flags_of(merged: Records) -> tuple[str, ...]:
    """What the pieces told beside their rows: every different line once, in order."""
    return tuple(dict.fromkeys(flag for entry in merged.provenance for flag in entry.get("flags", ())))


def origin(
    evaluated: EvaluatedModel, spec: Mapping[str, Any], started: float, evaluations: Evaluations = NO_EVALUATIONS
) -> dict[str, Any]:
    """Provenance of what was computed since `started` (of `time.monotonic`), after so many evaluations of f."""
    return provenance(
        spec,
        device=describe(evaluated.job.device),
        inputs=evaluated.job.inputs,
        weights=evaluated.weights,
        seconds=time.monotonic() - started,
        evaluations=evaluated.evaluations - evaluations,
    )


def scores(columns: Columns) -> str:
    """Accuracy per defence at z^[N], or at the one state that was computed, and which it is: for the log."""
    predicted = columns["predicted"]
    last = max(predicted.shape[1] - 2, 0)
    there = (predicted != records.NOT_COMPUTED).any(0)
    at = int(last if there[last] else there.argmax())
    correct = predicted[:, at] == columns["label"]
    names = [name for name in DECIDING if name in columns["defence"]] or sorted(set(columns["defence"]))
    accuracies = ", ".join(f"{name} {correct[columns['defence'] == name].mean():.1%}" for name in names)
    return f"{accuracies} ({_state(at, columns=predicted.shape[1])})"


def _state(at: int, *, columns: int) -> str:
    """A column of the records in words: states are counted from 1, and behind them stands the final state."""
    return "at the final state" if at == columns - 1 else f"at state {at + 1} of {columns - 1}"
