"""Tables 9 and 10: medians as written, ratios by hand, the paper's beside, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Cell
from deqpipe.reporting.paper import published
from deqpipe.reporting.tables import tables
from deqpipe.workflow import vocabulary
from tests.reporting import fabricate
from tests.results.edits import edit as change

ROWS = {
    "PGD-AT baseline": "deq_pgd_at_base",
    "PGD-AT + Sec. 3.3": "deq_pgd_at_random_states",
    "TRADES baseline": "deq_trades_base",
    "TRADES + Sec. 3.3": "deq_trades_random_states",
}


def cells(number: int, config: Config, results: Path) -> dict[tuple[str, str], Cell]:
    return {(cell.row, cell.column): cell for cell in tables.build(number, config, results).table.cells}


def written(number: int, config: Config, results: Path) -> Path:
    tree = Tree(results, config, 0)
    return tree.timed_training if number == 9 else tree.timed_inference(vocabulary.SWEEP_MODEL)


def test_training_speeds_are_those_of_the_file_and_ratios_theirs(finished: Path, config: Config) -> None:
    found, raw = cells(9, config, finished), json.loads(written(9, config, finished).read_text())["methods"]
    for row, model in ROWS.items():
        cell, speed = found[row, "images/s"], raw[model]
        assert (cell.here, cell.low, cell.high, cell.n) == (speed["median"], speed["low"], speed["high"], 3)
    for framework, paper in (("PGD-AT", 39.9 / 30.2), ("TRADES", 30.6 / 24.0)):
        one, other = (raw[ROWS[f"{framework} {method}"]] for method in ("+ Sec. 3.3", "baseline"))
        ratio = found[f"{framework} + Sec. 3.3", "times the baseline"]
        assert ratio.here == pytest.approx(one["median"] / other["median"])
        assert (ratio.low, ratio.high) == pytest.approx((one["low"] / other["high"], one["high"] / other["low"]))
        assert ratio.paper == pytest.approx(paper)
    assert len(found) == 6


def test_inference_speeds_are_those_of_the_file_and_costs_their_ratios(finished: Path, config: Config) -> None:
    found, raw = cells(10, config, finished), json.loads(written(10, config, finished).read_text())["settings"]
    assert len(found) == 1 + 3 * 2 + 3 * 2
    assert found["any T_f", "R = 0"].here == raw["plain"]["median"]
    for every in (1, 2, 4):
        for steps in (1, 5):
            speed = raw[f"entropy_every{every}_steps{steps}"]["median"]
            assert found[f"T_f = {every}", f"R = {steps}"].here == speed
            cost = found[f"T_f = {every}", f"R = 0 over R = {steps}"]
            assert cost.here == pytest.approx(raw["plain"]["median"] / speed)
            theirs = published.value(10, f"T_f = {every}", f"R = {steps}")
            assert theirs is not None
            assert cost.paper == pytest.approx(94.9 / theirs)


@pytest.mark.parametrize("number", [9, 10])
def test_the_papers_speeds_are_printed_as_there_and_no_difference_is_ever_taken(
    finished: Path, config: Config, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "comparable", lambda _: True)
    table = tables.build(number, config, finished).table
    assert all(cell.difference is None for cell in table.cells)
    for cell in table.cells:
        if published.value(number, cell.row, cell.column) is not None:
            assert cell.paper == published.value(number, cell.row, cell.column)
    first = table.blocks[0].lines[0].shown[0]
    assert first.paper == {9: "30.2", 10: "94.9"}[number]


def test_table_10_has_one_row_without_t_f(finished: Path, config: Config) -> None:
    speeds, costs = tables.build(10, config, finished).table.blocks
    assert [line.labels[0] for line in speeds.lines] == ["any T_f", "T_f = 1", "T_f = 2", "T_f = 4"]
    assert [shown.value for shown in speeds.lines[0].shown[1:]] == ["\N{EN DASH}"] * 2
    assert costs.columns == ("R = 0 over R = 1", "R = 0 over R = 5")


def test_fast_machines_are_printed_without_decimals(results: Path, config: Config) -> None:
    change(written(10, config, results), lambda raw: raw["settings"].update(plain=fabricate.speed(24_137.0)))
    first = tables.build(10, config, results).table.blocks[0].lines[0].shown[0]
    assert (first.value, first.paper) == ("24,137", "94.9")


@pytest.mark.parametrize("number", [9, 10])
def test_notes_say_machine_and_method(finished: Path, config: Config, number: int) -> None:
    notes = " ".join(tables.build(number, config, finished).table.notes)
    for phrase in ("a processor", f"batch size {config.timing.batch_size}", "precision fp32", "1 thread;",
                   "1 warm-up pass", "3 timed ones",
                   "0.5, 0.4, 0.3 before", "1.1, 0.6, 0.4 after", "no confidence interval",
                   "other hardware"):  # fmt: skip
        assert phrase in notes


@pytest.mark.slow
@pytest.mark.parametrize("number", [9, 10])
def test_only_the_first_seed_is_timed(tmp_path: Path, number: int) -> None:
    config = fabricate.small({"seeds": [0, 1]})
    found = tables.build(number, config, fabricate.tree(tmp_path, config))
    assert all(cell.spread is None for cell in found.table.cells)
    assert len(found.origin.inputs) == 1


@pytest.mark.parametrize("number", [9, 10])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw.pop("load"), "lacks 'load'"),
        (lambda raw: raw.pop("provenance"), "carries no provenance"),
        (lambda raw: raw.update(batch_size="many"), "is no result of a timing job"),
        (lambda raw: raw[speeds(raw)].update(other=fabricate.speed(1.0)), "holds the speed of other, which"),
        (lambda raw: raw[speeds(raw)].popitem(), "lacks the speed of"),
        (lambda raw: one(raw).update(low=0.0), "which must be positive and in order"),
        (lambda raw: one(raw).update(median=1e9), "which must be positive and in order"),
        (lambda raw: one(raw).update(high=float("inf")), "which must be positive and in order"),
    ],
)
def test_wrong_files_are_refused(
    results: Path, config: Config, number: int, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(written(number, config, results), edit)
    with pytest.raises(UserError, match=message):
        tables.build(number, config, results)


def speeds(raw: dict[str, Any]) -> str:
    return "methods" if "methods" in raw else "settings"


def one(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(raw[speeds(raw)].values()))
    return found


@pytest.mark.parametrize("number", [9, 10])
def test_missing_files_and_those_of_another_configuration_are_refused(
    results: Path, config: Config, number: int
) -> None:
    with pytest.raises(UserError, match="but the configuration asks for"):
        tables.build(number, fabricate.small({"timing": {"repeats": 4}}), results)
    written(number, config, results).unlink()
    with pytest.raises(UserError, match="does not exist"):
        tables.build(number, config, results)
