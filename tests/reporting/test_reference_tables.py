"""All ten tables against plain counting by code that shares nothing with them (tests/reference/tables.py)."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deqpipe.config import Config
from deqpipe.reporting.tables import tables
from deqpipe.results import records
from deqpipe.workflow import products
from tests.reference import tables as slow
from tests.reporting import fabricate
from tests.sampling import one_in

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "individual AutoAttack, every point swept": {
        "autoattack": {"mode": "individual"}, "entropy_sweep": {"points": "all"},
    },
    "two seeds, the larger first; Square on all images, no transfer, no controls": {
        "seeds": [1, 0], "autoattack": {"square_images": 20}, "attack": {"transfer": False},
        "entropy": {"controls": False},
    },
}  # fmt: skip


def write(results: Path, config: Config) -> Path:
    """Tables and configuration where a run leaves them."""
    records.write_text(results / "config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    for number in products.TABLES:
        tables.write(number, config, results, output_stem=results / "tables" / f"table{number}")
    return results


@pytest.fixture(scope="module")
def written(finished: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With AutoAttack's standard mode."""
    assert config.autoattack.mode == "standard"
    return write(Path(shutil.copytree(finished, tmp_path_factory.mktemp("written") / "results")), config)


@pytest.fixture(scope="module", params=one_in(2, VARIANTS))
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    config = fabricate.small(VARIANTS[request.param])
    return write(fabricate.tree(tmp_path_factory.mktemp("variant"), config), config), config


def assert_counted_again(number: int, results: Path, config: Config) -> None:
    """The same cells, and the same values to the csv's digits."""
    counted = slow.TABLES[number](results, config.model_dump(mode="json"), config.seeds[0])
    there = slow.written(results / "tables" / f"table{number}.csv")
    assert {name: slow.digits(value) for name, value in counted.items()} == pytest.approx(there, rel=0, abs=1e-9)


@pytest.mark.parametrize("number", products.TABLES)
def test_every_value_of_a_table_is_counted_again(written: Path, config: Config, number: int) -> None:
    assert_counted_again(number, written, config)


@pytest.mark.parametrize("number", products.TABLES)
def test_every_value_of_a_table_of_another_run_is_counted_again(variant: tuple[Path, Config], number: int) -> None:
    assert_counted_again(number, *variant)


def test_of_two_seeds_the_first_ones_values_count(variant: tuple[Path, Config]) -> None:
    """Those of the other are others, so that a mix-up shows."""
    results, config = variant
    for seed in config.seeds[1:]:
        for number in range(1, 9):
            other = slow.TABLES[number](results, config.model_dump(mode="json"), seed)
            assert other != pytest.approx(slow.written(results / "tables" / f"table{number}.csv"), abs=1e-3)


def test_wrong_without_finite_logits_left_out_without_finite_entropy_and_equal_entropies_are_not_lower(
    results: Path, config: Config
) -> None:
    for path in (results / "attacks" / "clean").rglob("*.parquet"):
        damage(path, every=100_000)
    for path in (results / "attacks" / "grid").rglob("*.parquet"):
        damage(path, every=9)
    for number in (2, 6, 7):
        tables.write(number, config, results, output_stem=results / "tables" / f"table{number}")
        assert_counted_again(number, results, config)


def damage(path: Path, *, every: int) -> None:
    """Coarse entropies, many of them equal; some rows end in a state that is not finite: no class where it was wrong
    (so that the strongest attack stays the same), and no entropy."""
    found = records.read(path)
    columns = {name: column.copy() for name, column in found.columns.items()}
    columns["entropy"] = columns["entropy"].round(1)
    lost = np.arange(1, len(found) + 1) % every == 0
    columns["predicted"][lost[:, None] & (columns["predicted"] != columns["label"][:, None])] = -1
    columns["entropy"][lost] = np.nan
    records.write(path, columns, provenance=found.provenance[0])


def test_command_compares_every_cell_and_succeeds(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slow.main([str(written)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"Table {number}" for number in products.TABLES]
    assert all(" cells compared, largest difference " in line for line in lines)
    assert max(float(line.split()[-1]) for line in lines) < 1e-12  # a fall is a difference of differences


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("baseline,INTER,55,", "baseline,INTER,55.001,", "baseline | INTER: 55.001 in the csv, 55 here"),
        ("baseline,INTER,55,", "baseline,INTER,,", "baseline | INTER: only here"),
        ("baseline,INTER,55,", "baseline,OTHER,55,", "baseline | OTHER: only in the csv"),
    ],
)
def test_comparison_names_a_cell_that_differs(
    written: Path, config: Config, capsys: pytest.CaptureFixture[str], old: str, new: str, told: str
) -> None:
    path = written / "tables" / "table2.csv"
    before = path.read_text()
    assert before.count(f"TRADES {old}") == 1
    path.write_text(before.replace(f"TRADES {old}", f"TRADES {new}"))
    try:
        assert not slow.compare(2, written, config.model_dump(mode="json"))
    finally:
        path.write_text(before)
    assert f"TRADES {told}" in capsys.readouterr().out


def test_command_fails_without_tables_and_leaves_races_alone(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(written / "config.yaml", tmp_path)
    assert slow.main([str(tmp_path)]) == 1
    assert "table3.csv does not exist" in capsys.readouterr().out
    config = yaml.safe_load((written / "config.yaml").read_text())
    config["racing"] = {"enabled": True, "images": 10}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert slow.main([str(tmp_path)]) == 2
    assert "in a race" in capsys.readouterr().out
