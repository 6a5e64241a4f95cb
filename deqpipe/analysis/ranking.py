"""The points of the grid, ranked by the accuracy of each decision: what later attacks start from."""

import time
from pathlib import Path

from deqpipe.analysis.evaluation import Evaluation, evaluate
from deqpipe.analysis.layout import Tree
from deqpipe.results import provenance, ranking
from deqpipe.results.ranking import RankedPoint, Ranking
from deqpipe.workflow import specs, vocabulary


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
    result = Ranking(
        early={defence: judged[defence].state for defence in defences},
        ranked={defence: _ranked_points(judged[defence]) for defence in defences},
    )
    told = provenance.provenance(
        spec,
        device="cpu",
        inputs={source.path: tree.root / source.path for source in judged[defences[0]].sources},
        seconds=time.monotonic() - started,
    )
    ranking.write(output, result, told)


def _ranked_points(evaluation: Evaluation) -> tuple[RankedPoint, ...]:
    n = evaluation.right.shape[1]
    return tuple(
        RankedPoint(evaluation.points[index], int(evaluation.right[index].sum()), n) for index in ranked(evaluation)
    )
