"""Tables 6 and 7: against slow versions, intervals by resampling image by image, entropies that are not finite."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import conditions
from deqpipe.reporting.cells import Cell
from deqpipe.reporting.paper import published
from deqpipe.reporting.tables import tables
from deqpipe.results import records
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap
from deqpipe.workflow import vocabulary
from tests.reference.reporting import frame
from tests.reporting import fabricate

ROWS = {
    "PGD-AT baseline": "deq_pgd_at_base",
    "PGD-AT + Sec. 3.3": "deq_pgd_at_random_states",
    "TRADES baseline": "deq_trades_base",
    "TRADES + Sec. 3.3": "deq_trades_random_states",
}
STATES = {"": -2, ", final state": -1}
BOOTSTRAP = Bootstrap(resamples=200, confidence=0.95, seed=3)


def cells(number: int, config: Config, results: Path) -> dict[tuple[str, str], Cell]:
    return {(cell.row, cell.column): cell for cell in tables.build(number, config, results).table.cells}


def plain(path: Path, model: str) -> pd.DataFrame:
    rows = frame(path)
    return rows[(rows["model"] == model) & (rows["defence"] == "plain")]


def slow(number: int, results: Path, *, seed: int = 0) -> dict[tuple[str, str], float]:
    values = {}
    for row, model in ROWS.items():
        clean = plain(results / "attacks" / "clean" / model / f"seed{seed}.parquet", model)
        grid = plain(results / "attacks" / "grid" / model / f"seed{seed}", model)
        for suffix, index in STATES.items():
            before = {one["image"]: one["entropy"][index] for one in clean.to_dict("records")}
            per_attack: dict[tuple[float, int, int], list[float]] = {}
            for one in grid.to_dict("records"):
                pair = float(before[one["image"]]), float(one["entropy"][index])
                if np.isfinite(pair).all():
                    value = 100.0 * (pair[0] < pair[1]) if number == 6 else pair[0] - pair[1]
                    per_attack.setdefault((one["damping"], one["state"], one["steps"]), []).append(value)
            means = [sum(found) / len(found) for found in per_attack.values()]
            values[row, f"AVG{suffix}"] = sum(means) / len(means)
            values[row, f"MIN{suffix}"], values[row, f"MAX{suffix}"] = min(means), max(means)
    return values


def spoil(results: Path, config: Config, model: str, value: float, *, rows: slice = slice(0, 1)) -> None:
    """Put an entropy that is not finite into the clean records of the plain defence."""
    path = Tree(results, config, 0).clean(model)
    found = records.read(path)
    columns = {name: np.array(found[name]) for name in records.COLUMNS}
    columns["entropy"][rows, -2:] = value
    fabricate.write(path, columns, config, "clean", model, 0)


@pytest.mark.parametrize("number", [6, 7])
def test_values_equal_a_slow_version(finished: Path, config: Config, number: int) -> None:
    here = {name: cell.here for name, cell in cells(number, config, finished).items()}
    assert len(here) == 24
    assert here == pytest.approx(slow(number, finished))


@pytest.mark.parametrize("number", [6, 7])
def test_the_papers_numbers_stand_beside_the_last_state(
    finished: Path, config: Config, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "comparable", lambda _: True)
    found = cells(number, config, finished)
    beside = {name: cell.paper for name, cell in found.items() if cell.paper is not None}
    assert beside == {(one.row, one.column): one.value for one in published.NUMBERS if one.table == number}
    assert {name for name, cell in found.items() if cell.difference is not None} == set(beside)


def test_table_7_prints_nats_as_the_paper_does(finished: Path, config: Config) -> None:
    first, _ = tables.build(7, config, finished).table.blocks
    assert first.lines[0].shown[0].paper == "\N{MINUS SIGN}0.1948"
    assert len(first.lines[0].shown[0].value.lstrip("+\N{MINUS SIGN}")) == len("0.1948")


@pytest.mark.parametrize("number", [6, 7])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pairs_that_are_not_finite_are_left_out_and_counted(
    results: Path, config: Config, number: int, value: float
) -> None:
    spoil(results, config, "deq_trades_base", value)
    table = tables.build(number, config, results).table
    assert {(cell.row, cell.column): cell.here for cell in table.cells} == pytest.approx(slow(number, results))
    assert {cell.n for cell in table.cells if cell.row == "TRADES baseline"} == {19}
    assert table.notes[1].endswith("(of 680 for each model): TRADES baseline 34.")


def test_a_model_without_any_finite_entropy_is_absent_with_the_reason(results: Path, config: Config) -> None:
    spoil(results, config, "deq_trades_base", np.nan, rows=slice(None))
    absent = [cell for cell in cells(6, config, results).values() if cell.here is None]
    assert {cell.row for cell in absent} == {"TRADES baseline"}
    assert {cell.note for cell in absent} == {"absent: an attack left no image whose entropies are finite"}


def test_with_racing_the_tables_are_absent_with_the_reason(finished: Path) -> None:
    config = fabricate.small({"racing": {"enabled": True, "images": 10, "confidence": 0.99}})
    for number in (6, 7):
        table = tables.build(number, config, finished).table
        assert all(cell.here is None and "racing" in cell.note for cell in table.cells)
        assert "racing is enabled" in table.notes[0]


@pytest.mark.slow
def test_spread_over_seeds_stands_beside_the_first_seed(tmp_path: Path) -> None:
    config = fabricate.small({"seeds": [0, 1]})
    results = fabricate.tree(tmp_path, config)
    first, second = slow(7, results), slow(7, results, seed=1)
    for name, cell in cells(7, config, results).items():
        assert cell.spread == pytest.approx((min(first[name], second[name]), max(first[name], second[name])))


def test_files_of_another_configuration_and_missing_ones_are_refused(results: Path, config: Config) -> None:
    with pytest.raises(UserError, match="but the configuration asks for"):
        tables.build(6, fabricate.small({"evaluation": {"images": 19}}), results)
    Tree(results, config, 0).attacked(vocabulary.SWEEP_MODEL)[-1].unlink()
    with pytest.raises(UserError, match="do not exist"):
        tables.build(6, config, results)


def test_intervals_over_attacks_equal_resampling_image_by_image() -> None:
    values = np.random.default_rng(0).normal(size=(4, 30))
    values[1, 4], values[2, :3] = np.nan, np.nan
    generator, draws = np.random.default_rng(BOOTSTRAP.seed), []
    for _ in range(BOOTSTRAP.resamples):
        images = np.repeat(np.arange(30), generator.multinomial(30, np.full(30, 1 / 30)))
        draws.append([np.nanmean(row[images]) for row in values])
    found = intervals.over_attacks(values, BOOTSTRAP)
    means = np.nanmean(values, axis=1)
    for estimate, over in ((found.average, np.mean), (found.lowest, np.min), (found.highest, np.max)):
        value = float(over(means))
        lower, upper = np.quantile([over(draw) for draw in draws], [0.025, 0.975])
        assert estimate.value == pytest.approx(value)
        assert estimate.low == pytest.approx(min(2 * value - upper, value))
        assert estimate.high == pytest.approx(max(2 * value - lower, value))
        assert estimate.n == 27


def test_shares_over_attacks_agree_with_the_minimum_of_accuracies() -> None:
    correct = np.random.default_rng(1).random((5, 40)) < 0.7
    found = intervals.over_attacks(correct.astype(float), BOOTSTRAP, shares=True).lowest
    expected = intervals.minimum(correct, BOOTSTRAP)
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-6
    )


def test_an_attack_without_images_has_no_mean() -> None:
    with pytest.raises(ValueError, match="an image for every attack is needed"):
        intervals.over_attacks(np.array([[1.0, 2.0], [np.nan, np.nan]]), BOOTSTRAP)
