"""Table 2: the ready-made attack at the final state against the strongest intermediate-state attack."""

from collections.abc import Mapping

from deqpipe.analysis.decision import all_decisions
from deqpipe.analysis.evaluation import Evaluation, evaluate_all
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.reporting import absent, conditions, phrases
from deqpipe.reporting.cells import Block, Cell, Line, Shown, percent, show
from deqpipe.reporting.paper import published
from deqpipe.reporting.quantities import ACCURACY, DIFFERENCE
from deqpipe.reporting.tables.evaluated import EvaluatedModels
from deqpipe.statistics import intervals
from deqpipe.workflow import gridpoints, vocabulary

FINAL, INTER, DIFF = "FINAL", "INTER", "DIFF"
POINT = "(i, K_a, lambda)"
_DECISIONS = all_decisions("pgd_at", "trades")


def gather(tree: Tree) -> EvaluatedModels:
    """The evaluations of the four DEQs.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    return EvaluatedModels(evaluate_all(tree, vocabulary.DEQS, clean=False))


def caption(config: Config) -> str:
    """What the columns are."""
    return (
        f"Accuracy (%) of {conditions.data(config)} under PGD-{config.attack.pgd.steps}, same decision in all columns. "
        "FINAL: ready-made attack at the final state; INTER: minimum over the grid, which contains it, attained at the "
        "(i, K_a, lambda) of the last column; DIFF: FINAL minus INTER in points, paired by image."
    )


def cells(gathered: EvaluatedModels, tree: Tree) -> tuple[Cell, ...]:
    """Three columns for each decision."""
    return tuple(cell for decision in _DECISIONS for cell in _row(gathered[decision], tree))


def _row(evaluation: Evaluation, tree: Tree) -> tuple[Cell, ...]:
    ready = evaluation.points.index(gridpoints.ready_made(tree.config))
    confidence, row = tree.config.statistics.confidence, evaluation.decision.row
    estimates = {
        FINAL: intervals.accuracy(evaluation.right[ready], confidence=confidence),
        INTER: intervals.minimum(evaluation.right, tree.bootstrap),
        DIFF: intervals.excess(evaluation.right, ready, tree.bootstrap),
    }
    words = {FINAL: evaluation.points[ready].triple, INTER: phrases.strongest(evaluation), DIFF: ""}
    kinds = {FINAL: ACCURACY, INTER: ACCURACY, DIFF: DIFFERENCE}
    return tuple(
        percent(
            row, column, one, paper=published.value(2, row, column), note=words[column], quantity=kinds[column]
        )
        for column, one in estimates.items()
    )  # fmt: skip


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """The paper's eight rows, and those of further defences."""
    lines = tuple(
        Line(
            (decision.framework, decision.method),
            (
                *(show(cells[decision.row, column], signed=column == DIFF) for column in (FINAL, INTER, DIFF)),
                Shown(cells[decision.row, INTER].note),
            ),
        )
        for decision in _DECISIONS
    )
    return (Block(("Training", "Method"), (FINAL, INTER, DIFF, POINT), lines),)


def notes(gathered: EvaluatedModels, config: Config) -> tuple[str, ...]:
    """Which states decide and which attacks are strongest."""
    judged = [gathered[decision] for decision in _DECISIONS]
    return (
        "DIFF cannot be negative, as the ready-made attack is a point of the grid: an interval that begins at 0 leaves "
        "open whether intermediate-state attacks are stronger at all. Only its lower end is reflected, and the "
        "interval is at least Wilson's.",
        phrases.blind(),
        phrases.early_states(judged),
        phrases.attack_checks(judged),
        *absent.raced(gathered.evaluations, config),
    )
