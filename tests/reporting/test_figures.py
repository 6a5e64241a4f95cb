"""All figures: their files and awkward data; the numbers of Figures 4 and 5."""

import csv
import struct
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import conditions
from deqpipe.reporting.figures import described, figure5, figures, plotting
from deqpipe.results import history, weights
from deqpipe.workflow import products
from tests.reference import reporting as slow
from tests.reporting import fabricate
from tests.sampling import one_in

FORMATS = (".png", ".pdf", ".csv", ".json")


def rows(number: int, config: Config, results: Path, folder: Path) -> list[dict[str, str]]:
    figures.write(number, config, results, output_stem=folder / f"figure{number}")
    with (folder / f"figure{number}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("number", one_in(3, products.FIGURES))
def test_every_format_is_written_and_the_same_twice(
    tmp_path: Path, finished: Path, config: Config, number: int
) -> None:
    for name in ("one", "two"):
        figures.write(number, config, finished, output_stem=tmp_path / name / f"figure{number}")
    assert sorted(path.suffix for path in (tmp_path / "one").iterdir()) == sorted(FORMATS)
    for ending in FORMATS:
        one, two = ((tmp_path / name / f"figure{number}{ending}").read_bytes() for name in ("one", "two"))
        assert one == two
        assert b"CreationDate" not in one
        assert b"matplotlib" not in one.lower()
    words = described.read(tmp_path / "one" / f"figure{number}.json")
    assert "%" in words.alt
    assert any("Reduced or changed" in note for note in words.conditions)
    width, height = struct.unpack(">II", (tmp_path / "one" / f"figure{number}.png").read_bytes()[16:24])
    assert (width, height) >= (1200, 600), "too coarse for print"


def test_figure_4_shows_the_histories_and_marks_the_chosen_epoch(
    tmp_path: Path, finished: Path, config: Config
) -> None:
    found = rows(4, config, finished, tmp_path)
    with Tree(finished, config, 0).history("deq_trades_base").open(newline="") as file:
        expected = {int(row["epoch"]): 100 * float(row["robust_accuracy"]) for row in csv.DictReader(file)}
    mine = [row for row in found if row["row"] == "TRADES baseline"]
    assert {int(row["epoch"]): float(row["accuracy"]) for row in mine} == pytest.approx(expected)
    (chosen,) = [int(row["epoch"]) for row in mine if row["chosen"] == "True"]
    assert expected[chosen] == max(expected.values())
    assert {row["n"] for row in mine} == {str(config.data.validation)}


def test_the_marked_epoch_is_the_one_that_the_weights_name(results: Path, config: Config) -> None:
    """Training may choose by other rules than the highest accuracy in its history, such as a first epoch to try."""
    model, tree = "deq_trades_base", Tree(results, config, 0)
    best, epochs = (
        fabricate.kept(results, model, 0),
        [epoch.epoch for epoch in history.read(tree.history(model), weights.read(tree.weights(model)).history)],
    )
    other = next(epoch for epoch in epochs if epoch != best)
    fabricate.weights(results, config, model, 0, epoch=other)
    found = rows(4, config, results, results / "figures")
    assert [row["epoch"] for row in found if row["row"] == "TRADES baseline" and row["chosen"] == "True"] == [
        str(other)
    ]
    assert f"at epoch {other}" in described.read(results / "figures" / "figure4.json").alt


def test_figure_4_without_the_kept_weights_is_refused(results: Path, config: Config) -> None:
    Tree(results, config, 0).weights("deq_trades_base").unlink()
    with pytest.raises(UserError, match=r"deq_trades_base/seed0/best\.safetensors does not exist"):
        figures.write(4, config, results, output_stem=results / "figure4")


def test_figure_5_equals_table_8_for_any_list_of_dampings(tmp_path: Path) -> None:
    config = fabricate.small({"attack": {"grid": {"damping": [0.3, 0.5, 0.8, 1.0]}}})
    results = fabricate.tree(tmp_path / "results", config)
    expected = slow.table8(results, seed=0)
    found = rows(5, config, results, tmp_path)
    assert {row["damping"] for row in found} == {"0.3", "0.5", "0.8", "1"}
    for row in found:
        column, damping = f"i = {row['state']}", row["damping"]
        names = {float(name.split()[2]): name.rsplit(" ", 1)[0] for name, _ in expected}
        name = names[min(names, key=lambda value: abs(value - float(damping)))]
        assert float(row["accuracy"]) == pytest.approx(expected[f"{name} PGD", column])
        assert int(row["steps"]) == expected[f"{name} K_a", column]


def test_figure_5_makes_room_for_the_papers_curves(
    finished: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "comparable", lambda _: True)
    with plotting.style():
        axes = figure5.draw(Tree(finished, config, 0)).figure.axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert {"paper, λ = 0.5", "paper, λ = 1"} <= set(labels)
    low, high = axes.get_ylim()
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()])
    assert low < drawn.min()
    assert drawn.max() < high


@pytest.mark.slow
def test_tiny_data_draw_without_complaint(tmp_path: Path) -> None:
    overlay = {"evaluation": {"images": 1}, "attack": {"grid": {"states": [4], "steps": [5], "damping": [0.5]}}}
    config = fabricate.small(overlay)
    results = fabricate.tree(tmp_path, config)
    for number in products.FIGURES:
        figures.write(number, config, results, output_stem=tmp_path / f"figure{number}")


def test_training_without_a_single_evaluated_epoch_draws_empty_axes(results: Path, config: Config) -> None:
    for model in ("deq_pgd_at_base", "deq_pgd_at_random_states", "deq_trades_base", "deq_trades_random_states"):
        path = Tree(results, config, 0).history(model)
        with path.open(newline="") as file:
            table = list(csv.DictReader(file))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fabricate.HISTORY)
            writer.writeheader()
            writer.writerows([row | {"robust_accuracy": ""} for row in table])
        fabricate.weights(results, config, model, 0, epoch=8)
    assert rows(4, config, results, results / "figures") == []


@pytest.mark.slow
def test_selection_on_the_test_split_claims_no_interval(tmp_path: Path) -> None:
    config = fabricate.small({"selection": {"split": "test"}})
    results = fabricate.tree(tmp_path, config)
    assert {row["low"] for row in rows(4, config, results, tmp_path)} == {""}
    assert "they leak" in described.read(tmp_path / "figure4.json").caption


@pytest.mark.parametrize("values", [[0.0], [100.0], [50.0], [0.0, 100.0], [97.0, 99.0], [3.0, 4.0, 20.0]])
def test_axis_limits_hold_all_values_and_nothing_impossible(values: list[float]) -> None:
    with plotting.style():
        _, axes = plotting.new()
        plotting.percent_axis(axes, values)
        low, high = axes.get_ylim()
    assert -2 <= low <= min(values)
    assert max(values) <= high <= 102
    assert high - low >= 19.9


def test_unknown_missing_and_foreign_figures_are_refused(tmp_path: Path, finished: Path, config: Config) -> None:
    with pytest.raises(UserError, match="figure is 1, but must be one of 2, 3, 4, 5, 6"):
        figures.write(1, config, finished, output_stem=tmp_path / "figure1")
    with pytest.raises(UserError, match="does not exist"):
        described.read(tmp_path / "figure3.json")
    (tmp_path / "figure3.json").write_text("{}")
    with pytest.raises(UserError, match="is no sidecar"):
        described.read(tmp_path / "figure3.json")


def test_figures_of_the_whole_grid_are_written_with_the_reason_alone_where_attacks_race(tmp_path: Path) -> None:
    racing = fabricate.small({"racing": {"enabled": True, "images": 10, "confidence": 0.99}})
    for number in (3, 5):
        figures.write(number, racing, tmp_path, output_stem=tmp_path / f"figure{number}")
        words = described.read(tmp_path / f"figure{number}.json")
        assert "needs every attack on all 20 test images" in words.caption
        text = (tmp_path / f"figure{number}.csv").read_text(encoding="utf-8")
        assert "only the first 10 face every attack (racing.enabled: true)" in text
        assert all((tmp_path / f"figure{number}.{ending}").stat().st_size > 1000 for ending in ("png", "pdf"))


@pytest.mark.parametrize(("low", "high"), [(1e-6, 0.5), (0.02, 0.09), (0.31, 0.33), (1e-12, 1e12)])
def test_a_logarithmic_axis_holds_its_values_and_has_readable_ticks(low: float, high: float) -> None:
    with plotting.style():
        figure, axes = plotting.new()
        plotting.logarithmic(axes, low, high)
        figure.draw_without_rendering()
        shown = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    assert axes.get_xlim()[0] <= low
    assert high <= axes.get_xlim()[1]
    assert 1 <= len(shown) <= 12
    assert not any("$" in label.get_text() for label in axes.get_xticklabels())


def test_figures_that_can_be_read_are_those_that_are_drawn() -> None:
    assert all(callable(import_module(one.module).draw) for one in products.FIGURES.values())
