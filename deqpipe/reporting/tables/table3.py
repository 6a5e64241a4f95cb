"""Table 3: attacks crafted on one TRADES method, judged by another; and attacks crafted through Sec. 3.2."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deqpipe.analysis import transfers
from deqpipe.analysis.answers import AttackAnswers
from deqpipe.analysis.decision import Decision, paper_decisions
from deqpipe.analysis.early_states import selection_source
from deqpipe.analysis.evaluation import Evaluation, evaluate_all
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.config import Config
from deqpipe.reporting import conditions, phrases
from deqpipe.reporting.cells import Block, Cell, Line, percent, show
from deqpipe.reporting.paper import published
from deqpipe.reporting.quantities import DIFFERENCE
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Estimate
from deqpipe.workflow import vocabulary

_DECISIONS = paper_decisions("trades")
_DEFENDED = tuple(Decision(model, "entropy") for model in vocabulary.TRADES)
_ABSENT = "absent: attack.transfer is false, so the grid's images were judged by the model alone that they came from"


@dataclass(frozen=True)
class TransferredAttacks:
    """Everybody's answers to everybody's images.

    Attributes:
        evaluations: each decision on images that were crafted on its own model.
        blind: (decision, model that the images were crafted on): the whole grid.
        in_loop: the same for the points that were crafted through Sec. 3.2.
        sources: the files behind it.
    """

    evaluations: Mapping[Decision, Evaluation]
    blind: Mapping[tuple[Decision, str], AttackAnswers]
    in_loop: Mapping[tuple[Decision, str], AttackAnswers]
    sources: tuple[Source, ...]


def gather(tree: Tree) -> TransferredAttacks:
    """The records of both TRADES DEQs.

    Raises:
        UserError: they are missing, incomplete, doubled, or of another configuration.
    """
    evaluations = evaluate_all(tree, vocabulary.TRADES, clean=False)
    blind = {(one, one.model): AttackAnswers(evaluations[one].points, evaluations[one].right) for one in _DECISIONS}
    in_loop: dict[tuple[Decision, str], AttackAnswers] = {}
    sources = [source for one in evaluations.values() for source in one.sources]
    for crafter in vocabulary.TRADES:
        others, looped = transfers.transferred(tree, crafter), transfers.in_loop(tree, crafter)
        blind |= {(decision, crafter): scored for decision, scored in others.by_decision.items()}
        in_loop |= {(decision, crafter): scored for decision, scored in looped.by_decision.items()}
        sources += [*others.sources, *looped.sources, selection_source(tree, crafter)]
    return TransferredAttacks(evaluations, blind, in_loop, tuple(sources))


def caption(config: Config) -> str:
    """What rows and columns are."""
    return (
        f"Accuracy (%) of {conditions.data(config)} under PGD-{config.attack.pgd.steps}. Rows decide, at their early "
        "states; columns say on which method the images were crafted. First block: minimum over the grid. Second "
        f"block: minimum over the {config.attack.in_loop_points} points of the grid that were strongest against the "
        "defended decision of the crafting model, crafted again through Sec. 3.2 (in the loop), and as they stand in "
        "the grid (blind); the difference is in points, paired by image. The lowest number of a row is bold."
    )


def transfer_column(crafted_on: Decision) -> str:
    """Name of the column of images that were crafted on a method."""
    return f"from {crafted_on.row}"


def loop_columns(crafted_on: Decision) -> tuple[str, str, str]:
    """Names of the columns of points through Sec. 3.2: in the loop, the same blind, and their difference."""
    name = transfer_column(crafted_on)
    return f"{name}, in the loop", f"{name}, same points blind", f"{name}, in the loop minus blind"


def cells(gathered: TransferredAttacks, tree: Tree) -> tuple[Cell, ...]:
    """Four by four, then three for each decision and each model that images were crafted on through Sec. 3.2."""
    main = [_transferred(gathered, tree, row, crafted_on) for row in _DECISIONS for crafted_on in _DECISIONS]
    pairs = ((row, crafted_on) for row in _DECISIONS for crafted_on in _DEFENDED)
    return (*main, *(cell for row, crafted_on in pairs for cell in _looped(gathered, tree, row, crafted_on)))


def _transferred(gathered: TransferredAttacks, tree: Tree, row: Decision, crafted_on: Decision) -> Cell:
    column = transfer_column(crafted_on)
    paper = published.value(3, row.row, column)
    scored = gathered.blind.get((row, crafted_on.model))
    if scored is None:
        return Cell(row.row, column, paper=paper, note=_ABSENT)
    words = f"strongest at {scored.strongest}"
    if crafted_on.defence == "entropy":
        words += f"; the images of column {transfer_column(Decision(crafted_on.model, 'plain'))}"
    return percent(row.row, column, intervals.minimum(scored.right, tree.bootstrap), paper=paper, note=words)


def _looped(gathered: TransferredAttacks, tree: Tree, row: Decision, crafted_on: Decision) -> Iterator[Cell]:
    seen, unseen, minus = loop_columns(crafted_on)
    looped, whole = gathered.in_loop[row, crafted_on.model], gathered.blind.get((row, crafted_on.model))
    yield _minimum(row, seen, looped, tree)
    if whole is None:
        yield Cell(row.row, unseen, note=_ABSENT)
        yield Cell(row.row, minus, note=_ABSENT, quantity=DIFFERENCE)
        return
    blind = whole.among(looped.points)
    yield _minimum(row, unseen, blind, tree)
    effect: Estimate = intervals.minimum_difference(looped.right, blind.right, tree.bootstrap)
    yield percent(row.row, minus, effect, quantity=DIFFERENCE)


def _minimum(row: Decision, column: str, scored: AttackAnswers, tree: Tree) -> Cell:
    value = intervals.minimum(scored.right, tree.bootstrap)
    return percent(row.row, column, value, note=f"strongest at {scored.strongest}")


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """The paper's four by four; beside the points through Sec. 3.2 the same points blind."""
    everyone = {transfer_column(one): f"from {one.method}" for one in _DECISIONS}
    looped = {name: f"from {name.partition(' TRADES ')[2]}" for one in _DEFENDED for name in loop_columns(one)}
    return _block(cells, everyone), _block(cells, looped)


def _block(cells: Mapping[tuple[str, str], Cell], columns: Mapping[str, str]) -> Block:
    """The columns of these names, under these headings."""
    lines = []
    for row in _DECISIONS:
        row_cells = [cells[row.row, name] for name in columns]
        minima = [cell.here for cell in row_cells if cell.here is not None and not _is_difference(cell)]
        shown = (
            show(cell, signed=_is_difference(cell), strong=not _is_difference(cell) and cell.here == min(minima))
            for cell in row_cells
        )
        lines.append(Line((row.framework, row.method), tuple(shown)))
    return Block(("Training", "Method"), tuple(columns.values()), tuple(lines))


def _is_difference(cell: Cell) -> bool:
    return cell.column.endswith("minus blind")


def notes(gathered: TransferredAttacks, config: Config) -> tuple[str, ...]:
    """Which columns are the same images, what is absent, and what was crafted through Sec. 3.2."""
    judged = [gathered.evaluations[decision] for decision in _DECISIONS]
    return (
        "Images are crafted without knowledge of Sec. 3.2, which changes no weight: in the first block the columns "
        "baseline and + Sec. 3.2 are the same images, and so are + Sec. 3.3 and + Secs. 3.2 & 3.3. The paper does not "
        "say whether its own were.",
        *_absent(config),
        f"In the loop: {_points(gathered)}. Forward the surrogate runs through Sec. 3.2, its gradient is that of the "
        "unroll at the image that was put in. A difference below zero says that seeing the defence made the attack "
        "stronger. The points are those where the blind attack does best on these images, which favours it. The blind "
        "minimum over so few points is no lower than that over the grid: compare it inside its "
        "block alone. Any finite set of attacks bounds robustness from above.",
        *phrases.left_in_the_race(config),
        phrases.early_states(judged),
        phrases.attack_checks(judged),
    )


def _absent(config: Config) -> tuple[str, ...]:
    if config.attack.transfer:
        return ()
    return (
        "Dashes: attack.transfer is false, so the grid's images were judged by the model alone that they were crafted "
        "on. Points in the loop are judged by both models all the same.",
    )


def _points(gathered: TransferredAttacks) -> str:
    """Which points were crafted through Sec. 3.2, per model."""
    listed = []
    for crafted_on in _DEFENDED:
        points = gathered.in_loop[crafted_on, crafted_on.model].points
        listed.append(f"on {crafted_on.row} {', '.join(point.triple for point in points)}")
    return f"(i, K_a, lambda) {'; '.join(listed)}"
