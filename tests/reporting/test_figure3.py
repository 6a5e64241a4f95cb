"""Figure 3: its three panels, against the records."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting.figures import described, figures
from deqpipe.results import records
from tests.reference import reporting as slow
from tests.reporting import fabricate

MODELS = {"TRADES baseline": "deq_trades_base", "TRADES + Sec. 3.3": "deq_trades_random_states"}
DEFENDED = {"TRADES + Sec. 3.2": "deq_trades_base", "TRADES + Secs. 3.2 & 3.3": "deq_trades_random_states"}
Point = tuple[float, int, int]


def draw(config: Config, results: Path, folder: Path) -> pd.DataFrame:
    figures.write(3, config, results, output_stem=folder / "figure3")
    return pd.read_csv(folder / "figure3.csv")


def strongest(results: Path, row: str) -> Point:
    """(lambda, i, K_a)."""
    attacks = {point: slow.percent(right) for point, right in slow.decisions(results, seed=0)[row][1].items()}
    return min(attacks, key=lambda point: (attacks[point], point))


def attacked(results: Path, model: str, defence: str, point: Point) -> pd.DataFrame:
    rows = slow.frame(results / "attacks/grid" / model / "seed0")
    rows = rows[(rows["model"] == model) & (rows["defence"] == defence)]
    rows = rows[np.isclose(rows["damping"], point[0]) & (rows["state"] == point[1]) & (rows["steps"] == point[2])]
    return rows.sort_values("image")


def matrix(rows: pd.DataFrame, column: str, states: int = 4) -> np.ndarray:
    return np.stack([np.asarray(values)[:states] for values in rows[column]]).astype(float)


@pytest.fixture
def deviating(results: Path, config: Config) -> Path:
    """The fabricated tree with deviations that differ from image to image."""
    tree = Tree(results, config, 0)
    for model in MODELS.values():
        for path in tree.attacked(model):
            rows = dict(records.read(path).columns)
            rows["deviation"] = np.where(np.isnan(rows["deviation"]), np.nan, 0.2 + 0.1 * rows["entropy"])
            fabricate.write(path, rows, config, "attack_grid", model, 0)
    return results


def test_panel_a_shows_every_attack_and_the_strongest_per_state(tmp_path: Path, finished: Path, config: Config) -> None:
    found = draw(config, finished, tmp_path)
    panel = found[found["panel"] == "a"]
    decisions = {name: d for name, d in slow.decisions(finished, seed=0).items() if name.startswith("TRADES")}
    assert set(panel["row"]) == set(decisions)
    for name, (_, answers) in decisions.items():
        attacks = {point: slow.percent(right) for point, right in answers.items()}
        mine = panel[panel["row"] == name]
        every = mine[mine["kind"] == "accuracy (%): attack"]
        keys = zip(every["damping"], every["attacked_state"], every["steps"], strict=True)
        assert dict(zip(keys, every["value"], strict=True)) == pytest.approx(attacks)
        lowest = mine[mine["kind"] == "accuracy (%): strongest at attacked state"]
        expected = {i: min(value for point, value in attacks.items() if point[1] == i) for i in range(1, 5)}
        assert dict(zip(lowest["attacked_state"], lowest["value"], strict=True)) == pytest.approx(expected)
        (best,) = mine[mine["kind"] == "accuracy (%): strongest"]["value"]
        assert best == pytest.approx(min(attacks.values()))


def test_panel_b_is_the_paired_difference_at_the_attack_strongest_on_the_defended_decision(
    tmp_path: Path, finished: Path, config: Config
) -> None:
    found = draw(config, finished, tmp_path)
    for row, model in DEFENDED.items():
        point = strongest(finished, row)
        plain, with_it, control = (
            matrix(attacked(finished, model, defence, point), "entropy")
            for defence in ("plain", "entropy", "entropy_zero_steps")
        )
        panel = found[(found["panel"] == "b") & (found["row"] == row)]
        assert {tuple(key) for key in panel[["damping", "attacked_state", "steps"]].itertuples(index=False)} == {point}
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            mine = panel[panel["kind"] == f"entropy with minus without (nats): quantile {share:g}"].sort_values("state")
            expected = [float(pd.Series(column).quantile(share)) for column in (with_it - plain).T]
            assert mine["value"].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        lower = panel[panel["kind"] == "images with lower entropy (%)"].sort_values("state")
        assert lower["value"].tolist() == pytest.approx((100 * (with_it < plain).mean(axis=0)).tolist())
        line = panel[panel["kind"] == "entropy with R = 0 minus without (nats): quantile 0.5"].sort_values("state")
        assert line["value"].tolist() == pytest.approx(np.median(control - plain, axis=0).tolist(), rel=1e-5)


def test_panel_c_is_the_mean_deviation_at_the_attack_strongest_on_each_decision(
    deviating: Path, config: Config
) -> None:
    found = draw(config, deviating, deviating / "figures")
    last = {}
    for rows, defence in ((MODELS, "plain"), (DEFENDED, "entropy")):
        for row, model in rows.items():
            values = matrix(attacked(deviating, model, defence, strongest(deviating, row)), "deviation")
            mine = found[(found["panel"] == "c") & (found["row"] == row)].sort_values("state")
            assert mine["value"].tolist() == pytest.approx(values.mean(axis=0).tolist(), rel=1e-5)
            half = 1.96 * values.std(axis=0) / 20**0.5
            assert (mine["high"] - mine["low"]).to_numpy() == pytest.approx(2 * half, rel=0.35)
            last[row] = values[:, -1]
    difference = (last["TRADES + Sec. 3.3"] - last["TRADES baseline"]).mean()
    (said,) = [note for note in described.read(deviating / "figures/figure3.json").notes if note.startswith("(c)")]
    assert f"each at its own strongest attack: {difference:.3g} (" in said


@pytest.mark.slow
def test_words_say_images_attack_and_what_is_seen_in_every_panel(
    tmp_path: Path, finished: Path, config: Config
) -> None:
    found = draw(config, finished, tmp_path)
    words = described.read(tmp_path / "figure3.json")
    assert "20 test images under PGD-7 through Eq. (11), epsilon = 38/255" in words.caption
    assert "grey: the same for R = 0" in words.caption
    assert all(f"({letter}) " in words.alt for letter in "abc")
    medians = found[found["kind"].str.startswith("entropy with minus without") & found["kind"].str.endswith(" 0.5")]
    for row, model in (("TRADES + Sec. 3.2", "TRADES baseline"), ("TRADES + Secs. 3.2 & 3.3", "TRADES + Sec. 3.3")):
        mine = medians[medians["row"] == row].set_index("state")["value"]
        assert f"{model}: median lowest at state {mine.idxmin()}, {mine.min():.3g} nats" in words.alt
        point = strongest(finished, row)
        assert any(
            note.startswith(f"(b) {row} at ({point[1]}, {point[2]}, {point[0]:g}): ")
            and f"lowest at state {mine.idxmin()}, {mine.min():.3g} (" in note
            for note in words.notes
        )


@pytest.mark.slow
def test_without_controls_the_line_of_r_0_is_absent_and_that_is_said(tmp_path: Path) -> None:
    config = fabricate.small({"entropy": {"controls": False}})
    found = draw(config, fabricate.tree(tmp_path / "results", config), tmp_path)
    assert not found["kind"].str.contains("R = 0").any()
    words = described.read(tmp_path / "figure3.json")
    assert "R = 0" not in words.caption
    assert any("No R = 0 line" in note and "entropy.controls: false" in note for note in words.notes)


@pytest.mark.slow
def test_the_picture_changes_with_the_deviations(
    tmp_path: Path, finished: Path, deviating: Path, config: Config
) -> None:
    for name, results in (("one", finished), ("two", deviating)):
        figures.write(3, config, results, output_stem=tmp_path / name / "figure3")
    assert (tmp_path / "one/figure3.png").read_bytes() != (tmp_path / "two/figure3.png").read_bytes()


def test_missing_shards_are_refused(results: Path, config: Config) -> None:
    Tree(results, config, 0).attacked("deq_trades_base")[0].unlink()
    with pytest.raises(UserError, match="do not exist"):
        figures.write(3, config, results, output_stem=results / "figures" / "figure3")
    assert not (results / "figures").exists()
