"""The points of the grid, ranked by the accuracy of each decision: what later attacks start from."""

import json
import time
from pathlib import Path
from typing import Any

from deqpipe.analysis.decisions import Evaluation, Tree, evaluate
from deqpipe.results import provenance, records
from deqpipe.workflow import specs, vocabulary
from deqpipe.workflow.defences import PLAIN


def ranked(evaluation: Evaluation) -> tuple[int, ...]:
    """Indices of the attacks from the strongest: lowest mean accuracy, ties by lambda, i, K_a."""
    correct = evaluation.right.sum(axis=1)
    return tuple(sorted(range(len(correct)), key=lambda index: (correct[index], evaluation.points[index])))


def write(tree: Tree, model: str, *, output: Path) -> None:
    """Write the ranked points of a DEQ, for each of its defences at the early state, with these states.

    Raises:
        UserError: the model has no grid, or records are missing, incomplete, or of another configuration.
    """
    started = time.monotonic()
    spec = specs.build("strongest", tree.config, model=model, seed=tree.seed)
    judged = {one.decision.defence: one for one in evaluate(tree, model, clean=False)}
    defences = vocabulary.MODELS[model].defences
    ranking: dict[str, Any] = {"early": {defence: judged[defence].state for defence in defences}}
    ranking |= {defence: _entries(judged[defence]) for defence in defences}
    ranking["provenance"] = provenance.provenance(
        spec,
        device="cpu",
        inputs={source.path: tree.root / source.path for source in judged[PLAIN.name].sources},
        seconds=time.monotonic() - started,
    )
    records.write_text(output, json.dumps(ranking, indent=1) + "\n")


def _entries(evaluation: Evaluation) -> list[dict[str, Any]]:
    n = evaluation.right.shape[1]
    return [
        {
            "state": evaluation.points[index].state,
            "steps": evaluation.points[index].steps,
            "damping": evaluation.points[index].damping,
            "correct": int(evaluation.right[index].sum()),
            "n": n,
        }
        for index in ranked(evaluation)
    ]
