"""Figure 6: two weights of the Jacobian term per framework."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting.figures import described, figures
from tests.reporting import fabricate

ROWS = {
    "PGD-AT, Jacobian weight 2": "deq_pgd_at_base",
    "PGD-AT, Jacobian weight 0.4": "deq_pgd_at_jac_low",
    "TRADES, Jacobian weight 0.4": "deq_trades_base",
    "TRADES, Jacobian weight 2": "deq_trades_jac_high",
}


def draw(config: Config, results: Path, folder: Path) -> pd.DataFrame:
    figures.write(6, config, results, output_stem=folder / "figure6")
    return pd.read_csv(folder / "figure6.csv")


def test_curves_are_the_histories_of_the_four_trainings(tmp_path: Path, finished: Path, config: Config) -> None:
    found = draw(config, finished, tmp_path)
    assert list(dict.fromkeys(found["row"])) == list(ROWS)
    for row, model in ROWS.items():
        with Tree(finished, config, 0).history(model).open(newline="") as file:
            expected = {int(line["epoch"]): 100 * float(line["robust_accuracy"]) for line in csv.DictReader(file)}
        mine = found[found["row"] == row]
        assert dict(zip(mine["epoch"], mine["accuracy"], strict=True)) == pytest.approx(expected)
        (chosen,) = mine[mine["chosen"]]["epoch"]
        assert chosen == fabricate.kept(finished, model, 0)


def test_labels_and_caption_have_the_weights_of_the_configuration(tmp_path: Path) -> None:
    weights = {"weight": {"pgd_at": 1.5, "trades": 0.7}, "other_weight": {"pgd_at": 0.25, "trades": 3}}
    config = fabricate.small({"jacobian": weights})
    found = draw(config, fabricate.tree(tmp_path / "results", config), tmp_path)
    labels = ["PGD-AT, Jacobian weight 1.5", "PGD-AT, Jacobian weight 0.25", "TRADES, Jacobian weight 0.7"]
    assert list(dict.fromkeys(found["row"])) == [*labels, "TRADES, Jacobian weight 3"]
    assert "1.5 (PGD-AT) and 0.7 (TRADES)" in described.read(tmp_path / "figure6.json").caption


def test_words_say_images_attack_and_the_kept_epochs(tmp_path: Path, finished: Path, config: Config) -> None:
    found = draw(config, finished, tmp_path)
    words = described.read(tmp_path / "figure6.json")
    assert "ready-made PGD-7 (epsilon = 38/255) on 100 held-out training images" in words.caption
    for _, row in found[found["chosen"]].iterrows():
        assert f"{row['row']}: {row['accuracy']:.1f} % at epoch {row['epoch']}" in words.alt
        interval = f"({row['low']:.1f} to {row['high']:.1f})"
        assert any(f"{row['row']}: {row['accuracy']:.1f} % {interval}" in note for note in words.notes)


def test_an_imported_baseline_has_no_curve_and_that_is_said(tmp_path: Path, results: Path) -> None:
    config = fabricate.small({"imported": {"deq_trades_base": "weights.safetensors"}})
    found = draw(config, results, tmp_path)
    assert set(found["row"]) == set(ROWS) - {"TRADES, Jacobian weight 0.4"}
    notes = described.read(tmp_path / "figure6.json").notes
    assert "No curve for what was imported instead of trained: TRADES, Jacobian weight 0.4." in notes


def test_missing_histories_and_weights_are_refused(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    tree.history("deq_pgd_at_jac_low").unlink()
    with pytest.raises(UserError, match=r"deq_pgd_at_jac_low/seed0/history\.csv does not exist"):
        figures.write(6, config, results, output_stem=results / "figures" / "figure6")
    tree.weights("deq_pgd_at_base").unlink()
    with pytest.raises(UserError, match=r"deq_pgd_at_base/seed0/best\.safetensors does not exist"):
        figures.write(6, config, results, output_stem=results / "figures" / "figure6")
    assert not (results / "figures").exists()
