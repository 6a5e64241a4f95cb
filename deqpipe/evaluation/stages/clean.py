"""What every model is asked: the test images as they are; and PGD at the final state, for models without a grid."""

import time

from deqpipe.evaluation.evaluated_model import EvaluationJob, load_subject
from deqpipe.evaluation.images import STARTS, first_images
from deqpipe.evaluation.resumable import origin
from deqpipe.evaluation.scoring import FreshReferences, attack_rows, clean_rows
from deqpipe.results import records


def clean(job: EvaluationJob) -> int:
    """Judge the test images as they are; returns the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    chunk = first_images(subject, subject.settings["evaluation.images"])
    columns = subject.batching.backing_off(lambda: clean_rows(subject, chunk))
    records.write(job.output, columns, provenance=origin(subject, job.spec, started))
    return 0


def attack_pgd(job: EvaluationJob) -> int:
    """Attack at the final state only (ResNets and the trunk); returns the exit status."""
    started, subject = time.monotonic(), load_subject(job)
    chunk = first_images(subject, subject.settings["evaluation.images"])
    references = FreshReferences(subject, chunk)
    columns = subject.batching.backing_off(
        lambda: attack_rows(subject, subject.final_point(), chunk, references=references, purpose=STARTS)
    )
    records.write(job.output, columns, provenance=origin(subject, job.spec, started))
    return 0
