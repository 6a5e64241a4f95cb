"""Figure 2: its histograms and its example, against the records."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting.figures import described, figures, plotting
from deqpipe.results import records
from deqpipe.workflow import gridpoints
from deqpipe.workflow.stages import StageName
from tests.reference import reporting as slow
from tests.reporting import fabricate
from tests.results.edits import edit_arrays

MODEL = "deq_pgd_at_base"


def draw(config: Config, results: Path, folder: Path) -> pd.DataFrame:
    figures.write(2, config, results, output_stem=folder / "figure2")
    return pd.read_csv(folder / "figure2.csv", dtype={"class": str})


def series(results: Path, config: Config) -> dict[str, pd.DataFrame]:
    """Clean and ready-made attacked rows of the undefended decision, by image."""
    point = gridpoints.ready_made(config)
    attacked = slow.frame(results / "attacks/grid" / MODEL / "seed0")
    attacked = attacked[(attacked["state"] == point.state) & (attacked["steps"] == point.steps)]
    attacked = attacked[np.isclose(attacked["damping"], point.damping)]
    both = {"clean": slow.frame(results / "attacks/clean" / MODEL / "seed0.parquet"), "attacked": attacked}
    return {name: rows[rows["defence"] == "plain"].set_index("image").sort_index() for name, rows in both.items()}


def varied(results: Path, config: Config) -> None:
    """Give the fabricated residuals, which are all alike, a spread."""
    tree = Tree(results, config, 0)
    stages: dict[Path, StageName] = {path: "attack_grid" for path in tree.attacked(MODEL)}
    for path, stage in (stages | {tree.clean(MODEL): "clean"}).items():
        rows = dict(records.read(path).columns)
        rows["residual"] = 0.01 * np.exp(np.abs(rows["margin"]) + (0.2 if stage == "attack_grid" else 0))
        fabricate.write(path, rows, config, stage, MODEL, 0)


def test_histograms_and_medians_are_those_of_the_records(results: Path, config: Config) -> None:
    varied(results, config)
    found, last = draw(config, results, results / "figures"), config.solver.steps - 1
    for panel, column, quantity in (("a", "residual", "relative residual"), ("b", "entropy", "prediction entropy")):
        values = {name: rows[column].map(lambda v: v[last]) for name, rows in series(results, config).items()}
        for name, own in values.items():
            mine = found[(found["panel"] == panel) & (found["series"] == name)]
            bars = mine[mine["quantity"] == f"{quantity}: images (%)"]
            counts = [round(share * len(own) / 100) for share in bars["value"]]
            edges = [*bars["from"], bars["to"].iloc[-1]]  # of six digits: the outer ones may cut an extreme value off
            edges[0], edges[-1] = edges[0] * (1 - 1e-5), edges[-1] * (1 + 1e-5)
            inside = [sum(low <= v < high for v in own) for low, high in itertools.pairwise(edges)]
            assert counts == inside
            assert sum(counts) == len(own)
            (median,) = mine[mine["quantity"].str.contains(": median")]["value"]
            assert median == pytest.approx(own.median(), rel=1e-5)
        difference = values["attacked"] - values["clean"]
        paired = found[(found["panel"] == panel) & (found["series"] == "attacked minus clean")]
        expected = [difference.median(), 100 * (difference > 0).mean()]
        assert paired["value"].tolist() == pytest.approx(expected, rel=1e-5)
        assert (paired["low"] <= paired["value"]).all()
        assert (paired["value"] <= paired["high"]).all()


def test_the_example_is_the_first_turned_image_with_its_entropy_and_classes(
    tmp_path: Path, finished: Path, config: Config
) -> None:
    found, rows = draw(config, finished, tmp_path), series(finished, config)
    state = json.loads((finished / "select" / MODEL / "seed0.json").read_text())["plain"]["state"]
    right = {
        name: part.apply(lambda row: row["predicted"][state - 1] == row["label"], axis=1) for name, part in rows.items()
    }
    image = (right["clean"] & ~right["attacked"]).idxmax()
    for name, part in rows.items():
        mine = found[(found["panel"] == "c") & (found["series"] == name)].sort_values("state")
        row = part.loc[image]
        assert mine["state"].tolist() == list(range(1, config.solver.steps + 1))
        assert mine["value"].tolist() == pytest.approx(row["entropy"][: len(mine)].tolist(), rel=1e-5)
        assert mine["class"].tolist() == [str(label) for label in row["predicted"][: len(mine)]]
        assert mine["right"].astype(str).tolist() == [str(c == row["label"]) for c in row["predicted"][: len(mine)]]
    words = described.read(tmp_path / "figure2.json")
    assert f"Test image {image} (counted from 0), the first one that is right when clean" in words.caption
    assert f"(c) Test image {image} clean, attacked" in words.alt


def test_words_say_attack_images_and_numbers_with_intervals(tmp_path: Path, finished: Path, config: Config) -> None:
    draw(config, finished, tmp_path)
    words = described.read(tmp_path / "figure2.json")
    assert "20 test images, clean and under ready-made PGD-7 (4, 5, 0.5), epsilon = 38/255" in words.caption
    values = [rows["entropy"].map(lambda v: v[3]) for rows in series(finished, config).values()]
    difference = values[1] - values[0]
    raised = 100 * (difference > 0).mean()
    assert f"paired by image: {difference.median():.3g} (" in words.notes[1]
    assert f"higher when attacked on {raised:.1f} % of the images" in words.notes[1]
    assert all(f"({letter}) " in words.alt for letter in "abc")


def replace(results: Path, config: Config, **changed: Any) -> Path:
    """The example with some arrays changed."""
    path = Tree(results, config, 0).example(MODEL)
    edit_arrays(path, changed)
    return path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": 20}, "shows image 20, but images 0 to 19 are evaluated"),
        ({"label": 11}, "the label 11, but records say"),
        ({"fooled": False}, "says that the attack turns no image first, but records say image"),
        ({"provenance": "{}"}, "carries no provenance"),
        ({"provenance": None}, "lacks provenance"),
        ({"clean": None, "classes": None}, "lacks clean, classes"),
        ({"label": np.array([{}], dtype=object)}, "is no npz file of plain arrays"),
    ],
)
def test_examples_that_do_not_belong_to_the_records_are_refused(
    results: Path, config: Config, changed: dict[str, Any], message: str
) -> None:
    replace(results, config, **changed)
    with pytest.raises(UserError, match=message) as caught:
        figures.write(2, config, results, output_stem=results / "figures" / "figure2")
    assert "\n" not in str(caught.value)
    assert not (results / "figures").exists()


def test_missing_and_damaged_examples_are_refused(results: Path, config: Config) -> None:
    path = Tree(results, config, 0).example(MODEL)
    for content, message in ((b"PK\x03\x04 cut", "is no npz file"), (b"", "is no npz file"), (None, "does not exist")):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            figures.write(2, config, results, output_stem=results / "figure2")
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)
    with pytest.raises(UserError, match="is no npz file"):
        figures.write(2, config, results, output_stem=results / "figure2")


def test_an_attack_that_turns_no_image_is_said_to(results: Path, config: Config) -> None:
    """The attacked records are made a copy of the clean ones, and the example says that it fools nobody."""
    tree, point = Tree(results, config, 0), gridpoints.ready_made(config)
    clean = records.read(tree.clean(MODEL))
    mine = clean["defence"] == "plain"
    predicted = {int(i): p for i, p in zip(clean["image"][mine], clean["predicted"][mine], strict=True)}
    for path in tree.attacked(MODEL):
        rows = dict(records.read(path).columns)
        turned = (rows["state"] == point.state) & (rows["steps"] == point.steps)
        turned &= np.isclose(rows["damping"], point.damping) & (rows["defence"] == "plain")
        rows["predicted"] = rows["predicted"].copy()
        rows["predicted"][turned] = np.array([predicted[int(i)] for i in rows["image"][turned]]).reshape(-1, 5)
        fabricate.write(path, rows, config, "attack_grid", MODEL, 0)
    replace(results, config, image=0, label=int(clean["label"][clean["image"] == 0][0]), fooled=False)
    draw(config, results, results / "figures")
    words = described.read(results / "figures" / "figure2.json")
    assert "an example that the attack does not turn" in words.caption
    assert any("No test image is right when clean and wrong when attacked: image 0" in note for note in words.notes)


def test_values_without_a_place_on_the_axis_are_counted(results: Path, config: Config) -> None:
    varied(results, config)
    path = Tree(results, config, 0).clean(MODEL)
    rows = dict(records.read(path).columns)
    first = (rows["image"] < 3) & (rows["defence"] == "plain")
    rows["residual"] = rows["residual"].copy()
    rows["residual"][first] = np.array([np.nan, 0.0, np.inf])[rows["image"][first], None]
    fabricate.write(path, rows, config, "clean", MODEL, 0)
    found = draw(config, results, results / "figures")
    words = described.read(results / "figures" / "figure2.json")
    assert any("Not in the histograms: 3 clean and 0 attacked values" in note for note in words.notes)
    bars = found[(found["panel"] == "a") & (found["series"] == "clean") & found["from"].notna()]
    assert math.isclose(bars["value"].sum(), 100 * 17 / 20, rel_tol=1e-5)


def test_the_picture_changes_with_the_image_and_colour_images_are_drawn(results: Path, config: Config) -> None:
    draw(config, results, results / "one")
    colour = np.random.default_rng(9).random((3, 8, 8), dtype=np.float32)
    replace(results, config, clean=colour, attacked=colour)
    draw(config, results, results / "two")
    assert (results / "one/figure2.png").read_bytes() != (results / "two/figure2.png").read_bytes()
    assert (results / "one/figure2.csv").read_bytes() == (results / "two/figure2.csv").read_bytes()


@pytest.mark.slow
def test_names_of_classes_are_drawn_as_they_are_or_by_number(results: Path, config: Config) -> None:
    names = ["$x^{$", "a\\_$b$", "=1+1", *(f"\u732b{number}" for number in range(20))]
    for shift in (0, 3):  # all drawable or not, as the font has the characters
        label = int(np.load(Tree(results, config, 0).example(MODEL))["label"])
        classes = [names[(number - label + shift) % len(names)] for number in range(len(names))]
        replace(results, config, classes=np.array(classes))
        draw(config, results, results)
        caption = described.read(results / "figure2.json").caption
        assert (f"class {label} is {classes[label]}" in caption) == (shift == 3)


def test_a_formula_begins_with_no_name() -> None:
    assert plotting.plain("$x_\\", "class 3") == r"\$x_" + "\\"
    assert plotting.plain("caf\xe9", "class 3") == "caf\xe9"
    assert plotting.plain("\u732b", "class 3") == "class 3"
    assert plotting.plain("two\nlines", "class 3") == "class 3"
