"""What becomes of a gain by the paper's figure once every attack counts: all three numbers are of the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from deqpipe.reporting import phrases
from deqpipe.reporting.cells import Cell, Cells
from deqpipe.reporting.tables.table11 import GainColumns

Sign: TypeAlias = Literal[-1, 0, 1]
"""Of one comparison: it shows the claim (1), the opposite (-1), or neither."""
Fate: TypeAlias = Literal["holds", "hurts", "lost", "too few images", "open"]
"""Under the union a gain is shown (holds), the opposite is (hurts), or neither. If neither, the paper's figure may have
shown it: then it is lost where the fall from one to the other is shown, and otherwise images are too few to tell. A
gain that neither of them shows is open."""


def beyond(cell: Cell | None, bound: float) -> Sign | None:
    """Whether a number lies above a bound: neither its interval nor, where there are several, a seed reaches it."""
    ends = None if cell is None else cell.extent
    return None if ends is None else 1 if ends[0] > bound else -1 if ends[1] < bound else 0


@dataclass(frozen=True)
class Survival:
    """A gain of one decision, in points.

    Attributes:
        row: the decision.
        under_union: what is left of it under every attack.
        by_figure: it by the paper's figure; None: one of the two did not face the grid.
        fall: `by_figure` minus `under_union`, paired by image; None as before.
    """

    row: str
    under_union: Cell
    by_figure: Cell | None = None
    fall: Cell | None = None

    @property
    def fate(self) -> Fate:
        """What the intervals, and all seeds, say of it."""
        sign = beyond(self.under_union, 0.0)
        if sign:
            return "holds" if sign > 0 else "hurts"
        if beyond(self.by_figure, 0.0) != 1:
            return "open"
        return "lost" if beyond(self.fall, 0.0) == 1 else "too few images"


def survivals(rows: Sequence[str], cells: Cells, columns: GainColumns, *, pooled: bool = False) -> tuple[Survival, ...]:
    """Those of the rows of Table 11 that have the gain.

    Args:
        rows: decisions.
        cells: of Table 11.
        columns: which gain.
        pooled: over seeds, where there are several; else of the first, with the spread.
    """

    def found(row: str, column: str) -> Cell | None:
        over_seeds = cells.get((row, phrases.pooled(column))) if pooled else None
        cell = over_seeds or cells.get((row, column))
        return None if cell is None or cell.here is None else cell

    return tuple(
        Survival(row, left, found(row, columns.by_figure), found(row, columns.fall))
        for row in rows
        if (left := found(row, columns.under_union)) is not None
    )
