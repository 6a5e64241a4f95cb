"""The jobs of attacks that users' files define: one attack on one decision, on all evaluated images."""

from functools import partial
from pathlib import Path

from deqpipe import extending
from deqpipe.attack.own import Target, crafted
from deqpipe.evaluation.evaluated_model import EvaluationJob
from deqpipe.evaluation.resumable import Part, Piece, PieceResult, run_pieces
from deqpipe.evaluation.suite_target import SuiteTarget, target_of
from deqpipe.extending import Attack


def attack_own(job: EvaluationJob, part: Part, select: Path | None) -> int:
    """An attack from a user's file on one decision; returns the exit status."""
    attack = extending.find(Attack, job.spec["attack"])
    assert attack is not None, "the job's file was loaded before"
    target = target_of(job, part.images, select)
    evaluated = target.evaluated
    size = evaluated.batch_size
    pieces: dict[str, Piece] = {
        f"batch{number}": partial(_attacked, attack, target, part.images[start : start + size])
        for number, start in enumerate(range(0, len(part.images), size))
    }
    return run_pieces(evaluated, part, pieces, piece_spec=job.spec)


def _attacked(attack: Attack, target: SuiteTarget, images: range) -> PieceResult:
    x, y = target.load(images)
    stream = target.evaluated.stream(f"own/{attack.name}")
    given = Target(target.victim, target.evaluated.settings, stream, tuple(images))
    made = crafted(attack, given, x, y)
    return PieceResult(target.attacked_rows(attack.name, images, x, y, made, per_step=1.0))
