"""The job that attacks a decision which the networks of all seeds take together (Table 11).

It belongs to no seed. What its attacks make is judged, and leaves, as in the jobs of the suite; then it is shown all
that the suite has made against its members and against all other decisions.
"""

import functools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from deqpipe.evaluation.ensemble_target import ensemble_of
from deqpipe.evaluation.evaluated_model import EvaluationJob
from deqpipe.evaluation.resumable import Part, Piece, PieceResult, run_pieces
from deqpipe.evaluation.stages.suite import SuiteSequence, publish
from deqpipe.evaluation.stages.transferred import Origin, Transfer, sources_of
from deqpipe.evaluation.suite_target import suite_in
from deqpipe.results.columns import OWN_SEED
from deqpipe.workflow.defences import ENSEMBLE
from deqpipe.workflow.suite_attacks import against


def attack_ensemble(job: EvaluationJob, part: Part, select: Sequence[Path], saved: Sequence[Path]) -> int:
    """Every attack of the suite on the ensemble, and all images of the suite; returns the exit status.

    Args:
        job: the call, with the checkpoints of all seeds.
        part: which images.
        select: the states of each network.
        saved: the images of every decision of every model and seed.
    """
    sources = sources_of(saved, job.spec)
    target = ensemble_of(job, part.images, select, name=ENSEMBLE.name)
    suite = suite_in(target.evaluated.settings)
    sequence = SuiteSequence(target, part, suite, against(suite, target.victim.kind), standard=suite.mode == "standard")
    own: dict[str, Piece] = {name: partial(_own, piece) for name, piece in sequence.pieces().items()}

    @functools.cache
    def transfer() -> Transfer:
        """Known once the ensemble's own attacks have run."""
        return Transfer(target.evaluated, {ENSEMBLE.name: target}, {ENSEMBLE.name: np.array(sequence.left)}, part)

    def shown(origin: Origin, path: Path) -> PieceResult:
        return transfer().judged(origin, path)

    judged: dict[str, Piece] = {origin.piece: partial(shown, origin, path) for origin, path in sources.items()}
    return run_pieces(
        target.evaluated, part, own | judged, piece_spec=job.spec, publish=partial(publish, sequence, tuple(own))
    )


def _own(piece: Piece) -> PieceResult:
    """A piece of the ensemble's own attacks, whose rows say that nobody else has made its images."""
    found = piece()
    count = len(found.columns["image"])
    nobody = {"crafted_seed": np.full(count, OWN_SEED), "crafted_defence": np.full(count, "", dtype=object)}
    return PieceResult(found.columns | nobody, found.flags, found.earlier, found.images)
