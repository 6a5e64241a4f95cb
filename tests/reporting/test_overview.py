"""The picture at the top of the report: every number of Table 1 that it promises, the same whenever it is drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deqpipe.analysis.decision import all_decisions
from deqpipe.config import Config
from deqpipe.reporting.cells import Cell, Table, by_name
from deqpipe.reporting.figures import overview, plotting
from tests.reporting import fabricate

ROWS = ("PGD-AT ResNet", "TRADES ResNet", *(one.row for one in all_decisions("pgd_at", "trades")))


@pytest.fixture(scope="module")
def config() -> Config:
    return fabricate.small()


def table(*columns: str, control: float | None = None) -> Table:
    cells = [Cell(row, column, 50.0, 40.0, 60.0, 24, paper=45.0) for row in ROWS for column in columns]
    if control is not None:
        cells.append(Cell("TRADES + Sec. 3.2, control: R = 0", "PGD", control, 10.0, 30.0, 24))
    return Table(1, "", "", blocks=(), cells=tuple(cells), notes=(), conditions=())


def drawn(made: Table, config: Config) -> Figure:
    with plotting.style():
        return overview.draw({(cell.row, cell.column): cell for cell in made.cells}, config, overview.LIGHT)


def places(line: Line2D) -> list[float]:
    return [float(place) for place in np.asarray(line.get_xdata(), dtype=float)]


def keys(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_decision_has_its_marks_intervals_and_hollow_ones(config: Config) -> None:
    figure = drawn(table("Clean", "PGD", "AA", "ALL per image"), config)
    (axes,) = figure.axes
    assert len(axes.get_yticklabels()) == len(ROWS)
    solid = [line for line in axes.lines if places(line) == [50.0]]
    spans = [line for line in axes.lines if places(line) == [40.0, 60.0]]
    hollow = [line for line in axes.lines if places(line) == [45.0]]
    assert len(solid) == len(spans) == len(hollow) == 4 * len(ROWS)
    assert {line.get_markerfacecolor() for line in hollow} == {"none"}
    assert len({line.get_marker() for line in solid}) == 4  # told apart without colours


def test_a_defence_stands_beside_its_own_control(config: Config) -> None:
    figure = drawn(table("PGD", control=20.0), config)
    (bar,) = [line for line in figure.axes[0].lines if line.get_marker() == "|"]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    defended = len(names) - 1 - names[::-1].index("+ Sec. 3.2")  # the last of two: of TRADES
    assert places(bar) == [20.0]
    assert abs(np.asarray(bar.get_ydata(), dtype=float)[0] - figure.axes[0].get_yticks()[defended]) < 0.5
    assert "own control, R = 0" in keys(figure)


def test_with_a_suite_the_control_stands_on_the_line_of_the_union_too(config: Config, tmp_path: Path) -> None:
    made = table("Clean", "PGD", "AA", "Union", control=20.0)
    together = Cell("TRADES + Sec. 3.2, control: R = 0", "Union", 15.0, 5.0, 25.0, 24)
    both = replace(made, cells=(*made.cells, together))
    bars = [line for line in drawn(both, config).axes[0].lines if line.get_marker() == "|"]
    diamonds = [line for line in drawn(both, config).axes[0].lines if line.get_marker() == "D"]
    assert [places(bar) for bar in bars] == [[20.0], [15.0]]
    heights = [float(np.asarray(line.get_ydata(), dtype=float)[0]) for line in (bars[1], *diamonds)]
    assert heights[0] in heights[1:]
    words = overview.write(by_name(both.cells), config, tmp_path / "overview")
    assert "Right answers on the first 24 test images" in words.caption
    assert "each by the figure of the mark on its line; AutoAttack was not run on it." in words.caption
    assert words.caption.endswith("All numbers stand in Table 11.")
    alone = overview.write(by_name(table("PGD", control=20.0).cells), config, tmp_path / "alone")
    assert "Bar, on the square's line: the same weights" in alone.caption


def test_what_there_is_not_has_no_key_and_no_words(config: Config, tmp_path: Path) -> None:
    """With racing there is no answer to all attacks together, without controls no bar."""
    made = table("Clean", "PGD")
    assert keys(drawn(made, config)) == ["clean images", "strongest attack of the grid", "hollow: the paper"]
    words = overview.write(by_name(made.cells), config, tmp_path / "overview")
    assert "Diamond" not in words.caption
    assert "Bar" not in words.caption
    assert "TRADES baseline 50.0 clean, 50.0 under the strongest attack" in words.alt


@pytest.mark.slow
def test_the_picture_is_the_same_twice_and_has_another_ground_in_the_dark(config: Config, tmp_path: Path) -> None:
    made = table("Clean", "PGD")
    for name in ("one", "two"):
        overview.write(by_name(made.cells), config, tmp_path / name)
    for ending in overview.ENDINGS:
        assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes()
    dark = overview.svg({(cell.row, cell.column): cell for cell in made.cells}, config, overview.DARK)
    assert overview.DARK.ground in dark
    assert overview.LIGHT.ground not in dark


def test_a_number_without_an_interval_is_drawn_all_the_same(config: Config) -> None:
    made = table("PGD")
    bare = replace(made, cells=tuple(replace(cell, low=None, high=None) for cell in made.cells))
    assert len([line for line in drawn(bare, config).axes[0].lines if places(line) == [50.0]]) == len(ROWS)
