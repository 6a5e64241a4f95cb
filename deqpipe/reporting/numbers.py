"""All numbers of the tables as one value, for results.json."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from deqpipe.analysis.decision import Decision, all_decisions, controls, own_decisions, perturbed_decisions
from deqpipe.config import Config
from deqpipe.counts import sum_of
from deqpipe.reporting import sidecar
from deqpipe.reporting.cells import Cell, OverSeeds, Table
from deqpipe.reporting.report import summary
from deqpipe.reporting.sidecar import Input
from deqpipe.reporting.tables import tables
from deqpipe.reporting.tables.tables import Written
from deqpipe.results import numbers
from deqpipe.results.numbers import Interval, Made, Number, Numbers, TableFacts
from deqpipe.workflow import products, vocabulary


def write(config: Config, results: Path, output: Path) -> None:
    """Write the numbers of a results folder whose tables are finished.

    Raises:
        UserError: a table is missing.
    """
    numbers.write(output, collect(config, results))


def collect(config: Config, results: Path) -> Numbers:
    """The numbers of all tables that a configuration asks for.

    Raises:
        UserError: a table is missing.
    """
    wanted = [table for table in products.tables(config).values() if table.wanted(config)]
    written = {table.number: tables.read(results / "tables" / f"{table.name}.json") for table in wanted}
    made_of = sidecar.origin(config, "report", ())
    names = _decisions(config)
    return Numbers(
        summary=summary.sentences({number: one.table for number, one in written.items()}, config),
        warnings=tuple(text for one in written.values() for text in one.table.warnings),
        seeds=config.seeds,
        tables=tuple(_facts(one.table) for one in written.values()),
        cells=tuple(_number(cell, one.table, names, config) for one in written.values() for cell in one.table.cells),
        config=config.model_dump(mode="json"),
        made=_made(written.values()),
        origin=numbers.Origin(config=made_of.config, spec=made_of.spec, revision=made_of.revision),
    )


def _decisions(config: Config) -> dict[str, Decision]:
    """Who decides in a row, by the name of the row."""
    deciding = (
        *(Decision(model, "plain") for model in (*vocabulary.EVERY_FEEDFORWARD, vocabulary.TRUNK)),
        *all_decisions(*vocabulary.FRAMEWORKS),
        *perturbed_decisions(config, *vocabulary.FRAMEWORKS),
        *own_decisions(config, *vocabulary.FRAMEWORKS),
        *controls(config, vocabulary.EVERY_DEQ),
    )
    return {decision.row: decision for decision in deciding}


def _facts(table: Table) -> TableFacts:
    return TableFacts(
        table=table.number, title=table.title, caption=table.caption, conditions=table.conditions, notes=table.notes
    )


def _number(cell: Cell, table: Table, names: Mapping[str, Decision], config: Config) -> Number:
    decision = names.get(cell.row)
    return Number(
        table=table.number,
        row=cell.row,
        column=cell.column,
        model=None if decision is None else decision.model,
        defence=None if decision is None else decision.defence,
        value=numbers.finite(cell.here),
        unit=cell.quantity.unit,
        higher_is_better=cell.quantity.higher_is_better,
        interval=_interval(cell, config.statistics.confidence),
        n=cell.n,
        paper=cell.paper,
        difference=numbers.finite(cell.difference),
        over_seeds=None if cell.over_seeds is None else _over_seeds(cell.over_seeds),
        note=cell.note,
    )


def _interval(cell: Cell, confidence: float) -> Interval | None:
    low, high = numbers.finite(cell.low), numbers.finite(cell.high)
    if low is None or high is None:
        return None
    return Interval(low=low, high=high, level=None if cell.quantity.repeats else confidence)


def _over_seeds(over: OverSeeds) -> numbers.OverSeeds:
    return numbers.OverSeeds(
        values={str(seed): value for seed, value in over.values},
        mean=over.mean,
        deviation=over.deviation,
        lowest=over.lowest,
        highest=over.highest,
    )


def _made(written: Iterable[Written]) -> Made:
    """What computed the inputs of all tables; a file that several tables read counts once."""
    unique = {(one.path, one.spec, one.code): one for table in written for one in table.origin.inputs}
    inputs = [unique[key] for key in sorted(unique)]
    return Made(
        versions=_versions(inputs),
        code=tuple(sorted({one.code for one in inputs})),
        devices=tuple(sorted({one.device for one in inputs})),
        seconds=round(sum(one.seconds for one in inputs), 3),
        evaluations={way: int(number) for way, number in asdict(sum_of(one.evaluations for one in inputs)).items()},
    )


def _versions(inputs: Iterable[Input]) -> dict[str, tuple[str, ...]]:
    told: dict[str, set[str]] = defaultdict(set)
    for one in inputs:
        for name, version in one.versions.items():
            told[name].add(version or "none")
    return {name: tuple(sorted(told[name])) for name in sorted(told)}
