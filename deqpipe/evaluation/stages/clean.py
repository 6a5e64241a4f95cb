"""What every model is asked: the test images as they are; and PGD at the final state, for models without a grid."""

import time

from deqpipe.evaluation.evaluated_model import EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import STARTS, first_images
from deqpipe.evaluation.resumable import origin
from deqpipe.evaluation.scoring import FreshReferences, attack_rows, clean_rows
from deqpipe.results import records


def clean(job: EvaluationJob) -> int:
    """Judge the test images as they are; returns the exit status."""
    started, evaluated = time.monotonic(), load_evaluated_model(job)
    chunk = first_images(evaluated, evaluated.settings["evaluation.images"])
    columns = evaluated.batching.backing_off(lambda: clean_rows(evaluated, chunk))
    records.write(job.output, columns, provenance=origin(evaluated, job.spec, started))
    return 0


def attack_pgd(job: EvaluationJob) -> int:
    """Attack at the final state only (ResNets and the trunk); returns the exit status."""
    started, evaluated = time.monotonic(), load_evaluated_model(job)
    chunk = first_images(evaluated, evaluated.settings["evaluation.images"])
    references = FreshReferences(evaluated, chunk)
    columns = evaluated.batching.backing_off(
        lambda: attack_rows(evaluated, evaluated.final_point(), chunk, references=references, purpose=STARTS)
    )
    records.write(job.output, columns, provenance=origin(evaluated, job.spec, started))
    return 0
