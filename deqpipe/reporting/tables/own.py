"""Tables that users' files make."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.extending import Table, mistake
from deqpipe.reporting.cells import EMPTY, Block, Cell, Line, percent, show
from deqpipe.reporting.quantities import Quantity
from deqpipe.results import document, records
from deqpipe.statistics.intervals import Estimate
from deqpipe.workflow import products
from deqpipe.workflow.layout import needed


@dataclass(frozen=True)
class OwnNumbers:
    """What a user's function made of one seed.

    Attributes:
        rows: row -> column -> estimate or number.
        sources: the files that it could read.
    """

    rows: Mapping[str, Mapping[str, Any]]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class OwnMaker:
    """As the module of a table (`tables.TableMaker`).

    Attributes:
        piece: what the user's file says.
    """

    piece: Table

    def gather(self, tree: Tree) -> OwnNumbers:
        """What the user's function makes.

        Raises:
            UserError: it is not rows of columns of numbers.
        """
        assert self.piece.make is not None
        rows = self.piece.make(tree)
        if not isinstance(rows, Mapping) or not rows or not all(isinstance(row, Mapping) for row in rows.values()):
            raise self._error(f"make gave a {type(rows).__name__}, but must give row -> column -> number")
        return OwnNumbers(rows, _sources(tree, self.piece))

    def caption(self, config: Config) -> str:
        """The user's, and whose table it is."""
        return self.piece.caption or f"Made by {self.piece.name}, of a file of this configuration."

    def cells(self, gathered: OwnNumbers, tree: Tree) -> tuple[Cell, ...]:
        """Every number."""
        return tuple(
            self._cell(str(row), str(column), value)
            for row, columns in gathered.rows.items()
            for column, value in columns.items()
        )

    def _cell(self, row: str, column: str, value: object) -> Cell:
        if isinstance(value, Estimate):
            return percent(row, column, value)
        if isinstance(value, Real) and not isinstance(value, bool):
            return Cell(row, column, float(value), quantity=Quantity(self.piece.unit))
        raise self._error(f"{column} of {row} is {value!r}, but must be an estimate or a number")

    def _error(self, what: str) -> UserError:
        return mistake(Table, self.piece.name, what)

    def blocks(self, cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
        """Rows and columns in the order in which they came."""
        columns = tuple(dict.fromkeys(column for _, column in cells))
        lines = tuple(
            Line((row,), tuple(show(cells[row, column]) if (row, column) in cells else EMPTY for column in columns))
            for row in dict.fromkeys(row for row, _ in cells)
        )
        return (Block(("",), columns, lines),)

    def notes(self, gathered: OwnNumbers, config: Config) -> tuple[str, ...]:
        """That it is no table of the paper."""
        return ("This table comes from a file of the user's (extensions), not from the paper.",)


def _sources(tree: Tree, piece: Table) -> tuple[Source, ...]:
    """The files of the stages that a table needs, as far as they say where they come from."""
    (definition,) = (one for one in products.tables(tree.config).values() if one.piece == piece)
    names = dict.fromkeys(
        path for need in definition.needs(tree.config) for path in needed(need, tree.config, tree.seed)
    )
    return tuple(source for name in names if (source := _source(tree, tree.root / name)) is not None)


def _source(tree: Tree, path: Path) -> Source | None:
    if path.suffix == ".parquet":
        return tree.source(path, records.read(path, ("image",)).provenance[0])
    return tree.source(path, document.read(path)[1]) if path.suffix == ".json" else None
