"""Table 4: APGD-CE and Square at the points where PGD is strongest, on TRADES with Secs. 3.2 and 3.3."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deqpipe.analysis import autoattack_outcomes, ranking
from deqpipe.analysis.autoattack_outcomes import Top
from deqpipe.analysis.decision import SWEEP_DECISION
from deqpipe.analysis.evaluation import Evaluation, evaluate
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.config import Config
from deqpipe.reporting import absent, conditions, phrases
from deqpipe.reporting.cells import EMPTY, Block, Cell, Line, percent, show
from deqpipe.reporting.paper import published
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Correct
from deqpipe.workflow import gridpoints, library_attacks
from deqpipe.workflow.gridpoints import GridPoint

DECISION = SWEEP_DECISION
_ATTACKS = (library_attacks.APGD_CE.name, library_attacks.SQUARE.name)
PGD, APGD, SQUARE = "PGD", "APGD", "SQUARE"
PGD_FEW, APGD_FEW = "PGD on Square's images", "APGD on Square's images"
_EXPECTED = {
    "below": "An attack with adapted steps should be the stronger one: below 0.",
    "above": "An attack without gradients should be the weaker one: above 0; where it is not, gradients mislead.",
}
_ATTACK = {PGD_FEW: PGD, APGD_FEW: APGD}


@dataclass(frozen=True)
class StrongAttacks:
    """What one seed's numbers are made of.

    Attributes:
        points: from the strongest under PGD.
        right: per row of the table, (points, images).
        evaluation: of the decision on the grid.
        bootstrap: how intervals are made.
        sources: the files behind it.
    """

    points: tuple[GridPoint, ...]
    right: Mapping[str, Correct]
    evaluation: Evaluation
    bootstrap: Bootstrap
    sources: tuple[Source, ...]


def gather(tree: Tree) -> StrongAttacks:
    """PGD, APGD-CE and Square at the top points.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration or point.
    """
    (evaluation,) = (one for one in evaluate(tree, DECISION.model, clean=False) if one.decision == DECISION)
    best = top_points(evaluation, tree.config)
    points = tuple(evaluation.points[index] for index in best)
    outcomes, sources = autoattack_outcomes.top(tree, evaluation, points)
    right = _rows(evaluation.right[list(best)], outcomes)
    return StrongAttacks(points, right, evaluation, tree.bootstrap, (*evaluation.sources, *sources))


def top_points(evaluation: Evaluation, config: Config) -> tuple[int, ...]:
    """Indices of the strongest attacks whose damping is that of the paper's Table 4."""
    ranked = ranking.ranked(evaluation)
    same = [index for index in ranked if evaluation.points[index].damping == gridpoints.FINAL_DAMPING]
    return tuple(same[: config.autoattack.top_points])


def _rows(pgd: Correct, outcomes: Top) -> dict[str, Correct]:
    few = outcomes.square.shape[1]
    rows = {PGD: pgd, APGD: outcomes.apgd}
    rows |= {PGD_FEW: pgd[:, :few], APGD_FEW: outcomes.apgd[:, :few]} if few < pgd.shape[1] else {}
    return rows | {SQUARE: outcomes.square}


def column_name(point: GridPoint) -> str:
    """Name of the column of a point, as in the paper."""
    return f"({point.state},{point.steps})"


def caption(config: Config) -> str:
    """What the columns are."""
    few = autoattack_outcomes.square_images(config)
    part = "" if few == config.evaluation.images else f" Square attacks the first {few:,} images only."
    return (
        f"Accuracy (%) of {DECISION.row} on {conditions.data(config)} at the (i, K_a) with the lowest accuracy under "
        f"PGD-{config.attack.pgd.steps}, lambda = {gridpoints.FINAL_DAMPING:g}, the strongest first.{part}"
    )


def cells(gathered: StrongAttacks, tree: Tree) -> tuple[Cell, ...]:
    """An accuracy for each attack and point."""
    confidence = tree.config.statistics.confidence
    return tuple(
        percent(
            row,
            column_name(point),
            intervals.accuracy(right, confidence=confidence),
            paper=published.value(4, row, column_name(point)),
        )
        for row, table in gathered.right.items()
        for point, right in zip(gathered.points, table, strict=True)
    )


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """As in the paper: points side by side; attacks on the same images below each other."""
    columns = tuple(dict.fromkeys(column for _, column in cells))
    rows = tuple(dict.fromkeys(row for row, _ in cells))
    lines = tuple(
        Line(
            (_images(row, rows, config), _ATTACK.get(row, row)),
            tuple(show(cells[row, column]) if (row, column) in cells else EMPTY for column in columns),
        )
        for row in rows
    )
    return (Block(("Images", "Attack"), columns, lines),)


def _images(row: str, rows: Sequence[str], config: Config) -> str:
    few = PGD_FEW in rows and row in (PGD_FEW, APGD_FEW, SQUARE)
    return f"first {autoattack_outcomes.square_images(config):,}" if few else f"all {config.evaluation.images:,}"


def notes(gathered: StrongAttacks, config: Config) -> tuple[str, ...]:
    """Budgets, how the attacks compare, and which state decides."""
    seeds = ("Each seed ranks its own points: a spread is over the seeds that have a point among their strongest.",) * (
        len(config.seeds) > 1
    )
    return (
        f"Budgets: {phrases.budget(_ATTACKS, config)}. Every attack meets every image that it may.",
        phrases.kept(config),
        "APGD and Square attack the surrogate through Sec. 3.2, with the gradient of the unroll at the input as "
        "received; PGD is blind to Sec. 3.2.",
        _compared(gathered, (APGD, PGD), expected="below"),
        _compared(gathered, (SQUARE, _on_squares(gathered, APGD)), expected="above"),
        _compared(gathered, (SQUARE, _on_squares(gathered, PGD)), expected="above"),
        phrases.early_states([gathered.evaluation]),
        *absent.raced([gathered.evaluation], config),
        *phrases.left_in_the_race(config),
        *seeds,
    )


def _on_squares(gathered: StrongAttacks, attack: str) -> str:
    """The row of an attack on Square's images."""
    few = {APGD: APGD_FEW, PGD: PGD_FEW}[attack]
    return few if few in gathered.right else attack


def _compared(gathered: StrongAttacks, rows: tuple[str, str], *, expected: str) -> str:
    """Paired differences of two rows at each point, and where these are not as attacks of these kinds should be."""
    first, second = (gathered.right[row] for row in rows)
    differences = {
        column_name(point): intervals.minimum_difference(ours[None], theirs[None], gathered.bootstrap)
        for point, ours, theirs in zip(gathered.points, first, second, strict=True)
    }
    sure = [column for column, one in differences.items() if _reversed(one.low, one.high, expected)]
    others = {column: one.value for column, one in differences.items() if column not in sure}
    unsure = [column for column, value in others.items() if _reversed(value, value, expected)]
    name = f"{rows[0]} minus {_ATTACK.get(rows[1], rows[1])} on the same images, in points"
    return (
        f"{name}: {phrases.differences(differences)}. {_EXPECTED[expected]} "
        f"Reversed beyond the interval at {', '.join(sure) or 'no point'}, within it at {', '.join(unsure) or 'none'}."
    )


def _reversed(low: float, high: float, expected: str) -> bool:
    return low > 0 if expected == "below" else high < 0
