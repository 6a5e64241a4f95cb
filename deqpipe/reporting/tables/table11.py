"""Table 11: accuracy on clean images at the early state."""

from collections.abc import Mapping

from deqpipe.analysis.decisions import Tree, evaluate_all, paper_decisions
from deqpipe.config import Config
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Block, Cell, Line, percent, show
from deqpipe.reporting.tables.evaluated import EvaluatedModels
from deqpipe.statistics import intervals
from deqpipe.workflow import vocabulary

EARLY = "early"
_DECISIONS = paper_decisions("pgd_at", "trades")


def gather(tree: Tree) -> EvaluatedModels:
    """The evaluations of the four DEQs."""
    return EvaluatedModels(evaluate_all(tree, vocabulary.DEQS))


def caption(config: Config) -> str:
    """What the columns are."""
    return f"Accuracy (%) on clean images of {conditions.data(config)}, at the early state."


def cells(gathered: EvaluatedModels, tree: Tree) -> tuple[Cell, ...]:
    """A number for each decision."""
    confidence = tree.config.statistics.confidence
    estimates = {one: intervals.accuracy(gathered[one].right_when_clean, confidence=confidence) for one in _DECISIONS}
    return tuple(percent(one.row, EARLY, estimate) for one, estimate in estimates.items())


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """A row per decision."""
    lines = tuple(Line((one.framework, one.method), (show(cells[one.row, EARLY]),)) for one in _DECISIONS)
    return (Block(("Training", "Method"), (EARLY,), lines),)


def notes(gathered: EvaluatedModels, config: Config) -> tuple[str, ...]:
    """Nothing beyond the caption."""
    return ()
