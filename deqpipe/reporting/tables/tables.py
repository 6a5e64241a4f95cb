"""The tables: built from the records, written in every format, read again for the terminal and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Source
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.lazy import named
from deqpipe.reporting import absent, conditions, pages, phrases
from deqpipe.reporting.cells import Block, Cell, OverSeeds, Table, by_name, percent
from deqpipe.reporting.sidecar import Origin, origin, read_sidecar, sidecar_text
from deqpipe.reporting.tables import formats, own, screen
from deqpipe.results import records
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Answers, Bootstrap
from deqpipe.workflow import products
from deqpipe.workflow.products import TABLES, Definition

G = TypeVar("G", bound="Gathered")


@runtime_checkable
class Gathered(Protocol):
    """What a table is made of, for one seed, and where it comes from."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files behind it."""


@runtime_checkable
class TableMaker(Protocol[G]):
    """What the module of a table offers (`workflow.products.Definition.module`)."""

    def gather(self, tree: Tree) -> G:
        """What one seed's numbers are made of, read and checked."""

    def caption(self, config: Config) -> str:
        """One or two sentences under the title."""

    def cells(self, gathered: G, tree: Tree) -> tuple[Cell, ...]:
        """Every number, with the paper's beside it."""

    def blocks(self, cells: Mapping[tuple[str, str], Cell], config: Config) -> tuple[Block, ...]:
        """The layout."""

    def notes(self, gathered: G, config: Config) -> tuple[str, ...]:
        """What must be said with these numbers alone."""


@runtime_checkable
class Warns(Protocol):
    """What the module of a table offers beside, if its numbers can be worth nothing."""

    def warnings(self, gathered: Any, config: Config) -> tuple[str, ...]:
        """What is wrong with one seed's numbers, a sentence each."""


def _maker(definition: Definition) -> TableMaker[Any]:
    """The module that makes a table."""
    maker: TableMaker[Any] = named(definition.module)
    return maker if definition.piece is None else own.OwnMaker(definition.piece)


@dataclass(frozen=True)
class Written:
    """What stands in a table's sidecar: all of the table, and its origin."""

    table: Table
    origin: Origin


def write(number: int, config: Config, results: Path, *, output_stem: Path) -> None:
    """Write a table at `output_stem`: csv, md, tex, html, and json with all of it and its origin.

    Raises:
        UserError: there is no such table, or records are missing, incomplete, or of another configuration.
    """
    written = build(number, config, results)
    sidecar = sidecar_text(written)
    for ending, text in (
        (".csv", formats.to_csv(written.table)),
        (".md", formats.to_markdown(written.table)),
        (".tex", formats.to_latex(written.table)),
        (".html", pages.page(written.table)),
        (".json", sidecar),
    ):
        records.write_text(output_stem.with_suffix(ending), text)


def read(path: Path) -> Written:
    """A table from its sidecar.

    Raises:
        UserError: the file is missing or no sidecar.
    """
    return read_sidecar(path, Written, what="table")


def text(number: int, results: Path, on: screen.Screen, *, notes: bool = False) -> str:
    """A table that was written before, for a terminal; with `notes` all of it, otherwise what one screen holds.

    Raises:
        UserError: it was not written, or cannot be read.
    """
    table = read(_written(number, results)).table
    return screen.whole(table, on) if notes else screen.brief(table, on, foremost=_foremost(number))


def _foremost(number: int) -> tuple[str, ...]:
    return TABLES[number].foremost if number in TABLES else ()


def csv_text(number: int, results: Path) -> str:
    """The csv of a table that was written before.

    Raises:
        UserError: as `text`.
    """
    return formats.to_csv(read(_written(number, results)).table)


def _written(number: int, results: Path) -> Path:
    """The sidecar of a table, if it is there; the configuration says whether a user's file has one of the number."""
    if number < 1 or (number not in TABLES and not (results / "tables" / f"table{number}.json").exists()):
        raise UserError(f"table is {number}, but must be one of {', '.join(map(str, TABLES))}")
    path = results / "tables" / f"table{number}.json"
    if path.exists():
        return path
    others = sorted(str(found.parents[1]) for found in results.glob(f"*/tables/{path.name}"))
    hint = f"; there is one with --results {' or '.join(others)}" if others else ""
    raise UserError(f"table {path} does not exist{hint}")


def _definition(number: int, config: Config) -> Definition:
    known = products.tables(config)
    if number not in known:
        raise UserError(f"table is {number}, but must be one of {', '.join(map(str, known))}")
    return known[number]


def build(number: int, config: Config, results: Path) -> Written:
    """A table of the first seed, with the spread over all seeds that the tree holds.

    Raises:
        UserError: as `write`.
    """
    definition = _definition(number, config)
    maker = _maker(definition)
    if definition.every_attack and absent.reason(config) is not None:
        nothing = absent.table(number, definition.title, config, conditions=_shared(config))
        return Written(nothing, origin(config, "table", ()))
    trees = available(definition, config, results)
    gathered = [maker.gather(tree) for tree in trees]
    by_seed = {tree.seed: maker.cells(one, tree) for one, tree in zip(gathered, trees, strict=True)}
    cells = (*_over_seeds(by_seed), *_pooled(by_seed, definition, trees[0].bootstrap))
    if definition.comparable and conditions.comparable(config):
        cells = tuple(_compared(cell) for cell in cells)
    table = Table(
        number=number,
        title=definition.title,
        caption=maker.caption(config),
        blocks=maker.blocks(by_name(cells), config),
        cells=cells,
        notes=maker.notes(gathered[0], config),
        conditions=_conditions(config, [tree.seed for tree in trees], comparable=definition.comparable),
        warnings=_warnings(maker, gathered, trees),
    )
    sources = [source for one in gathered for source in one.sources]
    return Written(table, origin(config, "table", sources, definition))


def _warnings(maker: TableMaker[Any], gathered: Sequence[Gathered], trees: Sequence[Tree]) -> tuple[str, ...]:
    """Those of every seed, which is named where there are several."""
    if not isinstance(maker, Warns):
        return ()
    said = [
        (tree, text) for one, tree in zip(gathered, trees, strict=True) for text in maker.warnings(one, tree.config)
    ]
    return tuple(text if len(trees) == 1 else f"Seed {tree.seed}: {text}" for tree, text in said)


def answers(number: int, tree: Tree) -> dict[tuple[str, str], Answers]:
    """What the cells of a table were counted from, by row and column; nothing for what is no accuracy.

    Raises:
        UserError: records are missing, incomplete, or of another configuration.
    """
    definition = _definition(number, tree.config)
    if not definition.comparable or (definition.every_attack and absent.reason(tree.config) is not None):
        return {}
    maker = _maker(definition)
    return {(cell.row, cell.column): cell.answers for cell in maker.cells(maker.gather(tree), tree)}


def available(definition: Definition, config: Config, results: Path) -> list[Tree]:
    """The first seed, and every further one whose files are all there."""
    first, *others = (Tree(results, config, seed) for seed in config.seeds)
    return [first, *(tree for tree in others if tree.complete(definition.needs(config)))]


def _pooled(by_seed: Mapping[int, Sequence[Cell]], definition: Definition, bootstrap: Bootstrap) -> tuple[Cell, ...]:
    """Differences over all seeds together, of the columns that a table pools; none where there is one seed."""
    if len(by_seed) < 2:
        return ()
    named = [by_name(cells) for cells in by_seed.values()]
    names = [name for name in named[0] if name[1] in definition.pooled and all(name in cells for cells in named)]
    return tuple(_pool([cells[name] for cells in named], bootstrap) for name in names)


def _pool(cells: Sequence[Cell], bootstrap: Bootstrap) -> Cell:
    first = cells[0]
    estimate = intervals.pooled_difference([cell.answers for cell in cells], bootstrap)
    note = f"mean of {len(cells)} seeds, {first.note}"
    return percent(first.row, phrases.pooled(first.column), estimate, note=note, quantity=first.quantity)


def _over_seeds(by_seed: Mapping[int, Sequence[Cell]]) -> tuple[Cell, ...]:
    """The cells of the first seed, each with its values over the seeds that have it."""
    values: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for seed, cells in by_seed.items():
        for cell in cells:
            values.setdefault((cell.row, cell.column), []).extend([] if cell.here is None else [(seed, cell.here)])
    return tuple(_with_seeds(cell, values[cell.row, cell.column]) for cell in next(iter(by_seed.values())))


def _with_seeds(cell: Cell, values: Sequence[tuple[int, float]]) -> Cell:
    return cell if cell.here is None else replace(cell, over_seeds=OverSeeds.of(tuple(values)))


def _compared(cell: Cell) -> Cell:
    if cell.here is None or cell.paper is None or cell.low is None:  # a K_a is no accuracy
        return cell
    return replace(cell, difference=cell.here - cell.paper)


def _conditions(config: Config, seeds: Sequence[int], *, comparable: bool) -> tuple[str, ...]:
    """What a table was made under; tables that compare nothing with the paper are those of speeds."""
    shared = _shared(config) if comparable else _of_speed(config)
    if len(config.seeds) == 1 or not comparable:  # speeds are measured for the first seed
        return shared
    said = [f"Spread in braces: lowest and highest value over seeds {', '.join(map(str, seeds))}"] * (len(seeds) > 1)
    lacking = [str(seed) for seed in config.seeds if seed not in seeds]
    said += [f"Seeds without complete records: {', '.join(lacking)}"] if lacking else []
    return (*shared, *(f"{sentence}." for sentence in said))


def _of_speed(config: Config) -> tuple[str, ...]:
    return (*conditions.of_speed(config, seed=config.seeds[0]), *conditions.against_paper(config))


def _shared(config: Config) -> tuple[str, ...]:
    return (*conditions.setup(config, seed=config.seeds[0]), *conditions.against_paper(config))
