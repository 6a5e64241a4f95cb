"""Table 10: speed of inference with Sec. 3.2."""

from collections.abc import Mapping

from deqpipe.analysis import speeds
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.speeds import Timed
from deqpipe.config import Config
from deqpipe.reporting.cells import EMPTY, Block, Cell, Line, Shown, by_size, number, show
from deqpipe.reporting.paper import published
from deqpipe.reporting.quantities import COST, SPEED
from deqpipe.workflow import gridpoints
from deqpipe.workflow.gridpoints import EntropySetting

ANY, UNDEFENDED = "any T_f", "R = 0"


def gather(tree: Tree) -> Timed:
    """What the timing job wrote.

    Raises:
        UserError: it is missing, cut short, or of another configuration.
    """
    return speeds.inference(tree)


def caption(config: Config) -> str:
    """What the numbers are."""
    return (
        f"Clean test images per second, batches of {config.timing.batch_size}, with the weights of TRADES + Sec. 3.3. "
        "R = 0: without Sec. 3.2, so without T_f. Second block: how many times as long an image takes with Sec. 3.2."
    )


def cells(gathered: Timed, tree: Tree) -> tuple[Cell, ...]:
    """Speed without Sec. 3.2 and with every T_f and R; then what each costs."""
    plain = gathered.speeds[speeds.PLAIN]
    theirs = published.value(10, ANY, UNDEFENDED)
    first = number(ANY, UNDEFENDED, speeds.estimate(plain), SPEED, paper=theirs, note=speeds.BRACKETS)
    settings = _settings(tree.config)
    return (
        first,
        *(_speed(one, gathered) for one in settings),
        *(_cost(one, gathered) for one in settings),
    )


def _settings(config: Config) -> tuple[EntropySetting, ...]:
    return tuple(one for one in gridpoints.entropy_settings(config) if one.input_steps)


def _speed(setting: EntropySetting, gathered: Timed) -> Cell:
    row, column = row_name(setting.solver_steps), column_name(setting.input_steps)
    speed = gathered.speeds[setting.defence]
    theirs = published.value(10, row, column)
    return number(row, column, speeds.estimate(speed), SPEED, paper=theirs, note=speeds.BRACKETS)


def _cost(setting: EntropySetting, gathered: Timed) -> Cell:
    row, column = row_name(setting.solver_steps), column_name(setting.input_steps)
    multiple = speeds.ratio(gathered.speeds[speeds.PLAIN], gathered.speeds[setting.defence])
    plain, theirs = published.value(10, ANY, UNDEFENDED), published.value(10, row, column)
    paper = plain / theirs if plain and theirs else None
    return number(row, cost_name(setting.input_steps), multiple, COST, paper=paper, note=speeds.FARTHEST)


def row_name(solver_steps: int) -> str:
    """Name of the row of a T_f."""
    return f"T_f = {solver_steps}"


def column_name(input_steps: int) -> str:
    """Name of the column of an R."""
    return f"R = {input_steps}"


def cost_name(input_steps: int) -> str:
    """Name of the column that says what an R costs."""
    return f"{UNDEFENDED} over {column_name(input_steps)}"


def blocks(cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
    """As in the paper, with R = 0 in a row of its own; below it the cost."""
    sweep = config.entropy_sweep
    rows = [row_name(every) for every in sorted(sweep.solver_steps)]
    columns = tuple(column_name(steps) for steps in sorted(sweep.input_steps))
    costs = tuple(cost_name(steps) for steps in sorted(sweep.input_steps))
    return (
        Block(("",), (UNDEFENDED, *columns), _lines(cells, [ANY, *rows], (UNDEFENDED, *columns))),
        Block(("",), costs, _lines(cells, rows, costs)),
    )


def _lines(cells: Mapping[tuple[str, str], Cell], rows: list[str], columns: tuple[str, ...]) -> tuple[Line, ...]:
    def shown(cell: Cell | None) -> Shown:
        if cell is None or cell.here is None:
            return EMPTY
        return show(cell, digits=by_size(cell.here, paper=1))

    return tuple(Line((row,), tuple(shown(cells.get((row, column))) for column in columns)) for row in rows)


def notes(gathered: Timed, config: Config) -> tuple[str, ...]:
    """Machine, method, and what a pass is."""
    return (
        "A pass takes the images, which are on the device already, to their classes at z^[N]; nothing is unrolled "
        "behind it. R = 0 has no T_f, so its row has no other column.",
        *speeds.conditions(gathered.measured),
    )
