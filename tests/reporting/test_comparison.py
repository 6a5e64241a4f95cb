"""deqpipe compare: which settings and numbers of two runs differ, and how sure that is."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting import sidecar
from deqpipe.reporting.comparison import cells, printed, settings, sides
from deqpipe.reporting.comparison.sides import Side
from deqpipe.results import header, numbers
from deqpipe.results.numbers import Interval, Made, Number, Numbers, Origin, OverSeeds, TableFacts
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Term

IMAGES = 60
HALF = np.arange(IMAGES) % 2 == 0
MORE = HALF | (np.arange(IMAGES) < 18)  # nine images more are right, none fewer


def cell(column: str, right: np.ndarray, *, seeds: Mapping[str, float] | None = None, **changed: Any) -> Number:
    one = intervals.accuracy(right, confidence=0.95)
    over = None
    if seeds:
        values = list(seeds.values())
        over = OverSeeds(values=dict(seeds), mean=np.mean(values), deviation=np.std(values, ddof=1),
                         lowest=min(values), highest=max(values))  # fmt: skip
    told: dict[str, Any] = {
        "table": 1, "row": "TRADES baseline", "column": column, "model": "deq_trades_base", "defence": "plain",
        "value": 100 * one.value, "unit": "%", "higher_is_better": True, "n": one.n, "paper": None, "difference": None,
        "interval": Interval(low=100 * one.low, high=100 * one.high, level=0.95), "over_seeds": over, "note": "",
    }  # fmt: skip
    return Number(**{**told, **changed})


def run(config: Config, *own: Number, folder: Path | None = None, told: str = "a", **changed: Any) -> Side:
    facts = TableFacts(table=1, title="Robustness.", caption="", conditions=("x",), notes=())
    made = Made(versions={}, code=(), devices=(), seconds=0.0, evaluations={})
    values = config.model_dump(mode="json")
    values["threat_model"] = {**values["threat_model"], **changed}
    origin = Origin(config=sidecar.config_fingerprint(config), spec="0" * 16, revision=1)
    numbers_of = Numbers(summary=(), seeds=(0,), tables=(facts,), cells=own, config=values, made=made, origin=origin)
    return Side(told, numbers_of, folder)


def dataset(folder: Path, digest: str) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    told = header.written({"kind": "dataset"}, tensors=digest, shapes={"x": [1]})
    save_file({"x": np.zeros(1)}, folder / "data" / "dataset.safetensors", metadata=told)
    return folder


@pytest.fixture
def paired(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Side, Side]:
    """Two runs on the same images, of which the second is right on nine more."""
    answers = {"a": HALF, "b": MORE}
    monkeypatch.setattr(
        Side, "answers", lambda self, table, seed: {("TRADES baseline", "PGD"): (Term(answers[self.told][None]),)}
    )
    first, second = (dataset(tmp_path / name, "d" * 64) for name in "ab")
    return (
        run(config, cell("PGD", HALF), folder=first),
        run(config, cell("PGD", MORE), folder=second, told="b", epsilon_255=4.0),
    )


def test_cells_of_the_same_images_are_paired_and_the_difference_is_sure(paired: tuple[Side, Side]) -> None:
    compared = cells.compare(*paired)
    (one,) = compared.cells
    by_hand = intervals.minimum_difference(MORE[None], HALF[None], Bootstrap(2000, 0.95, 0))
    assert one.way == "paired"
    assert one.difference == pytest.approx(15.0)
    expected = intervals.minimum_difference(MORE[None], HALF[None], cells._bootstrap(*paired))
    assert (one.low, one.high) == pytest.approx((100 * expected.low, 100 * expected.high))
    assert 0 < by_hand.low < 0.15 < by_hand.high
    assert one.beyond_chance
    assert one.is_better
    said = " ".join(printed.sentences(compared))
    assert "Settings that differ (A -> B): threat_model.epsilon_255 " in said
    assert "-> 4." in said
    assert "Of 1 cells 1 differs more than chance would: Table 1, TRADES baseline, PGD +15.0 points, B better." in said


def test_other_images_are_not_paired_and_it_is_said(paired: tuple[Side, Side]) -> None:
    first, second = paired
    assert second.folder is not None
    dataset(second.folder, "e" * 64)
    compared = cells.compare(first, second)
    (one,) = compared.cells
    assert one.way == "unpaired"
    assert not one.beyond_chance  # the same 15 points: without pairs 60 images cannot tell
    assert compared.paired.startswith(
        "unpaired: not the same images (48 of data set dddddddd and 48 of data set eee"
    ) or ("of data set dddddddd" in compared.paired)


def test_answers_of_another_number_of_images_are_not_paired(
    paired: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square had half the images in one run: the cell is the same share of fewer answers."""
    fewer = {"a": HALF, "b": MORE[:20]}
    monkeypatch.setattr(
        Side, "answers", lambda self, table, seed: {("TRADES baseline", "PGD"): (Term(fewer[self.told][None]),)}
    )
    second = replace(paired[1], numbers=paired[1].numbers.model_copy(update={"cells": (cell("PGD", MORE[:20]),)}))
    compared = cells.compare(paired[0], second)
    assert [(one.way, one.why) for one in compared.cells] == [("unpaired", (cells.OTHER_IMAGES,))]
    assert f"1 cell is {cells.OTHER_IMAGES}." in printed.sentences(compared)


@pytest.mark.parametrize("side", [0, 1])
def test_records_that_do_not_give_the_number_of_the_table_are_not_paired(paired: tuple[Side, Side], side: int) -> None:
    sides_of = list(paired)
    told = sides_of[side].numbers.model_copy(update={"cells": (cell("PGD", np.roll(HALF, 1) & MORE),)})
    sides_of[side] = replace(sides_of[side], numbers=told)
    compared = cells.compare(*sides_of)
    assert [(one.way, one.why) for one in compared.cells] == [("unpaired", (cells.OTHER_NUMBERS,))]
    assert f"1 cell is {cells.OTHER_NUMBERS}." in printed.sentences(compared)


def of_level(side: Side, level: float) -> Side:
    """The same run, made with another confidence."""
    told, values = side.numbers, {**side.numbers.config}
    values["statistics"] = {**values["statistics"], "confidence": level}
    own = tuple(
        one.model_copy(update={"interval": one.interval and one.interval.model_copy(update={"level": level})})
        for one in told.cells
    )
    return replace(side, numbers=told.model_copy(update={"config": values, "cells": own}))


def test_intervals_of_two_levels_are_not_mixed_whichever_run_comes_first(config: Config) -> None:
    first, second = run(config, cell("PGD", HALF)), of_level(run(config, cell("PGD", MORE), told="b"), 0.8)
    for compared in (cells.compare(first, second), cells.compare(second, first)):
        (one,) = compared.cells
        assert (one.way, one.low, one.why, compared.level) == ("none", None, (cells.OTHER_LEVEL,), 0.95)
        assert f"1 cell is {cells.OTHER_LEVEL}." in printed.sentences(compared)


def test_a_paired_interval_is_mirrored_when_the_runs_change_places(paired: tuple[Side, Side]) -> None:
    first, second = paired[0], of_level(paired[1], 0.8)
    (one,), (other,) = cells.compare(first, second).cells, cells.compare(second, first).cells
    assert one.way == other.way == "paired"
    assert one.low is not None
    assert one.high is not None
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))


def test_every_number_of_seeds_is_told(config: Config) -> None:
    three, two = {"0": 50.0, "1": 52.0, "2": 51.0}, {"0": 60.0, "1": 66.0}
    one = run(config, cell("PGD", HALF, seeds=three), cell("clean", HALF, seeds=two))
    other = run(config, cell("PGD", HALF, seeds=two), cell("clean", HALF, seeds=two), told="b")
    assert "several seeds (3 and 2, or 2 and 2): of 2 means" in " ".join(printed.sentences(cells.compare(one, other)))


def test_a_results_file_alone_is_compared_by_its_intervals(config: Config) -> None:
    compared = cells.compare(run(config, cell("PGD", HALF)), run(config, cell("PGD", HALF)))
    (one,) = compared.cells
    assert (one.way, one.difference) == ("unpaired", 0.0)
    assert "give both folders" in compared.paired
    assert "Settings: the same." in printed.sentences(compared)
    assert "Of 1 cells none differ more than chance would." in printed.sentences(compared)


def test_an_unpaired_interval_is_that_of_newcombe() -> None:
    """Newcombe (1998), Table II, contrast 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    first, second = (intervals.wilson(right, n, confidence=0.95) for right, n in ((56, 70), (48, 80)))
    one = intervals.independent_difference(first, second)
    assert (one.value, one.low, one.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_means_over_seeds_have_welchs_interval(config: Config) -> None:
    from scipy import stats

    one, other = {"0": 50.0, "1": 52.0, "2": 51.0}, {"0": 60.0, "1": 66.0}
    compared = cells.compare(
        run(config, cell("PGD", HALF, seeds=one)), run(config, cell("PGD", MORE, seeds=other), told="b")
    )
    over = compared.cells[0].over_seeds
    assert over is not None
    expected = stats.ttest_ind([60.0, 66.0], [50.0, 52.0, 51.0], equal_var=False).confidence_interval(0.95)
    assert (over.low, over.high) == pytest.approx((expected.low, expected.high))
    assert "Both have several seeds (3 and 2): of 1 means over seeds none differ" in " ".join(
        printed.sentences(compared)
    )
    (row,) = csv.DictReader(printed.to_csv(compared).splitlines())
    assert (float(row["a_seeds_mean"]), float(row["b_seeds_mean"])) == (51.0, 63.0)
    assert intervals.difference_of_means([1.0, 1.0], [2.0, 2.0], confidence=0.95) is None


def test_what_only_one_run_has_stands_alone_and_speeds_have_no_interval(config: Config) -> None:
    repeats = Interval(low=1.0, high=3.0, level=None)
    speeds = cell("images/s", HALF, unit="images/s", interval=repeats)
    compared = cells.compare(run(config, speeds, cell("PGD", HALF)), run(config, speeds, told="b"))
    assert [(one.way, one.difference) for one in compared.cells] == [("none", 0.0), ("none", None)]
    assert "No cell has a number with an interval in both." in printed.sentences(compared)
    told = json.loads(printed.to_json(compared))
    assert [one["beyond_chance"] for one in told["cells"]] == [None, None]
    assert told["cells"][1]["b"] is None


def test_the_text_fits_a_hundred_columns(paired: tuple[Side, Side], config: Config) -> None:
    long = cell("from TRADES + Secs. 3.2 & 3.3, in the loop minus blind, and longer than the screen is wide " * 2, HALF)
    text = printed.text(cells.compare(run(config, long, told="x" * 90), run(config, long, told="y" * 90)))
    assert max(map(len, text.splitlines())) <= 100
    assert max(map(len, printed.text(cells.compare(*paired)).splitlines())) <= 100


def test_where_there_are_no_results_one_line_says_so(tmp_path: Path, config: Config) -> None:
    with pytest.raises(UserError, match=r"folder .* holds no results.json: the workflow writes it with the report"):
        sides.read(tmp_path)
    with pytest.raises(UserError, match=r"does not exist, but must be a results folder or its results.json"):
        sides.read(tmp_path / "nowhere")
    side = run(config, cell("PGD", HALF))
    numbers.write(tmp_path / "results.json", side.numbers)
    assert sides.read(tmp_path).folder == tmp_path
    assert sides.read(tmp_path / "results.json").folder is None


def test_settings_are_named_by_their_keys_and_places_are_no_setting() -> None:
    first = {"a": {"b": 1, "c": [1, 2]}, "pathvars": {"results": "x"}, "only": True}
    second = {"a": {"b": 1, "c": [1, 3]}, "pathvars": {"results": "y"}}
    assert [(one.key, one.first, one.second) for one in settings.differences(first, second)] == [
        ("a.c", "[1, 2]", "[1, 3]"), ("only", "true", "-"),
    ]  # fmt: skip


def test_settings_that_are_written_alike_differ_all_the_same() -> None:
    first = {"rate": 0.12345678, "root": "1", "name": "-", "on": None}
    second = {"rate": 0.12345679, "root": 1, "on": None}
    assert [(one.key, one.first, one.second) for one in settings.differences(first, second)] == [
        ("rate", "0.12345678", "0.12345679"), ("root", '"1"', "1"), ("name", '"-"', "-"),
    ]  # fmt: skip
