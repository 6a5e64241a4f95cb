"""What the tables amount to, in plain words; every number is read off a table's cells."""

from collections.abc import Mapping

from deqpipe import specs
from deqpipe.config import Config
from deqpipe.reporting import conditions, table1
from deqpipe.reporting.decisions import Decision, eight
from deqpipe.reporting.formats import Cell, Table, show
from deqpipe.reporting.table1 import CLEAN, GAIN, PER_IMAGE, PGD, TRUNK
from deqpipe.reporting.table2 import DIFF

_Cells = Mapping[tuple[str, str], Cell]


def sentences(first: Table, second: Table, config: Config) -> tuple[str, ...]:
    """The answers of Tables 1 and 2, each with how sure it is."""
    robustness, attacks = _by_name(first), _by_name(second)
    return (
        _most_robust(robustness, config),
        _gain_of_the_best(robustness),
        _picked(robustness, config),
        _all_gains(robustness),
        _attacks(attacks, config),
        _per_image(robustness),
        _others(robustness, config),
    )


def _by_name(table: Table) -> _Cells:
    return {(cell.row, cell.column): cell for cell in table.cells}


def _most_robust(cells: _Cells, config: Config) -> str:
    best = table1.most_robust(cells)
    return (
        f"Most robust here is {best.row}: right on {_value(cells[best.row, PGD], config)} of "
        f"{config.evaluation.images:,} test images under the strongest of {len(specs.grid_points(config))} attacks."
    )


def _picked(cells: _Cells, config: Config) -> str:
    best = table1.most_robust(cells)
    return (
        f"On clean images it is right on {_value(cells[best.row, CLEAN], config)}. It was picked as the highest of "
        "eight on the same images, which flatters it a little."
    )


def _gain_of_the_best(cells: _Cells) -> str:
    best = table1.most_robust(cells)
    gain = cells.get((best.row, GAIN))
    if gain is None:
        return f"{best.row} is adversarial training alone: none of the paper's methods comes out above it here."
    return f"Against {best.framework} baseline that is {_points(gain)}: {_verdict(gain)}."


def _verdict(gain: Cell) -> str:
    assert gain.low is not None
    assert gain.high is not None
    if gain.low > 0:
        return "the interval lies above 0, so these images do show a gain"
    if gain.high < 0:
        return "the interval lies below 0, so these images do show a loss"
    return "the interval includes 0, so these images cannot tell the two apart"


def _all_gains(cells: _Cells) -> str:
    gains = [cells[one.row, GAIN] for one in eight("pgd_at", "trades") if (one.row, GAIN) in cells]
    above = sum(gain.low is not None and gain.low > 0 for gain in gains)
    below = sum(gain.high is not None and gain.high < 0 for gain in gains)
    return (
        f"Of the {len(gains)} comparisons of a method with its baseline, {above or 'none'} show a gain, "
        f"{below or 'none'} a loss, and {len(gains) - above - below or 'none'} are open; the intervals are "
        "not corrected for their number."
    )


def _attacks(cells: _Cells, config: Config) -> str:
    rows = [one.row for one in eight("pgd_at", "trades")]
    differences = sorted(cells[row, DIFF].here or 0.0 for row in rows)
    shown = sum((cells[row, DIFF].low or 0.0) > 0 for row in rows)
    return (
        f"Attacks on intermediate states leave {differences[0]:.1f} to {differences[-1]:.1f} points less than the "
        f"ready-made attack on the final state (Table 2); for {shown} of {len(rows)} decisions the interval excludes 0."
    )


def _per_image(cells: _Cells) -> str:
    best = table1.most_robust(cells)
    union = cells[best.row, PER_IMAGE]
    return (
        f"Image by image, {best.row} withstands every one of these attacks on {union.here:.1f} % of the images; the "
        "minimum over attacks of mean accuracies, the paper's figure, is the more lenient of the two."
    )


def _others(cells: _Cells, config: Config) -> str:
    attack = f"PGD-{config.attack.pgd.steps}"
    trunk = cells[TRUNK.row, table1.final_column(config)]
    resnets = " and ".join(_resnet(Decision(model, "plain"), cells) for model in specs.RESNETS)
    name = conditions.architecture(config, "ResNet")
    return (
        f"For comparison, under {attack} alone: the pretrained trunk, never trained against attacks, keeps "
        f"{_value(trunk, config)}; {name} {resnets}. One attack is less than a grid of them: compare with FINAL in "
        "Table 2 rather than with the minimum."
    )


def _resnet(decision: Decision, cells: _Cells) -> str:
    return f"{show(cells[decision.row, PGD]).value} % ({decision.framework})"


def _value(cell: Cell, config: Config) -> str:
    shown = show(cell)
    return f"{shown.value} % ({100 * config.statistics.confidence:g} % interval {shown.interval})"


def _points(gain: Cell) -> str:
    shown = show(gain, signed=True)
    return f"{shown.value} points (paired interval {shown.interval})"
