"""What else the tables say, for those who unfold it: AutoAttack, restarts, price, and the networks without states."""

from collections.abc import Mapping, Sequence

from deqpipe.analysis.decision import Decision, paper_decisions
from deqpipe.config import Config
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Cell, Cells, Table, by_name, show
from deqpipe.reporting.report.claims import above
from deqpipe.reporting.report.summary import value
from deqpipe.reporting.report.survival import beyond
from deqpipe.reporting.tables import table1
from deqpipe.reporting.tables.table1 import ALL, CLEAN, OVER_CONTROL, PGD, TRUNK
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import DefenceName

_WORSE = "Its restarts alone do better than the whole defence."


def sentences(written: Mapping[int, Table], config: Config) -> tuple[str, ...]:
    """What stands folded below the summary; what has no number has no sentence.

    Raises:
        KeyError: Table 1 is not among the tables.
    """
    robustness = by_name(written[1].cells)
    tables = {number: by_name(table.cells) for number, table in written.items()}
    said = (
        _clean(robustness, config),
        _autoattack(robustness, config),
        _restarts(tables.get(5, {}), robustness, config),
        _cost(tables.get(10, {}), config),
        _others(robustness, config),
    )
    return tuple(sentence for sentence in said if sentence)


def _clean(cells: Cells, config: Config) -> str:
    best = table1.most_robust(cells)
    return f"On clean images the most robust, {best.row}, is right on {_value(cells[best.row, CLEAN], config)}."


def _autoattack(cells: Cells, config: Config) -> str:
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


def _here(cells: Cells, row: str, column: str) -> float:
    cell = cells.get((row, column))
    return -1.0 if cell is None or cell.here is None else cell.here


def _restarts(cells: Cells, robustness: Cells, config: Config) -> str:
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
    over = robustness.get((Decision(swept, "entropy_restart_only").row, OVER_CONTROL)) if not cells else None
    _, _, paired = full.note.partition("minus R = 0: ")
    beside = f", the defence having {paired} more (paired interval)" if paired else ""
    return (
        f"What the descent of Sec. 3.2 itself does, with the weights of {Decision(swept, 'plain').row}: "
        f"{_value(full, config)} with it; {_value(without, config)} without descent (R = 0){beside}; restarting the "
        f"solver alone gives {_value(restart, config)}. {_against(full, restart, over)}"
    )


def _against(full: Cell, restart: Cell, over: Cell | None) -> str:
    """What the defence adds to its restarts: paired where Table 1 has it, else by intervals that must not overlap."""
    sign = beyond(over, 0.0) if over is not None and over.here is not None else above(full, restart)
    if sign is None:
        return ""
    if sign:
        return "The defence lies above its restarts alone." if sign > 0 else _WORSE
    return (
        "The intervals do not tell the defence from its restarts alone, or seeds differ: what the descent adds to them "
        "is open."
    )


def _cost(cells: Cells, config: Config) -> str:
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


def _others(cells: Cells, config: Config) -> str:
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


def _under_both(cells: Cells, networks: Mapping[str, Sequence[Decision]]) -> str:
    """ALL of these networks, where AutoAttack has the budget that DEQs meet."""
    listed = []
    for name, decisions in networks.items():
        known = [(one, cells.get((one.row, ALL))) for one in decisions]
        kept = [f"{show(cell).value} % ({one.framework})" for one, cell in known if cell and cell.here is not None]
        listed += [f"{name} keeps {' and '.join(kept)}"] if kept else []
    return f" With AutoAttack, of the same budget as for DEQs, {'; '.join(listed)}." if listed else ""


def _network(decision: Decision, cells: Cells) -> str:
    return f"{show(cells[decision.row, PGD]).value} % ({decision.framework})"


def _value(cell: Cell, config: Config) -> str:
    return value(cell, confidence=config.statistics.confidence)
