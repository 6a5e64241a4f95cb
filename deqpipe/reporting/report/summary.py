"""What the tables amount to, in plain words; every number is read off a table's cells."""

from collections.abc import Mapping, Sequence

from deqpipe.analysis.decision import Decision, paper_decisions
from deqpipe.config import Config
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Cell, Table, show
from deqpipe.reporting.tables import table1
from deqpipe.reporting.tables.table1 import ALL, ALL_PER_IMAGE, CLEAN, GAIN, PER_IMAGE, PGD, TRUNK
from deqpipe.reporting.tables.table2 import DIFF
from deqpipe.workflow import gridpoints, vocabulary
from deqpipe.workflow.defences import DefenceName

_Cells = Mapping[tuple[str, str], Cell]


def sentences(written: Mapping[int, Table], config: Config) -> tuple[str, ...]:
    """The answers of Tables 1, 2, 3, 5 and 10, each with how sure it is; what has no number has no sentence."""
    by_name = {number: _by_name(table) for number, table in written.items()}
    robustness, attacks = by_name[1], by_name[2]
    said = (
        _most_robust(robustness, config),
        _gain_of_the_best(robustness),
        _picked(robustness, config),
        _all_gains(robustness),
        _autoattack(robustness, config),
        _controls(by_name.get(5, {}), robustness, config),
        _through_the_defence(by_name.get(3, {})),
        _attacks(attacks, config),
        _per_image(robustness),
        _cost(by_name.get(10, {}), config),
        _others(robustness, config),
    )
    return tuple(sentence for sentence in said if sentence)


def _by_name(table: Table) -> _Cells:
    return {(cell.row, cell.column): cell for cell in table.cells}


def _most_robust(cells: _Cells, config: Config) -> str:
    best = table1.most_robust(cells)
    return (
        f"Most robust DEQ here is {best.row}: right on {_value(cells[best.row, PGD], config)} of "
        f"{config.evaluation.images:,} test images under the strongest of {len(gridpoints.grid_points(config))} attacks"
        f"{', crafted without knowledge of Sec. 3.2' if best.defence == 'entropy' else ''}."
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
    gains = [cells[one.row, GAIN] for one in paper_decisions("pgd_at", "trades") if (one.row, GAIN) in cells]
    above = sum(gain.low is not None and gain.low > 0 for gain in gains)
    below = sum(gain.high is not None and gain.high < 0 for gain in gains)
    return (
        f"Of the {len(gains)} comparisons of a method with its baseline, {above or 'none'} show a gain, "
        f"{below or 'none'} a loss, and {len(gains) - above - below or 'none'} are open; the intervals are "
        "not corrected for their number. Methods with Sec. 3.2 face attacks that do not know it, their baselines "
        "attacks made for them."
    )


def _autoattack(cells: _Cells, config: Config) -> str:
    """ALL of the best, and who would be best by it."""
    best = table1.most_robust(cells)
    both = cells.get((best.row, ALL))
    if both is None or both.here is None:
        return ""
    highest = max(paper_decisions("pgd_at", "trades"), key=lambda one: _here(cells, one.row, ALL))
    first = f"With AutoAttack as well (ALL in Table 1), {best.row} is right on {_value(both, config)}"
    if _here(cells, highest.row, ALL) == both.here:
        return f"{first}, and no other DEQ on more."
    return f"{first}; the highest of the eight is then {highest.row}, {_value(cells[highest.row, ALL], config)}."


def _here(cells: _Cells, row: str, column: str) -> float:
    cell = cells.get((row, column))
    return -1.0 if cell is None or cell.here is None else cell.here


def _controls(cells: _Cells, robustness: _Cells, config: Config) -> str:
    """What of Sec. 3.2's gain its descent is, by the controls of Table 5 or, without its default there, of Table 1."""
    row, swept = f"T_f = {config.entropy.solver_steps}", vocabulary.SWEEP_MODEL
    if config.entropy_sweep.points != "all":
        cells = {}  # its few points are the strongest against the whole defence: they bound controls more loosely
    shown = [cells.get((row, name)) for name in (f"R = {config.entropy.input_steps}", "R = 0", "restart only")]
    if shown[0] is None:
        controls: tuple[DefenceName, ...] = ("entropy", "entropy_zero_steps", "entropy_restart_only")
        shown = [robustness.get((Decision(swept, defence).row, PGD)) for defence in controls]
    known = [cell for cell in shown if cell is not None and cell.here is not None]
    if len(known) < len(shown):
        return ""
    full, without, restart = known
    _, _, paired = full.note.partition("minus R = 0: ")
    beside = f", the defence having {paired} more (paired interval)" if paired else ""
    return (
        f"What the descent of Sec. 3.2 itself does, with the weights of {Decision(swept, 'plain').row}: "
        f"{_value(full, config)} with it; {_value(without, config)} without descent (R = 0){beside}; restarting the "
        f"solver alone gives {_value(restart, config)}. {_against(full, restart)}"
    )


def _against(full: Cell, restart: Cell) -> str:
    if full.low is None or full.high is None or restart.low is None or restart.high is None:
        return ""
    if full.low > restart.high:
        return "The defence lies above its restarts alone."
    if full.high < restart.low:
        return "Its restarts alone do better than the whole defence."
    return "The intervals of the defence and of its restarts alone overlap: what the descent adds to them is open."


def _through_the_defence(cells: _Cells) -> str:
    """What seeing Sec. 3.2 does to attacks on the defended decisions of the model that they were crafted on."""
    own = [one.row for one in paper_decisions("trades") if one.defence == "entropy"]
    effects = {row: cells.get((row, f"from {row}, in the loop minus blind")) for row in own}
    known = {row: cell for row, cell in effects.items() if cell is not None and cell.here is not None}
    if not known:
        return ""
    listed = "; ".join(f"{row} {_points(cell)}" for row, cell in known.items())
    return (
        f"Attacks that run through Sec. 3.2, minus the same points crafted blind (Table 3, second block): {listed}. "
        f"{_stronger(list(known.values()))}"
    )


def _stronger(effects: list[Cell]) -> str:
    lower = sum(cell.high is not None and cell.high < 0 for cell in effects)
    if lower:
        return f"For {lower} of {len(effects)} seeing the defence makes attacks stronger: blind numbers flatter it."
    return (
        "No interval lies below 0: these few points do not show that seeing the defence makes attacks stronger. They "
        "are those where the blind attack does best on these images, which favours it."
    )


def _attacks(cells: _Cells, config: Config) -> str:
    rows = [one.row for one in paper_decisions("pgd_at", "trades")]
    differences = sorted(cells[row, DIFF].here or 0.0 for row in rows)
    shown = sum((cells[row, DIFF].low or 0.0) > 0 for row in rows)
    return (
        f"Attacks on intermediate states leave {differences[0]:.1f} to {differences[-1]:.1f} points less than the "
        f"ready-made attack on the final state (Table 2); for {shown} of {len(rows)} decisions the interval excludes 0."
    )


def _per_image(cells: _Cells) -> str:
    """The honest figure beside the paper's."""
    best = table1.most_robust(cells)
    union, alone = cells.get((best.row, ALL_PER_IMAGE)), cells.get((best.row, PER_IMAGE))
    if union is not None and union.here is not None:
        what, number, theirs = "PGD of the grid and AutoAttack together", union.here, _here(cells, best.row, ALL)
    elif alone is not None and alone.here is not None:
        what, number, theirs = "all attacks of the grid together", alone.here, _here(cells, best.row, PGD)
    else:
        return ""
    return (
        f"The honest figure: image by image, {best.row} withstands {what} on {number:.1f} % of the images; the paper's "
        f"figure, the minimum over attacks of mean accuracies, is {theirs:.1f} %, the more lenient of the two."
    )


def _cost(cells: _Cells, config: Config) -> str:
    """How many times as long an image takes with Sec. 3.2."""
    row, steps = f"T_f = {config.entropy.solver_steps}", config.entropy.input_steps
    cost = cells.get((row, f"R = 0 over R = {steps}"))
    if cost is None or cost.here is None:
        return ""
    ends = (
        f" ({cost.low:.3g} to {cost.high:.3g} over repeats)" if cost.low is not None and cost.high is not None else ""
    )
    theirs = f"; in the paper {cost.paper:.3g} times, on other hardware" if cost.paper else ""
    return (
        f"Its price: with Sec. 3.2 ({row}, R = {steps}) inference takes {cost.here:.3g} times as long as without"
        f"{ends}{theirs} (Table 10)."
    )


def _others(cells: _Cells, config: Config) -> str:
    attack = f"PGD-{config.attack.pgd.steps}"
    trunk = cells[TRUNK.row, table1.final_column(config)]
    networks = _networks(config)
    listed = "; ".join(
        f"{name} {' and '.join(_network(one, cells) for one in decisions)}" for name, decisions in networks.items()
    )
    return (
        f"For comparison, under {attack} alone: the pretrained trunk, never trained against attacks, keeps "
        f"{_value(trunk, config)}; {listed}. One attack is less than a grid of them: compare with FINAL in "
        f"Table 2 rather than with the minimum.{_under_both(cells, networks)}"
    )


def _networks(config: Config) -> dict[str, list[Decision]]:
    """The networks without states, by what tables call them."""
    grouped: dict[str, list[Decision]] = {}
    for model in vocabulary.FEEDFORWARD:
        grouped.setdefault(conditions.architecture(config, model), []).append(Decision(model, "plain"))
    return grouped


def _under_both(cells: _Cells, networks: Mapping[str, Sequence[Decision]]) -> str:
    """ALL of these networks, where AutoAttack has the budget that DEQs meet."""
    listed = []
    for name, decisions in networks.items():
        known = [(one, cells.get((one.row, ALL))) for one in decisions]
        kept = [f"{show(cell).value} % ({one.framework})" for one, cell in known if cell and cell.here is not None]
        listed += [f"{name} keeps {' and '.join(kept)}"] if kept else []
    return f" With AutoAttack, of the same budget as for DEQs, {'; '.join(listed)}." if listed else ""


def _network(decision: Decision, cells: _Cells) -> str:
    return f"{show(cells[decision.row, PGD]).value} % ({decision.framework})"


def _value(cell: Cell, config: Config) -> str:
    shown = show(cell)
    return f"{shown.value} % ({100 * config.statistics.confidence:g} % interval {shown.interval})"


def _points(gain: Cell) -> str:
    shown = show(gain, signed=True)
    return f"{shown.value} points (paired interval {shown.interval})"
