"""What the tables amount to, in at most five sentences; every number is read off a table's cells.

Whether Secs. 3.3 and 3.2 help stands first, each gain beside what it is a gain over, with its interval: the report
shows these sentences below its picture, results.json holds them, and the demo ends with the first of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from deqpipe.analysis.decision import Decision, controls, paper_decisions
from deqpipe.analysis.union import decisions
from deqpipe.config import Config
from deqpipe.reporting.cells import Cell, Cells, Table, by_name, show
from deqpipe.reporting.report.survival import Fate, Sign, Survival, beyond, survivals
from deqpipe.reporting.tables import table1, table11
from deqpipe.reporting.tables.table1 import AA, ALL_PER_IMAGE, GAIN, OVER_CONTROL, PER_IMAGE, PGD
from deqpipe.reporting.tables.table2 import DIFF
from deqpipe.reporting.tables.table11 import UNION
from deqpipe.workflow import gridpoints
from deqpipe.workflow.defences import ENTROPY, PLAIN, ZERO_STEPS, defence_of
from deqpipe.workflow.suite_attacks import EXACT

Outcome: TypeAlias = Literal["helps", "hurts", "is open for"]


@dataclass(frozen=True)
class Comparison:
    """A paired difference in points, by the name of what has it."""

    name: str
    gain: Cell

    @property
    def outcome(self) -> Outcome:
        """What the interval and all seeds leave of it: the sign that they exclude the opposite of, or nothing."""
        outcomes: Mapping[Sign, Outcome] = {1: "helps", -1: "hurts", 0: "is open for"}
        return outcomes[beyond(self.gain, 0.0) or 0]


def sentences(written: Mapping[int, Table], config: Config) -> tuple[str, ...]:
    """At most five sentences of plain text, the most telling first; what has no number has no sentence.

    Args:
        written: the tables that there are, by number; none of them is needed.
        config: that they were made with.
    """
    robustness, attacks, transfers, union = (
        by_name(written[number].cells) if number in written else {} for number in (1, 2, 3, 11)
    )
    if _has(union, UNION):
        said = (
            _union(union, config),
            _left_of_defence(union),
            _left_of_training(union),
            _left_of_descent(union, config),
            _groups(union),
        )
    else:
        said = (
            _random_states(robustness, config),
            _entropy_reduction(robustness, config),
            _most_robust(robustness, config),
            _through_the_defence(transfers),
            _attacks(attacks, config),
        )
    return tuple(sentence for sentence in said if sentence)


def _has(cells: Cells, column: str) -> bool:
    return any(name == column and cell.here is not None for (_, name), cell in cells.items())


def _union(cells: Cells, config: Config) -> str:
    """The most robust decision by each of the two figures, each with both; and rivals that keep more."""
    rows = [one.row for one in paper_decisions("pgd_at", "trades") if (one.row, UNION) in cells]
    best, picked = (max(rows, key=lambda row: cells[row, column].here or 0.0) for column in (UNION, PGD))
    n = cells[best, UNION].n or 0
    said = (
        f"All attacks together (the union, on {n:,} test images): the most robust DEQ is {best}, {_both(best, cells)}"
    )
    if picked != best:
        said += f"; the best by that figure is {picked}, {_both(picked, cells)}"
    return f"{said}{_rivals(best, cells, config)}."


def _both(row: str, cells: Cells) -> str:
    return f"right on {value(cells[row, UNION])}, by the paper's figure on {value(cells[row, PGD])}"


def _rivals(best: str, cells: Cells, config: Config) -> str:
    """What only explains a gain, such as a control or a longer solve, where it keeps more than the best decision."""
    rivals = [one.row for one in decisions(config) if defence_of(one.defence).beside and (one.row, UNION) in cells]
    most = cells[best, UNION].here or 0.0
    listed = [f"{row} {value(cells[row, UNION])}" for row in rivals if (cells[row, UNION].here or 0.0) > most]
    if not listed:
        return ""
    return f"; rivals that only explain a gain, and faced fewer attacks, keep more: {'; '.join(listed)}"


_DECIDED = tuple(one.row for one in paper_decisions("pgd_at", "trades"))


def _left_of_defence(cells: Cells) -> str:
    """Sec. 3.2 over the same weights undefended."""
    left = _left(survivals(_DECIDED, cells, table11.OF_DEFENCE, pooled=True), "over the same weights undefended")
    return f"Sec. 3.2, lowering the entropy at test time: {left}." if left else ""


def _left_of_training(cells: Cells) -> str:
    """Sec. 3.3 over the weights without it."""
    left = _left(survivals(_DECIDED, cells, table11.OF_TRAINING, pooled=True), "over the weights without it")
    return f"Sec. 3.3, training on random states: {left}." if left else ""


def _left_of_descent(cells: Cells, config: Config) -> str:
    """The descent of Sec. 3.2 over its own control, and what the rest of the gain is by the paper's figure."""
    found = survivals(_DECIDED, cells, table11.OVER_CONTROL, pooled=True)
    left = _left(found, "over its own control (same weights and state, R = 0)")
    return f"The descent of Sec. 3.2 alone: {left}{_rest(found, cells, config)}." if left else ""


def _rest(found: Sequence[Survival], cells: Cells, config: Config) -> str:
    """What a gain of Sec. 3.2 is without its descent: the control over the undefended weights."""
    whole = {one.row: one.by_figure for one in survivals(_DECIDED, cells, table11.OF_DEFENCE, pooled=True)}
    pairs = [(whole[one.row], one.by_figure) for one in found if one.row in whole]
    rest = [replace(all_of, here=(all_of.here or 0) - (part.here or 0)) for all_of, part in pairs if all_of and part]
    if not rest:
        return ""
    restarts = " with restarts of the solver" if config.entropy.resolve == "quasi_newton" else ""
    return f"; another early state{restarts} makes the rest of Sec. 3.2's gain, {_range(rest)}"


def _left(found: Sequence[Survival], over: str) -> str:
    """What becomes of a gain under the union, the decisions named unless all fare alike; and by the paper's figure."""
    if not found:
        return ""
    by_fate = {fate: [one for one in found if one.fate == fate] for fate in _FATES}
    told = "; ".join(f"{_FATES[fate]} {_which(ones, found, fate)}" for fate, ones in by_fate.items() if ones)
    before = [one.by_figure for one in found if one.by_figure is not None]
    figure = f"; by the paper's figure it is {_range(before)}" if before else ""
    return f"under the union its gain {over} {told}{figure}"


_FATES: Mapping[Fate, str] = {
    "holds": "holds for",
    "hurts": "is a loss for",
    "lost": "is lost for",
    "too few images": "cannot be told, for want of images, for",
    "open": "is open for",
}


def _which(ones: Sequence[Survival], found: Sequence[Survival], fate: Fate) -> str:
    if fate in ("holds", "hurts"):
        return " and ".join(f"{one.row}, {points(one.under_union)}" for one in ones)
    several = f"all {len(ones)} decisions" if len(ones) == len(found) > 1 else " and ".join(one.row for one in ones)
    return f"{several} ({_range([one.under_union for one in ones])})"


def _range(gains: Sequence[Cell]) -> str:
    """The lowest and the highest value of some gains."""
    ordered = sorted(gains, key=lambda cell: cell.here or 0.0)
    ends = dict.fromkeys(show(cell, signed=True).value for cell in (ordered[0], ordered[-1]))
    return f"{' to '.join(ends)} points"


def _groups(cells: Cells) -> str:
    """What each part of the union leaves of the most robust decision by the paper's figure."""
    rows = [one.row for one in paper_decisions("pgd_at", "trades") if (one.row, PGD) in cells]
    picked = max(rows, key=lambda row: cells[row, PGD].here or 0.0)
    names = (
        (PGD, "the paper's figure"),
        (table11.PER_IMAGE, "the grid per image"),
        (AA, "AutoAttack"),
        (EXACT.label, "gradients through the solver alone"),
        (UNION, "everything"),
    )
    known = [(words, cells[picked, column]) for column, words in names if (picked, column) in cells]
    listed = ", ".join(f"{words} {show(cell).value} %" for words, cell in known if cell.here is not None)
    return f"Attacks that know the decision: of {picked}, {listed} is left."


def _random_states(cells: Cells, config: Config) -> str:
    """Sec. 3.3 alone, against the baseline of its framework."""
    found = [
        Comparison(one.framework, gain)
        for one in paper_decisions("pgd_at", "trades")
        if one.defence == PLAIN.name and (gain := cells.get((one.row, GAIN))) is not None and gain.here is not None
    ]
    if not found:
        return ""
    return f"Sec. 3.3, training on random states: against the baseline it {_listed(found)}; {_how_sure(found, config)}."


def _how_sure(found: Sequence[Comparison], config: Config) -> str:
    """What the intervals are of, and what they leave out."""
    n, several = found[0].gain.n or config.evaluation.images, any(one.gain.spread for one in found)
    trained = (
        "seeds: their lowest and highest"
        if several
        else "one training each: what another training would give, they do not say"
    )
    return f"{100 * config.statistics.confidence:g} % intervals over {n:,} images, {trained}"


def _entropy_reduction(cells: Cells, config: Config) -> str:
    """Sec. 3.2, each decision against the same weights at the same state without its descent."""
    found = [
        Comparison(table1.controlled(one).row, gain)
        for one in controls(config)
        if one.defence == ZERO_STEPS.name
        and (gain := cells.get((one.row, OVER_CONTROL))) is not None
        and gain.here is not None
    ]
    blind = "the attacks do not know the descent, which flatters it"
    if found:
        return (
            "Sec. 3.2, lowering the entropy at test time: against its own control (the same weights at the same state "
            f"without descent, R = 0) it {_listed(found)}{_other_state(cells)}; {blind}."
        )
    return _without_controls(cells, blind)


def _other_state(cells: Cells) -> str:
    """What the choice of another early state alone gives of each gain."""
    listed = [
        f"{show(cells[one.row, table1.STATE], signed=True).value} of {show(whole, signed=True).value}"
        for one in paper_decisions("pgd_at", "trades")
        if (whole := cells.get((one.row, table1.OF_DEFENCE))) is not None and whole.here is not None
    ]
    if not listed:
        return ""
    return f"; of the gains over the undefended weights another early state alone gives {', '.join(listed)} points"


def _without_controls(cells: Cells, blind: str) -> str:
    """Sec. 3.2 alone against the baseline, where no control was scored."""
    found = [
        Comparison(one.framework, gain)
        for one in paper_decisions("pgd_at", "trades")
        if one.method == f"+ {ENTROPY.label}"
        and (gain := cells.get((one.row, GAIN))) is not None
        and gain.here is not None
    ]
    if not found:
        return ""
    return (
        f"Sec. 3.2, lowering the entropy at test time: against the baseline it {_listed(found)}; its controls were not "
        f"scored (entropy.controls: false), and {blind}."
    )


def _listed(found: Sequence[Comparison]) -> str:
    """The comparisons by what they come to: gains first, each with its name, points and interval."""
    kinds: tuple[Outcome, ...] = ("helps", "hurts", "is open for")
    groups = {kind: [one for one in found if one.outcome == kind] for kind in kinds}
    return "; ".join(
        f"{kind} {' and '.join(f'{one.name}, {points(one.gain)}' for one in group)}"
        for kind, group in groups.items()
        if group
    )


def _most_robust(cells: Cells, config: Config) -> str:
    """The highest of the paper's decisions, beside its own control, and what withstands everything."""
    if not any((one.row, PGD) in cells for one in paper_decisions("pgd_at", "trades")):
        return ""
    best = table1.most_robust(cells)
    return (
        f"Most robust DEQ here: {best.row}, right on {value(cells[best.row, PGD])} of {config.evaluation.images:,} "
        f"test images under the strongest of {len(gridpoints.grid_points(config))} attacks{_beside(best, cells)}"
        f"{_per_image(best, cells)}; it was picked on these images, which flatters it a little."
    )


def _beside(best: Decision, cells: Cells) -> str:
    """What the best decision is more than: its own control, where it has Sec. 3.2, otherwise its baseline."""
    control = replace(best, defence=ZERO_STEPS.name)
    alone = cells.get((control.row, PGD))
    if best.defence == ENTROPY.name and alone is not None and alone.here is not None:
        return f", its own control without descent (R = 0) on {value(alone)}"
    baseline = cells.get((f"{best.framework} baseline", PGD))
    if best.method == "baseline":
        return ", adversarial training alone"
    return "" if baseline is None or baseline.here is None else f", {best.framework} baseline on {value(baseline)}"


def _per_image(best: Decision, cells: Cells) -> str:
    """The stricter figure: what is right under all attacks, image by image."""
    for column, what in ((ALL_PER_IMAGE, "the grid and AutoAttack"), (PER_IMAGE, "the grid")):
        cell = cells.get((best.row, column))
        if cell is not None and cell.here is not None:
            return f"; image by image it withstands every attack of {what} on {value(cell)}"
    return ""


def _through_the_defence(cells: Cells) -> str:
    """Whether seeing Sec. 3.2 makes attacks on it stronger."""
    own = [one.row for one in paper_decisions("trades") if one.defence == ENTROPY.name]
    effects = {row: cells.get((row, f"from {row}, in the loop minus blind")) for row in own}
    known = {row: cell for row, cell in effects.items() if cell is not None and cell.here is not None}
    if not known:
        return ""
    lower = [row for row, cell in known.items() if cell.extent and cell.extent[1] < 0]
    verdict = (
        f"stronger than blind ones for {' and '.join(lower)}, so blind numbers flatter Sec. 3.2"
        if lower
        else "not shown to be stronger than blind ones, at a few points where those do best"
    )
    listed = "; ".join(f"{row} {points(cell)}" for row, cell in known.items())
    return f"Attacks that run through Sec. 3.2: {verdict}; what they leave minus what those leave is {listed}."


def _attacks(cells: Cells, config: Config) -> str:
    """Whether intermediate states make attacks stronger."""
    found = {
        one.row: cell
        for one in paper_decisions("pgd_at", "trades")
        if (cell := cells.get((one.row, DIFF))) is not None and cell.low is not None
    }
    if not found:
        return ""
    differences = sorted(cell.here or 0.0 for cell in found.values())
    shown = [row for row, cell in found.items() if cell.extent and cell.extent[0] > 0]
    named = f" ({'; '.join(shown)})" if 0 < len(shown) < len(found) else ""
    return (
        f"Attacks on intermediate states: they leave {differences[0]:.1f} to {differences[-1]:.1f} points less than "
        "the ready-made attack on the final state (a minimum over attacks of which that is one, so never above it); "
        f"for {len(shown)} of {len(found)} decisions the interval excludes 0{named}."
    )


def value(cell: Cell, *, confidence: float | None = None) -> str:
    """A share as text: per cent and interval, with the confidence of that where it is given."""
    shown = show(cell)
    kind = "" if confidence is None else f"{100 * confidence:g} % interval "
    return f"{shown.value} % ({kind}{shown.interval})" if shown.interval else f"{shown.value} %"


def points(gain: Cell) -> str:
    """A paired difference as text: points, interval, and lowest to highest over seeds where there are several."""
    shown = show(gain, signed=True)
    inside = "; ".join(part for part in (shown.interval, f"seeds {shown.spread}" if shown.spread else "") if part)
    return f"{shown.value} points ({inside})" if inside else f"{shown.value} points"
