"""The choice of the state that decides, on held-out images."""

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from deqpipe.config import EarlyStateConfig, PgdConfig, TrainingAttackConfig, parse_early_state
from deqpipe.defence.early_state import best_state
from deqpipe.evaluation.crafting import Attack
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.images import SELECTION_STARTS, Chunk
from deqpipe.evaluation.judge import CLASSES
from deqpipe.evaluation.resumable import Part, run_sliced
from deqpipe.evaluation.scoring import Columns, Panel, attacks_rows
from deqpipe.results import early_states
from deqpipe.results.early_states import EarlyState

_logger = logging.getLogger(__name__)


def select_early_state(job: EvaluationJob, *, state: Path, budget_minutes: float) -> int:
    """Choose the state that decides, per defence, under ready-made PGD on the held-out images; the exit status.

    Args:
        job: the call.
        state: folder of finished pieces.
        budget_minutes: the job leaves, with its finished pieces kept, when they are over.
    """
    begun, evaluated = time.monotonic(), load_evaluated_model(job)
    split = getattr(evaluated.dataset, evaluated.settings["selection.split"])
    chunk = Chunk(split, range(len(split)))
    part, rows = Part(chunk.images, state, budget_minutes, begun), partial(_attacked_rows, evaluated)
    return run_sliced(evaluated, part, chunk, rows, publish=partial(_publish, evaluated))


def _attacked_rows(evaluated: EvaluatedModel, images: Chunk) -> Columns:
    """Rows of the ready-made attack: whether each image is right at each state."""
    recipe = TrainingAttackConfig.model_validate(evaluated.settings["selection.attack"])
    clamp: bool = evaluated.settings["attack.pgd.clamp_start"]
    pgd = PgdConfig(steps=recipe.steps, step_size_255=recipe.step_size_255, clamp_start=clamp)
    attack, panel = Attack(evaluated.final_point()), Panel((), tuple(j.restricted(CLASSES) for j in evaluated.judges))
    (rows,) = attacks_rows(evaluated, [attack], images, panel=panel, references=None, purpose=SELECTION_STARTS, pgd=pgd)
    return rows


def _publish(evaluated: EvaluatedModel, columns: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    early = evaluated.settings.variant("early_state", parse_early_state)
    chosen: dict[str, EarlyState] = {}
    for judge in evaluated.judges:
        own = columns["defence"] == judge.defence
        correct = columns["predicted"][own] == columns["label"][own][:, None]
        accuracy = [float(value) for value in correct.mean(0)]
        state = _state(early, accuracy[:-1])
        chosen[judge.defence] = EarlyState(state, tuple(accuracy[:-1]), accuracy[-1], len(correct))
        _logger.info("%s: state %d of %d, %.1f %%", judge.defence, state, len(accuracy) - 1, 100 * accuracy[state - 1])
    early_states.write(evaluated.job.output, chosen, provenance)


def _state(early: EarlyStateConfig, accuracy: list[float]) -> int:
    """The state that decides, of states with these accuracies."""
    match early.mode:
        case "select":
            return best_state(accuracy)
        case "last":
            return len(accuracy)
        case "fixed":
            return early.index
