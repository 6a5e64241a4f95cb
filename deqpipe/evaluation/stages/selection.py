"""The choice of the state that decides, on held-out images."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from deqpipe.config import EarlyStateConfig, PgdConfig, TrainingAttackConfig, parse_early_state
from deqpipe.defence.early_state import best_state
from deqpipe.evaluation.crafting import Attack, craft
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import SELECTION_STARTS, Chunk
from deqpipe.evaluation.judge import CLASSES
from deqpipe.evaluation.resumable import origin
from deqpipe.results import early_states
from deqpipe.results.early_states import EarlyState

_logger = logging.getLogger(__name__)


def select_early_state(job: EvaluationJob) -> int:
    """Choose the state that decides, per defence, under ready-made PGD on the held-out images; the exit status."""
    started, evaluated = time.monotonic(), load_evaluated_model(job)
    split = getattr(evaluated.dataset, evaluated.settings["selection.split"])
    chunk = Chunk(split, range(len(split)))
    validated = evaluated.batching.backing_off(lambda: list(_validation_hits(evaluated, chunk)))
    hits = {judge.defence: np.concatenate(parts) for judge, parts in validated}
    early = evaluated.settings.variant("early_state", parse_early_state)
    chosen: dict[str, EarlyState] = {}
    for defence, correct in hits.items():
        accuracy = [float(value) for value in correct.mean(0)]
        state = _state(early, accuracy[:-1])
        chosen[defence] = EarlyState(state, tuple(accuracy[:-1]), accuracy[-1], len(correct))
        _logger.info("%s: state %d of %d, %.1f %%", defence, state, len(accuracy) - 1, 100 * accuracy[state - 1])
    early_states.write(job.output, chosen, origin(evaluated, job.spec, started))
    return 0


def _state(early: EarlyStateConfig, accuracy: list[float]) -> int:
    """The state that decides, of states with these accuracies."""
    match early.mode:
        case "select":
            return best_state(accuracy)
        case "last":
            return len(accuracy)
        case "fixed":
            return early.index


def _validation_hits(evaluated: EvaluatedModel, chunk: Chunk) -> Iterator[tuple[Any, list[np.ndarray]]]:
    """Per judge, whether each image is right at each state under the ready-made attack."""
    recipe = TrainingAttackConfig.model_validate(evaluated.settings["selection.attack"])
    clamp: bool = evaluated.settings["attack.pgd.clamp_start"]
    pgd = PgdConfig(steps=recipe.steps, step_size_255=recipe.step_size_255, clamp_start=clamp)
    judges = [judge.restricted(CLASSES) for judge in evaluated.judges]
    hits: dict[str, list[np.ndarray]] = {judge.defence: [] for judge in judges}
    for images in chunk.batches(evaluated.batch_size):
        y, label = chunk.load(images, evaluated.job.device)[1], chunk.labels(images)
        attack = Attack(evaluated.final_point())
        adversarial = craft(evaluated, attack, chunk, images, pgd=pgd, purpose=SELECTION_STARTS).images
        for judge in judges:
            predicted = judge(adversarial, y).columns["predicted"]
            hits[judge.defence].append(predicted == label[:, None])
    return ((judge, hits[judge.defence]) for judge in judges)
