"""The commands of the benchmarks: what they write, and what they answer to mistakes."""

import csv
import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from benchmarks import device_checks, hours, measure, plain, speed, speed_gpu, speed_page, speed_rows
from benchmarks.findings import Finding, Findings
from benchmarks.release_code import TREES
from benchmarks.speed_rows import Row
from benchmarks.ways import Computed
from benchmarks.world import World
from deqpipe.compute.ways import Layout, Way
from deqpipe.errors import UserError
from deqpipe.planning import arithmetic, cost
from deqpipe.workflow.dry_run import PlannedJob
from tests import tiny

ROW = Row(
    device="a CPU", threads=1, torch="2", date="2026-01-01", code="0", load=0.1, clock="wall", model="demo",
    protocol="paper", batch=4, precision="fp32", layout="channels_first", compiled=False, graphs=False,
    operation="something", side="ours", against="plain", pairs=3, ratio=2.0, ratio_low=1.5, ratio_high=2.5,
    rate=100.0, rate_low=90.0, rate_high=110.0, forward=9, backward_input=0, backward_weights=0, peak=1e6,
    teraflops=0.5, share=0.25, difference=1e-14, same_bits=False,
)  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "performance.md"


def run(page: Path, *arguments: object) -> int:
    """`python -m benchmarks.speed` on a few images."""
    line = ["--model", "demo", "--batch", 2, "--threads", 1, "--repeats", 3, "--page", page, *arguments]
    status = speed.main([str(argument) for argument in line])
    assert logging.root.manager.disable == logging.NOTSET, "whoever runs in this process reports as before"
    return status


@pytest.mark.slow
def test_a_run_writes_rows_a_page_and_a_picture(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(page, "--rows", "undefended", "solver alone") == 0
    rows = speed_rows.read(page.with_suffix(".csv"))
    assert [(row.operation, row.side) for row in rows] == [
        (name, side)
        for name in ("scoring, undefended", "inference, undefended", "solver alone, f next to free")
        for side in ("plain", "ours")
    ]
    assert {row.against for row in rows} == {"plain"}
    assert all(row.difference <= 1e-10 for row in rows if row.side == "ours")
    assert page.with_suffix(".png").stat().st_size > 1000
    text = page.read_text()
    assert "### demo, against the plain way" in text
    assert "2 images at once, fp32, keys of the paper, 1 thread(s)" in text
    assert "scoring, undefended" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_measured_again_takes_the_place_of_what_was(page: Path) -> None:
    assert run(page, "--rows", "undefended") == 0
    table = page.with_suffix(".csv")
    before, names = table.read_text().splitlines(), [row.operation for row in speed_rows.read(table)]
    assert run(page, "--rows", "scoring, undefended") == 0
    after = table.read_text().splitlines()
    assert [row.operation for row in speed_rows.read(table)] == names
    assert after[3:] == before[3:]
    assert after[1:3] != before[1:3]


def test_unequal_results_end_the_run_before_anything_is_written(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = plain.moved

    def spoilt(f: plain.Map, at: plain.Point) -> plain.Point:
        found = moved(f, at)
        return replace(found, z=found.z * (1 + 1e-6))

    monkeypatch.setattr(plain, "moved", spoilt)
    assert run(page, "--rows", "solver alone") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"not equal: solver alone, f next to free: \w+ of ours is .*e-06 off, but 1e-10 is allowed", line
    )
    assert not page.with_suffix(".csv").exists()


def test_rows_that_nobody_knows_are_told_in_one_line(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(page, "--rows", "nonsense") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks.speed: no operation has nonsense in its name; there are: attack step")


def test_a_folder_that_is_no_release_is_told(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        run(page, "--release", tmp_path)
    assert leaving.value.code == 2
    assert f"{tmp_path} holds no input-entropy-reduction" in capsys.readouterr().err
    for tree in TREES.values():
        (tmp_path / tree).mkdir()
    with pytest.raises(SystemExit):
        run(page, "--release", tmp_path)
    assert "--release is for MDEQ-Large" in capsys.readouterr().err


def test_a_csv_of_another_version_is_refused(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page.with_suffix(".csv").write_text("operation,side\n")
    assert run(page, "--rows", "solver alone") == 2
    assert "has other columns than this version writes: delete it" in capsys.readouterr().err


def test_a_page_without_a_place_for_tables_is_refused(page: Path) -> None:
    page.write_text("# Performance\n")
    with pytest.raises(UserError, match="has no place for tables between <!-- speed --> and <!-- /speed -->"):
        speed_page.write(page, [replace(ROW, side="plain"), ROW])


def test_the_text_around_the_tables_stays(page: Path) -> None:
    page.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    speed_page.write(page, [replace(ROW, side="plain", ratio=1.0), ROW])
    text = page.read_text()
    assert text.startswith("before\n<!-- speed -->\n")
    assert text.endswith("<!-- /speed -->\nafter\n")
    assert "old" not in text
    assert "**2.00** (1.50 to 2.50) | 100 | 9 + 0 + 0 | 1 | 25% | 8.00 | 1e-14 |" in text


def test_rows_are_read_as_they_were_written(page: Path) -> None:
    rows = [replace(ROW, side="plain", difference=math.nan), ROW]
    speed_rows.write(page, rows)
    first, second = speed_rows.read(page)
    assert second == ROW
    assert math.isnan(first.difference)


# --- on a device -----------------------------------------------------------------------------------------------------


def quick(page: Path, *arguments: object) -> int:
    """`python -m benchmarks.speed_gpu --device cpu --quick`."""
    return speed_gpu.main(
        [str(one) for one in ("--device", "cpu", "--quick", "--threads", 1, "--page", page, *arguments)]
    )


@pytest.mark.slow
def test_gpu_benchmark_runs_on_a_cpu_and_goes_on_where_it_was(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.process_time()
    assert quick(page) == 0
    assert time.process_time() - started < 60
    said = capsys.readouterr().out
    for line in (
        "left out states, tf32, channels first: tf32 is a mode of CUDA devices",
        "left out: a CPU waits for nobody",
        "left out: the speeds are of another model",
        "left out: no --checkpoint was given",
    ):
        assert line in said
    table = page.with_name("performance_gpu.csv")
    rows, found = speed_rows.read(table), list(Findings(page.with_name("performance_gpu_checks.csv")))
    assert {(row.precision, row.layout) for row in rows} == {
        (precision, layout) for precision in ("bf16", "fp32") for layout in ("channels_first", "channels_last")
    }
    assert {one.verdict for one in found if one.section == "numbers"} == {"passed", "left out"}
    assert "### Checks" in page.read_text()
    before = table.read_bytes()
    assert quick(page) == 0
    assert "images/s" not in capsys.readouterr().out
    assert table.read_bytes() == before


def test_nothing_is_begun_when_time_is_over(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quick(page, "--minutes", 0) == 0
    assert capsys.readouterr().out == "Time is over; started again, it goes on.\n"


def test_rounds_measure_every_way_and_every_operation() -> None:
    computations = {computed for part in speed_gpu.ROUNDS for computed in part.computations()}
    layouts: tuple[Layout, ...] = ("channels_first", "channels_last")
    ways = {Way(layout, *switches) for layout, *switches in product(layouts, (False, True), (False, True))}
    assert computations == {Computed(precision, way) for precision in hours.PRECISIONS for way in ways}
    assert any(not part.rows for part in speed_gpu.ROUNDS)


def test_a_number_above_its_limit_fails_the_run(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"states": 1e-3, "gradient to weights": 1e-3}
    monkeypatch.setattr(device_checks, "reference", lambda world: {"states": torch.zeros(1)})
    monkeypatch.setattr(device_checks, "against", lambda world, exact: found)
    monkeypatch.setattr(speed_gpu, "_operations", lambda bench, part: [])
    assert quick(page) == 1
    said = capsys.readouterr().out
    assert "failed   states, fp32, channels first: 0.001 (at most 0.0001)" in said
    assert "passed   gradient to weights, fp32, channels first: 0.001 (at most 0.01)" in said


def test_a_device_that_is_not_there_is_told_in_one_line(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert speed_gpu.main(["--page", str(page)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks.speed_gpu: no CUDA device is available; --device cpu --quick")


@pytest.mark.slow
def test_an_operation_that_fails_is_noted_and_the_others_are_measured(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed, few = measure.measured, speed_gpu._operations

    def failing(operation: object, *rest: object) -> object:
        if getattr(operation, "name", "").startswith("attack"):
            raise RuntimeError("a kernel is missing")
        return timed(operation, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(speed_gpu, "measured", failing)
    monkeypatch.setattr(speed_gpu, "check_numbers", lambda bench, part: None)
    monkeypatch.setattr(speed_gpu, "_operations", lambda bench, part: few(bench, part)[:1] + few(bench, part)[2:3])
    assert quick(page) == 1
    assert "RuntimeError: a kernel is missing" in capsys.readouterr().out
    operations = {row.operation for row in speed_rows.read(page.with_name("performance_gpu.csv"))}
    assert operations == {"scoring, undefended"}


def test_answers_in_another_precision_are_paired_with_those_in_fp32(
    page: Path,
    trained: tiny.Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlay = tmp_path / "tiny.yaml"
    overlay.write_text(_yaml(tiny.OVERLAY))
    for name in ("check_numbers", "measure_speeds"):
        monkeypatch.setattr(speed_gpu, name, lambda bench, **_: None)
    files = ("--checkpoint", trained.file("deq_pgd_at_base"), "--data", trained.data, "--config", overlay)
    assert quick(page, *files) == 0
    said = capsys.readouterr().out
    assert f"{tiny.TEST} images, " in said
    assert "robust accuracy minus that in fp32, bf16" in said


def _yaml(values: object) -> str:
    import yaml

    return yaml.safe_dump(values)


def test_findings_are_kept_in_place_of_older_ones_of_the_same_question(tmp_path: Path) -> None:
    one = Finding("a GPU", "2", "0", "2026-01-01", "numbers", "states", "fp32", "passed", 1e-6, 1e-4, "")
    found = Findings(tmp_path / "found.csv")
    found.add(replace(one, verdict="left out"))
    assert not found.has(one.key)  # what was left out is asked again
    found.add(one)
    found.add(replace(one, what="logits"))
    again = Findings(tmp_path / "found.csv")
    assert list(again) == [one, replace(one, what="logits")]
    assert again.has(one.key)
    assert not again.has(replace(one, torch="3").key)


# --- hours -----------------------------------------------------------------------------------------------------------


def speeds(rates: Sequence[tuple[str, float]]) -> list[Row]:
    return [replace(ROW, operation=name, rate=rate, teraflops=rate / 10) for name, rate in rates]


def test_hours_are_images_over_the_fastest_measured_rate() -> None:
    config, images = World("MDEQ-Large", batch=1).config, World("MDEQ-Large", batch=1).shape
    parts = {part.name: part for part in hours.parts(config, images)}
    crafting = parts["grid: crafting"]
    rows = speeds([(hours.GRID, 100.0), (hours.GRID, 400.0), (hours.GRID, 200.0)])
    assert hours.hours(crafting, rows, "fp32") == pytest.approx(4 * 144 * 10_000 * 10 / 400 / 3600)
    assert hours.hours(crafting, rows, "bf16") is None
    trades = parts["training, TRADES"]
    steps = 210 * math.ceil(images.train / 96) - 16_000
    assert hours.hours(trades, speeds([("training step, TRADES", 50.0)]), "fp32") == pytest.approx(
        steps * 96 / 50 / 3600
    )


def test_rates_are_those_of_the_slowest_operation_in_its_fastest_way(tmp_path: Path) -> None:
    rows = speeds([(hours.GRID, 100.0), (hours.GRID, 400.0), ("scoring, undefended", 300.0)])
    hours.write_rates(tmp_path / "rates.csv", rows)
    with (tmp_path / "rates.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line == {
        "precision": "fp32",
        "work": "evaluation",
        "teraflops": "30",
        "source": "a CPU, torch 2, 2026-01-01",
    }


def test_hours_of_a_rule_are_its_evaluations_at_the_measured_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World("MDEQ-Large", batch=1)
    wildcards = {"model": "deq_trades_base", "seed": "0"}
    trained = PlannedJob("train_deq", wildcards, (), ())
    monkeypatch.setattr(hours, "jobs", lambda *_, **__: [trained, trained, PlannedJob("table1", {}, (), ())])
    rates = tmp_path / "gpu-rates.csv"
    rates.write_text("precision,work,teraflops,source\nbf16,training,100,a GPU\nbf16,evaluation,7,a GPU\n")
    found = hours.by_rule(world.config, world.shape, rates)
    assert found.keys() == {"train_deq"}
    evaluations = cost.job("train_deq", wildcards, world.config, world.shape).evaluations.total
    of_f = arithmetic.cell_operations(world.config.model, image_shape=(3, 32, 32))
    assert found["train_deq"]["bf16"] == pytest.approx(2 * evaluations * of_f / 100e12 / 3600)
