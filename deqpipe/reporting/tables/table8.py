"""Table 8: the strongest attack at each state along the neural dynamics, per damping."""

from collections.abc import Mapping

from deqpipe.analysis.decision import SWEEP_DECISION
from deqpipe.analysis.evaluation import Evaluation, evaluate_all
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.reporting import conditions, phrases
from deqpipe.reporting.cells import DASH, Block, Cell, Line, Shown, percent, show
from deqpipe.reporting.paper import published
from deqpipe.reporting.quantities import STEPS
from deqpipe.reporting.tables.evaluated import EvaluatedModels
from deqpipe.statistics import intervals
from deqpipe.workflow import gridpoints

DECISION = SWEEP_DECISION


def gather(tree: Tree) -> EvaluatedModels:
    """The evaluations of one model.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    return EvaluatedModels(evaluate_all(tree, (DECISION.model,), clean=False))


def caption(config: Config) -> str:
    """What the rows are."""
    return (
        f"Accuracy (%) of {DECISION.row} on {conditions.data(config)} under PGD-{config.attack.pgd.steps}: per damping "
        "lambda and attacked state i the minimum over K_a, and the K_a that attains it."
    )


def cells(gathered: EvaluatedModels, tree: Tree) -> tuple[Cell, ...]:
    """K_a and accuracy for every pair of damping and state that was attacked."""
    evaluation = gathered[DECISION]
    pairs = sorted({(point.damping, point.state) for point in evaluation.points}, key=lambda pair: (-pair[0], pair[1]))
    return tuple(cell for damping, state in pairs for cell in _pair(evaluation, tree, damping=damping, state=state))


def _pair(evaluation: Evaluation, tree: Tree, *, damping: float, state: int) -> tuple[Cell, Cell]:
    attacks = evaluation.at(damping=damping, state=state)
    right = evaluation.right[attacks]
    best = evaluation.points[attacks[intervals.strongest(right)]]
    steps, pgd, column = *published.table8_rows(damping), published.table8_column(state)
    return (
        Cell(
            steps, column, here=float(best.steps), n=right.shape[1], paper=published.value(8, steps, column),
            quantity=STEPS,
        ),
        percent(
            pgd, column, intervals.minimum(right, tree.bootstrap), paper=published.value(8, pgd, column),
            note=f"strongest at {best.triple}",
        ),
    )  # fmt: skip


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """As in the paper: states side by side, one group of rows per damping; interval and paper's number below."""
    states = sorted({point.state for point in gridpoints.grid_points(config)})
    dampings = sorted({point.damping for point in gridpoints.grid_points(config)}, reverse=True)
    lowest = min(cell.here for (row, _), cell in cells.items() if row.endswith("PGD") and cell.here is not None)
    lines = [line for damping in dampings for line in _group(cells, damping, states, lowest)]
    return (Block(("Damping", ""), tuple(map(published.table8_column, states)), tuple(lines)),)


def _group(cells: Mapping[tuple[str, str], Cell], damping: float, states: list[int], lowest: float) -> list[Line]:
    steps_row, pgd_row = published.table8_rows(damping)
    columns = [published.table8_column(state) for state in states]
    steps = [cells.get((steps_row, column)) for column in columns]
    pgd = [cells.get((pgd_row, column), Cell(pgd_row, column)) for column in columns]
    shown = [show(cell, strong=cell.here == lowest) for cell in pgd]
    return [
        _line(damping, "(i, K_a)", [_pair_text(state, cell) for state, cell in zip(states, steps, strict=True)]),
        Line((f"lambda = {damping:g}", "PGD"), tuple(Shown(one.value, strong=one.strong) for one in shown)),
        _line(damping, "interval", [one.interval for one in shown]),
        *([_line(damping, "seeds", [one.spread for one in shown])] if any(one.spread for one in shown) else []),
        _line(damping, "paper (i, K_a)", [_paper_pair(state, cell) for state, cell in zip(states, steps, strict=True)]),
        _line(damping, "paper PGD", [one.paper for one in shown]),
        *(
            [_line(damping, "difference", [one.difference for one in shown])]
            if any(s.difference for s in shown)
            else []
        ),
    ]


def _line(damping: float, label: str, texts: list[str]) -> Line:
    return Line((f"lambda = {damping:g}", label), tuple(Shown(text or DASH) for text in texts))


def _pair_text(state: int, cell: Cell | None) -> str:
    return f"({state}, {cell.here:g})" if cell is not None and cell.here is not None else ""


def _paper_pair(state: int, cell: Cell | None) -> str:
    return f"({state}, {cell.paper:g})" if cell is not None and cell.paper is not None else ""


def notes(gathered: EvaluatedModels, config: Config) -> tuple[str, ...]:
    """What else belongs to the numbers."""
    return (
        "Each number is a minimum over K_a of noisy accuracies: compare neighbouring states with their intervals.",
        phrases.early_states([gathered[DECISION]]),
    )
