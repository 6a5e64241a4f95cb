"""Table 9: speed of training steps."""

from collections.abc import Mapping

from deqpipe.analysis import speeds
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.speeds import Timed
from deqpipe.config import Config
from deqpipe.reporting import quantities
from deqpipe.reporting.cells import EMPTY, Block, Cell, Line, Shown, by_size, number, show
from deqpipe.reporting.paper import published
from deqpipe.workflow import vocabulary

SPEED, RATIO = "images/s", "times the baseline"
_BASELINES = {vocabulary.MODELS[name].framework: name for name in vocabulary.BASELINES}
_METHODS = {name: Decision(name, "plain") for name in vocabulary.DEQS}


def gather(tree: Tree) -> Timed:
    """What the timing job wrote.

    Raises:
        UserError: it is missing, cut short, or of another configuration.
    """
    return speeds.training(tree)


def caption(config: Config) -> str:
    """What the numbers are."""
    return (
        f"Training images per second, batches of {config.timing.batch_size}; and speed with Sec. 3.3 over that of the "
        "baseline of the same framework."
    )


def cells(gathered: Timed, tree: Tree) -> tuple[Cell, ...]:
    """A speed for every method, a ratio for those that are no baseline."""
    return tuple(cell for model in _METHODS for cell in _row(model, gathered))


def _row(model: str, gathered: Timed) -> list[Cell]:
    row, speed = _METHODS[model].row, gathered.speeds[model]
    estimate, theirs = speeds.estimate(speed), published.value(9, row, SPEED)
    own = [number(row, SPEED, estimate, quantities.SPEED, paper=theirs, note=speeds.BRACKETS)]
    baseline = _BASELINES[vocabulary.MODELS[model].framework]
    if model != baseline:
        words, paper = f"over {_METHODS[baseline].row}; {speeds.FARTHEST}", _paper_ratio(model, baseline)
        times = speeds.ratio(speed, gathered.speeds[baseline])
        own.append(number(row, RATIO, times, quantities.SPEED_UP, paper=paper, note=words))
    return own


def _paper_ratio(model: str, baseline: str) -> float | None:
    theirs, base = (published.value(9, _METHODS[name].row, SPEED) for name in (model, baseline))
    return theirs / base if theirs and base else None


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """The paper's four rows, with the ratio beside the speed."""
    lines = tuple(
        Line((one.framework, one.method), (_shown(cells[one.row, SPEED], 1), _ratio(cells.get((one.row, RATIO)))))
        for one in _METHODS.values()
    )
    return (Block(("Training", "Method"), (SPEED, RATIO), lines),)


def _ratio(cell: Cell | None) -> Shown:
    return EMPTY if cell is None else _shown(cell, 2)


def _shown(cell: Cell, paper: int) -> Shown:
    assert cell.here is not None
    return show(cell, digits=by_size(cell.here, paper=paper))


def notes(gathered: Timed, config: Config) -> tuple[str, ...]:
    """Machine, method, and what a step is."""
    return (
        "A step is the attack, the loss, its gradient and the update of the weights, on images that are on the device "
        "already; the Jacobian term, which falls on few steps, is left out. Baselines have no ratio.",
        *speeds.conditions(gathered.measured),
    )
