"""What every model is asked: the test images as they are; and PGD at the final state, for models without a grid."""

import time
from functools import partial
from pathlib import Path

from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import STARTS, Chunk, first_images
from deqpipe.evaluation.resumable import Part, run_sliced
from deqpipe.evaluation.scoring import Columns, FreshReferences, attack_rows, clean_rows


def clean(job: EvaluationJob, *, state: Path, budget_minutes: float) -> int:
    """Judge the test images as they are; returns the exit status.

    Args:
        job: the call.
        state: folder of finished pieces.
        budget_minutes: the job leaves, with its finished pieces kept, when they are over.
    """
    begun, evaluated = time.monotonic(), load_evaluated_model(job)
    chunk = first_images(evaluated, evaluated.settings["evaluation.images"])
    return run_sliced(
        evaluated, Part(chunk.images, state, budget_minutes, begun), chunk, partial(clean_rows, evaluated)
    )


def attack_pgd(job: EvaluationJob, *, state: Path, budget_minutes: float) -> int:
    """Attack at the final state only (ResNets and the trunk); returns the exit status. Arguments as for `clean`."""
    begun, evaluated = time.monotonic(), load_evaluated_model(job)
    chunk = first_images(evaluated, evaluated.settings["evaluation.images"])
    return run_sliced(
        evaluated, Part(chunk.images, state, budget_minutes, begun), chunk, partial(_attacked_rows, evaluated)
    )


def _attacked_rows(evaluated: EvaluatedModel, images: Chunk) -> Columns:
    references = FreshReferences(evaluated, images)
    return attack_rows(evaluated, evaluated.final_point(), images, references=references, purpose=STARTS)
