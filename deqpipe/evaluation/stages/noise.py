"""Test images with noise of the size of an attack."""

import time

from deqpipe.attack.noise import CornerNoise
from deqpipe.attack.pgd import uniform_start
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import Chunk, first_images
from deqpipe.evaluation.resumable import origin
from deqpipe.evaluation.scoring import Columns, joined, panel_of, record_rows
from deqpipe.results import records


def attack_noise(job: EvaluationJob) -> int:
    """Judge the test images with noise; returns the exit status."""
    started, evaluated = time.monotonic(), load_evaluated_model(job)
    chunk = first_images(evaluated, evaluated.settings["evaluation.images"])
    columns = evaluated.batching.backing_off(lambda: _rows(evaluated, chunk))
    records.write(job.output, columns, provenance=origin(evaluated, job.spec, started))
    return 0


def _rows(evaluated: EvaluatedModel, chunk: Chunk) -> Columns:
    attack, panel, parts = CornerNoise(evaluated.ball), panel_of(evaluated), list[Columns]()
    judges = (*panel.compared, *panel.others)
    for images in chunk.batches(evaluated.batch_size):
        (x, y), label = chunk.load(images, evaluated.job.device), chunk.labels(images)
        noise = uniform_start(x, ball=evaluated.ball, stream=evaluated.stream("noise"), images=images, clamp=False) - x
        made = attack(x, signs=noise)
        facts = {
            "attack": "noise", "crafted_on": "", "state": 0, "steps": 0, "damping": 0.0,
            "perturbation": evaluated.ball.distance(made.images, x).cpu().numpy(),
            "lost_gradient": made.lost_gradient.cpu().numpy(),
        }  # fmt: skip
        judged = panel.judge(made.images, y, [None] * len(panel.compared))
        parts += [record_rows(judge, one, images, label, facts) for judge, one in zip(judges, judged, strict=True)]
    return joined(parts)
