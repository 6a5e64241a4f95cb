"""Tables 1, 2 and 8: built from the records, written in every format, read again for the terminal and the report."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from deqpipe import records
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import conditions, formats, table1, table2, table8
from deqpipe.reporting.decisions import Decision, Evaluation, Tree, evaluate_all
from deqpipe.reporting.formats import Block, Cell, Table
from deqpipe.reporting.origin import Origin, origin, read_sidecar, sidecar_text

Evaluations = Mapping[Decision, Evaluation]


class Maker(Protocol):
    """What a module that makes one table offers."""

    TITLE: str
    MODELS: tuple[str, ...]
    """Whose records it needs."""
    CLEAN_RECORDS: bool
    """Whether it needs those on clean images, too."""

    def caption(self, config: Config) -> str:
        """One or two sentences under the title."""

    def cells(self, evaluations: Evaluations, tree: Tree) -> tuple[Cell, ...]:
        """Every number, with the paper's beside it."""

    def blocks(self, cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
        """The layout."""

    def notes(self, evaluations: Evaluations, config: Config) -> tuple[str, ...]:
        """What must be said with these numbers alone."""


_MAKERS: Mapping[int, Maker] = {1: table1, 2: table2, 8: table8}
TABLES = tuple(_MAKERS)


@dataclass(frozen=True)
class Written:
    """What stands in a table's sidecar: all of the table, and its origin."""

    table: Table
    origin: Origin


def write(number: int, config: Config, results: Path, *, output_stem: Path) -> None:
    """Write a table at `output_stem`: csv, md, tex, and json with all of it and its origin.

    Raises:
        UserError: there is no such table, or records are missing, incomplete, or of another configuration.
    """
    written = build(number, config, results)
    sidecar = sidecar_text(written)
    for ending, text in (
        (".csv", formats.to_csv(written.table)),
        (".md", formats.to_markdown(written.table)),
        (".tex", formats.to_latex(written.table)),
        (".json", sidecar),
    ):
        records.write_text(output_stem.with_suffix(ending), text)


def read(path: Path) -> Written:
    """A table from its sidecar.

    Raises:
        UserError: the file is missing or no sidecar.
    """
    return read_sidecar(path, Written, what="table")


def text(number: int, results: Path, *, width: int = 118) -> str:
    """A table that was written before, for a terminal: its lines folded, its rows left as they are.

    Raises:
        UserError: it was not written.
    """
    path = results / "tables" / f"table{number}.md"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"table {path} does not exist") from None
    return "\n".join(_terminal_line(line, width) for line in lines)


def _terminal_line(line: str, width: int) -> str:
    if line.startswith("|"):
        return re.sub(r"\*\*([^*]*)\*\*([^|]*)", r"\1\2    ", line)  # blanks for the stars: columns stay aligned
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line.replace("**", ""), width, subsequent_indent=indent, break_on_hyphens=False)


def build(number: int, config: Config, results: Path) -> Written:
    """A table of the first seed, with the spread over all seeds that the tree holds.

    Raises:
        UserError: as `write`.
    """
    if number not in _MAKERS:
        raise UserError(f"table is {number}, but must be one of {', '.join(map(str, TABLES))}")
    maker = _MAKERS[number]
    trees = available(config, results, maker.MODELS, clean=maker.CLEAN_RECORDS)
    evaluations = [evaluate_all(tree, maker.MODELS, clean=maker.CLEAN_RECORDS) for tree in trees]
    cells = _spread([maker.cells(one, tree) for one, tree in zip(evaluations, trees, strict=True)])
    if conditions.comparable(config):
        cells = tuple(_compared(cell) for cell in cells)
    table = Table(
        number=number,
        title=maker.TITLE,
        caption=maker.caption(config),
        blocks=maker.blocks({(cell.row, cell.column): cell for cell in cells}, config),
        cells=cells,
        notes=maker.notes(evaluations[0], config),
        conditions=_conditions(config, [tree.seed for tree in trees]),
    )
    sources = [source for one in evaluations for evaluation in one.values() for source in evaluation.sources]
    return Written(table, origin(config, "table", sources))


def available(config: Config, results: Path, models: Sequence[str], *, clean: bool) -> list[Tree]:
    """The first seed, and every further one whose records are all there."""
    first, *others = (Tree(results, config, seed) for seed in config.seeds)
    return [first, *(tree for tree in others if tree.complete(models, clean=clean))]


def _spread(seeds: Sequence[Sequence[Cell]]) -> tuple[Cell, ...]:
    """The cells of the first seed, each with its lowest and highest value over all seeds."""
    if len(seeds) == 1:
        return tuple(seeds[0])
    return tuple(_spread_of(same) for same in zip(*seeds, strict=True))


def _spread_of(same: Sequence[Cell]) -> Cell:
    values = [cell.here for cell in same if cell.here is not None]
    if not values:
        return same[0]
    return replace(same[0], spread=(min(values), max(values)))


def _compared(cell: Cell) -> Cell:
    if cell.here is None or cell.paper is None or cell.low is None:  # a K_a is no accuracy
        return cell
    return replace(cell, difference=cell.here - cell.paper)


def _conditions(config: Config, seeds: Sequence[int]) -> tuple[str, ...]:
    shared = (*conditions.setup(config, seed=config.seeds[0]), *conditions.against_paper(config))
    if len(config.seeds) == 1:
        return shared
    said = [f"Spread in braces: lowest and highest value over seeds {', '.join(map(str, seeds))}"] * (len(seeds) > 1)
    absent = [str(seed) for seed in config.seeds if seed not in seeds]
    said += [f"Seeds without complete records: {', '.join(absent)}"] if absent else []
    return (*shared, *(f"{sentence}." for sentence in said))
