"""A table of one's own: how far clean accuracy and the accuracy under the grid are apart."""

from typing import Any

from deqpipe.extending import Table


def gaps(tree: Any) -> dict[str, dict[str, Any]]:
    """Both accuracies of every decision, and their difference in points."""
    from deqpipe.analysis.evaluation import evaluate_all
    from deqpipe.statistics import intervals
    from deqpipe.workflow import vocabulary

    rows: dict[str, dict[str, Any]] = {}
    for decision, one in evaluate_all(tree, vocabulary.deqs(tree.config)).items():
        clean = intervals.accuracy(one.right_when_clean, confidence=tree.config.statistics.confidence)
        attacked = intervals.minimum(one.right, tree.bootstrap)
        rows[decision.row] = {
            "Clean": clean,
            "PGD": attacked,
            "Gap in points": 100 * (clean.value - attacked.value),
        }
    return rows


GAPS = Table(
    "gaps",
    "What attacks cost each decision.",
    make=gaps,
    needs=("clean", "attack_grid", "select"),
    caption="Accuracy (%) on clean images, under the strongest attack of the grid, and the difference.",
    unit="points",
)
