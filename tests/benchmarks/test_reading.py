"""The benchmark of reading: its records are taken for real, and it says what each product takes."""

import re
import resource
from pathlib import Path

import pytest

from benchmarks import reading
from deqpipe.config import Config
from deqpipe.reporting.figures import figures
from deqpipe.reporting.tables import tables

IMAGES = 12


@pytest.fixture(scope="module")
def config() -> Config:
    return reading.settings(IMAGES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    made = tmp_path_factory.mktemp("made up") / "results"
    reading.make_up(made, config)
    return made


@pytest.mark.parametrize("number", range(1, 9))
def test_every_table_takes_the_records_for_real(folder: Path, config: Config, number: int) -> None:
    cells = tables.build(number, config, folder).table.cells
    numbers = [cell.here for cell in cells if cell.here is not None]
    assert len(numbers) > 10
    assert len(set(numbers)) > 2


def test_figure_3_takes_them_too(folder: Path, config: Config, tmp_path: Path) -> None:
    figures.write(3, config, folder, output_stem=tmp_path / "figure3")
    assert (tmp_path / "figure3.png").exists()


def test_seconds_and_memory_of_a_product_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading.main([str(folder), "--only", "table8"])
    *_, row = capsys.readouterr().out.splitlines()
    found = re.fullmatch(r"\| table8 \| (\d+\.\d) \| (\d+\.\d) \| (\d\.\d\d) \|", row)
    assert found
    assert float(found[1]) > 0.1
    assert float(found[2]) > 0.1
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # a process begins with its parent's most
    assert 0.05 < float(found[3]) < here + 2
    assert (folder / "made" / "table8.md").exists()


def test_the_full_size_is_that_of_the_configuration() -> None:
    assert reading.settings().evaluation.images == 10_000
