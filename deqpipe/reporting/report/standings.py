"""One row per method: what it keeps by the paper's figure and under every attack, and what becomes of its gain.

All numbers of a row are of the same images: those of the suite, from Table 11, where there is one; else Table 1's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from deqpipe.analysis.decision import Decision, paper_decisions
from deqpipe.reporting.cells import EMPTY, Cell, Cells, Shown, Table, by_name, show
from deqpipe.reporting.report.survival import Fate, beyond, survivals
from deqpipe.reporting.tables import table1, table11

Standpoint: TypeAlias = Literal["baseline", "shown"] | Fate
TONES: Mapping[Standpoint, Literal["shown", "contradicted"]] = {
    "holds": "shown", "shown": "shown", "lost": "contradicted", "hurts": "contradicted",
}  # fmt: skip
"""The colour of a verdict, as that of a claim; that of an open one for the others."""
_ALONE: Mapping[int, Standpoint] = {1: "shown", -1: "hurts", 0: "open"}


@dataclass(frozen=True)
class Standing:
    """One method.

    Attributes:
        decision: whose.
        by_figure: what it keeps by the paper's figure.
        union: what it keeps under every attack; empty without a suite.
        gain_by_figure: over the baseline of the same training, by the paper's figure.
        gain: the same under every attack; empty without a suite.
        verdict: what becomes of the gain.
    """

    decision: Decision
    by_figure: Shown
    gain_by_figure: Shown
    verdict: Standpoint
    union: Shown = field(default=EMPTY)
    gain: Shown = field(default=EMPTY)

    @property
    def framework(self) -> str:
        """Adversarial training."""
        return self.decision.framework

    @property
    def method(self) -> str:
        """What is added to it."""
        return self.decision.method


@dataclass(frozen=True)
class Standings:
    """The rows, and the images that they were counted on.

    Attributes:
        rows: a line per method, baselines first in each framework.
        images: how many; None: no row says.
        union: whether there is a suite.
    """

    rows: tuple[Standing, ...]
    images: int | None
    union: bool


def standings(written: Mapping[int, Table]) -> Standings:
    """Of the paper's decisions that have numbers.

    Args:
        written: the tables that there are, by number.
    """
    union = 11 in written and any(cell.column == table11.UNION for cell in written[11].cells)
    number = 11 if union else 1
    cells = by_name(written[number].cells) if number in written else {}
    there = [one for one in paper_decisions("pgd_at", "trades") if (one.row, table1.PGD) in cells]
    found = tuple(_under_union(one, cells) if union else _alone(one, cells) for one in there)
    counted = {cells[one.row, table1.PGD].n for one in there}
    return Standings(found, counted.pop() if len(counted) == 1 else None, union)


def _alone(one: Decision, cells: Cells) -> Standing:
    gain = cells.get((one.row, table1.GAIN))
    sign = beyond(gain, 0.0)
    verdict = "baseline" if gain is None else _ALONE[sign or 0]
    return Standing(one, show(cells[one.row, table1.PGD]), _signed(gain), verdict)


def _under_union(one: Decision, cells: Cells) -> Standing:
    kept = [_printed(cells.get((one.row, column))) for column in (table1.PGD, table11.UNION)]
    found = survivals([one.row], cells, table11.OVER_BASELINE, pooled=True)
    if not found:
        return Standing(one, kept[0], EMPTY, "baseline", union=kept[1])
    (gain,) = found
    return Standing(one, kept[0], _signed(gain.by_figure), gain.fate, union=kept[1], gain=_signed(gain.under_union))


def _printed(cell: Cell | None) -> Shown:
    return EMPTY if cell is None else show(cell)


def _signed(cell: Cell | None) -> Shown:
    return EMPTY if cell is None or cell.here is None else show(cell, signed=True)
