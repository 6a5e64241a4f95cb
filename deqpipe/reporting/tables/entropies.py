"""Tables 6 and 7: entropy of clean images against that of attacked ones (Eqs. (12) and (13)), on undefended DEQs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Files, RowQuery, Source
from deqpipe.config import Config
from deqpipe.reporting.cells import Block, Cell, Digits, Line, number, percent, show
from deqpipe.reporting.paper import published
from deqpipe.reporting.quantities import ENTROPY, SHARE, Quantity
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, OverAttacks, Values
from deqpipe.workflow import gridpoints, shards, vocabulary

_DECISIONS = tuple(Decision(model, "plain") for model in vocabulary.DEQS)
_STATISTICS = ("AVG", "MIN", "MAX")
_RACED = "absent: racing is enabled, so that not every attack met every image"
_LAST_TWO = slice(-2, None)
_SUFFIXES = ("", ", final state")  # z^[N], which the paper's columns are read as; and the unrolled state


@dataclass(frozen=True)
class Entropies:
    """Prediction entropies of one undefended DEQ, in nats, at z^[N] and at the final state.

    Attributes:
        clean: (images, 2).
        attacked: (attacks, images, 2).
    """

    clean: Values
    attacked: Values

    @property
    def difference(self) -> Values:
        """Clean minus attacked (attacks, images, 2); NaN where either is not finite."""
        with np.errstate(invalid="ignore"):  # inf minus inf
            change: Values = self.clean[None] - self.attacked
        return np.where(np.isfinite(change), change, np.nan)

    @property
    def left_out(self) -> int:
        """Pairs of a clean and an attacked image, at one of the two states, that are not finite."""
        return int(np.isnan(self.difference).sum())


@dataclass(frozen=True)
class EntropyPairs:
    """The four undefended DEQs; none with racing."""

    by_decision: Mapping[Decision, Entropies]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Measure:
    """What is measured of the differences of entropies, clean minus attacked.

    Attributes:
        table: which table it fills.
        of: differences (attacks, images) to what is averaged over images.
        quantity: what that is; a share is 0 or 1 for each image.
        digits: how it is printed; None: as percent.
    """

    table: int
    of: Callable[[Values], Values]
    quantity: Quantity
    digits: Digits | None

    @property
    def shares(self) -> bool:
        """Whether it is 0 or 1 for each image."""
        return self.quantity == SHARE

    def cells(self, gathered: EntropyPairs, tree: Tree) -> tuple[Cell, ...]:
        """Average, minimum and maximum over attacks, for both states."""
        return tuple(
            cell
            for decision in _DECISIONS
            for index, suffix in enumerate(_SUFFIXES)
            for cell in self._row(decision.row, gathered.by_decision.get(decision), index, suffix, tree.bootstrap)
        )

    def _row(
        self, row: str, entropies: Entropies | None, index: int, suffix: str, bootstrap: Bootstrap
    ) -> tuple[Cell, ...]:
        columns = [f"{name}{suffix}" for name in _STATISTICS]
        paper = [published.value(self.table, row, column) for column in columns]
        if entropies is None:
            return self._absent(row, columns, paper, why=_RACED)
        values = self.of(entropies.difference[:, :, index])
        if np.isnan(values).all(axis=1).any():
            why = "absent: an attack left no image whose entropies are finite"
            return self._absent(row, columns, paper, why=why)
        over: OverAttacks = intervals.over_attacks(values, bootstrap, shares=self.shares)
        estimates = (over.average, over.lowest, over.highest)
        return tuple(
            percent(row, name, one, paper=theirs, quantity=self.quantity)
            if self.shares
            else number(row, name, one, self.quantity, paper=theirs)
            for name, one, theirs in zip(columns, estimates, paper, strict=True)
        )

    def _absent(self, row: str, columns: Sequence[str], paper: Sequence[float | None], *, why: str) -> tuple[Cell, ...]:
        pairs = zip(columns, paper, strict=True)
        return tuple(Cell(row, name, paper=theirs, note=why, quantity=self.quantity) for name, theirs in pairs)

    def blocks(self, cells: Mapping[tuple[str, str], Cell]) -> tuple[Block, ...]:
        """As in the paper for z^[N]; below it the final state."""
        return tuple(
            Block(
                ("Training", "Method"),
                tuple(f"{name}{suffix or ', z^[N]'}" for name in _STATISTICS),
                tuple(
                    Line(
                        (decision.framework, decision.method),
                        tuple(
                            show(cells[decision.row, f"{name}{suffix}"], signed=not self.shares, digits=self.digits)
                            for name in _STATISTICS
                        ),
                    )
                    for decision in _DECISIONS
                ),
            )
            for suffix in _SUFFIXES
        )


def lower(difference: Values) -> Values:
    """Whether the clean image has the lower entropy (Eq. (12)), strictly: 0 or 1, NaN where it is unknown."""
    return np.where(np.isnan(difference), np.nan, difference < 0)


P = Measure(table=6, of=lower, quantity=SHARE, digits=None)
DELTA = Measure(table=7, of=lambda difference: difference, quantity=ENTROPY, digits=Digits(4, 3, 4))


def gather(tree: Tree) -> EntropyPairs:
    """The entropies of the four undefended DEQs; none with racing, where not every attack met every image.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    if shards.races(tree.config):
        return EntropyPairs({}, ())
    by_model = {decision: _entropies(tree, decision.model) for decision in _DECISIONS}
    sources = tuple(source for _, behind in by_model.values() for source in behind)
    return EntropyPairs({decision: entropies for decision, (entropies, _) in by_model.items()}, sources)


def _entropies(tree: Tree, model: str) -> tuple[Entropies, tuple[Source, ...]]:
    clean = tree.opened("clean", model, [tree.clean(model)])
    attacked = tree.opened("attack_grid", model, tree.attacked(model))
    (alone,) = _values(tree, clean, model, grid=False, where=f"clean records of {model}")
    grid = _values(tree, attacked, model, grid=True, where=f"attack records of {model}")
    return Entropies(alone, grid), (*clean.sources, *attacked.sources)


def _values(tree: Tree, files: Files, model: str, *, grid: bool, where: str) -> Values:
    """Entropies (attacks, images, 2) of the undefended model at z^[N] and at the final state."""
    judge = model, "plain"
    (entropy,) = tree.rows(files, {judge: RowQuery(_LAST_TWO)}, "entropy", grid=grid)[judge].table(
        "entropy", where=where
    )
    return entropy.astype(np.float64)


def notes(gathered: EntropyPairs, config: Config) -> tuple[str, ...]:
    """What the states are, what is left out, and when nothing can be said."""
    if not gathered.by_decision:
        return ("Absent: racing is enabled, so that not every attack met every image.",)
    said = "; ".join(
        f"{one.row} {entropies.left_out:,}" for one, entropies in gathered.by_decision.items() if entropies.left_out
    )
    total = len(gridpoints.grid_points(config)) * config.evaluation.images * len(_SUFFIXES)
    return (
        f"z^[N] is state {config.solver.steps}, which the paper's z* is read as here; it could as well be the final "
        "(unrolled) state of the second block. Entropies are those of the undefended model, in nats, of a clean image "
        "and of what an attack made of it. Average, minimum and maximum are over the attacks of the grid, and taken "
        "inside each resample of the images.",
        f"Pairs with an entropy that is not finite, left out (of {total:,} for each model): {said or 'none'}.",
    )
