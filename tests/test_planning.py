"""What a run would cost: work against what real jobs count, Snakemake's answers, the printed plan."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deqpipe import checkpoint, config, planning, records, specs
from deqpipe.errors import UserError
from deqpipe.evaluation import jobs, timing
from deqpipe.evaluation.pieces import Part
from deqpipe.evaluation.subject import Job
from deqpipe.planning import calibration, estimate, schedule, sources, work, workflow
from tests import tiny
from tests.tiny import Trained

IMAGES = work.Images(tiny.TRAIN, tiny.VALIDATION, tiny.TEST, (1, 8, 8), classes=len(tiny.CLASSES))
CONTROLS = {"entropy": {"controls": True}, "attack": {"transfer": False}}


def expected(rule: str, changes: Mapping[str, Any] | None = None, **wildcards: str) -> float:
    return work.job(rule, wildcards, tiny.settings(changes), IMAGES).f_evaluations


# Work, against what jobs count


def test_pretraining_counts_what_its_job_counts(trained: Trained) -> None:
    counted = checkpoint.read_metadata(trained.file(specs.TRUNK))["provenance"]["f_evaluations"]
    assert expected("pretrain") == counted


@pytest.mark.parametrize("model", ["deq_pgd_at_base", "deq_trades_random_states"])
def test_a_training_counts_what_its_job_counts_up_to_what_is_drawn(trained: Trained, model: str) -> None:
    counted = checkpoint.read_metadata(trained.file(model))["provenance"]["f_evaluations"]
    with trained.trainings[model].outputs["history"].open() as file:
        assert int(list(csv.DictReader(file))[-1]["f_evaluations"]) == counted
    assert expected("train_deq", model=model) == pytest.approx(counted, rel=0.05)


def evaluated(trained: Trained, folder: Path, stage: str, model: str, changes: Mapping[str, Any]) -> Job:
    """An evaluation job of a tiny model."""
    spec = json.loads(tiny.spec(stage, changes, model=model))
    return Job(
        spec=spec, data=trained.data, checkpoint=trained.file(model), output=folder / "out", batch_size=5,
        device=torch.device("cpu"), threads=1,
    )  # fmt: skip


def counted(path: Path) -> int:
    found: int = records.read(path).provenance[0]["f_evaluations"]
    return found


PROTOCOLS = {
    "paper": {},
    "lowest": {"entropy": {"state": "lowest"}},
    "released": {"entropy": {"resolve": "quasi_newton", "solver_steps": 3, "last_update": "resolve"}},
    "dead": {"entropy": {"resolve": "quasi_newton", "last_update": "dead"}, "attack": {"unroll": {"lead_step": True}}},
    "every step": {"entropy": {"resolve": "quasi_newton", "solver_steps": 1, "last_update": "resolve"}},
}


@pytest.mark.parametrize("changes", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_decisions_count_what_their_job_counts(trained: Trained, tmp_path: Path, changes: dict[str, Any]) -> None:
    merged = config.merge(CONTROLS, changes)
    job = evaluated(trained, tmp_path, "clean", "deq_pgd_at_base", merged)
    assert jobs.clean(job) == 0
    assert expected("clean", merged, model="deq_pgd_at_base") == counted(job.output)


def test_an_attack_grid_counts_what_its_job_counts(trained: Trained, tmp_path: Path) -> None:
    job = evaluated(trained, tmp_path, "attack_grid", "deq_pgd_at_base", CONTROLS)
    shard = jobs.GridShard((1, 3), Part(range(0, 6), tmp_path / "state", 60.0))
    assert jobs.attack_grid(job, shard) == 0
    found = expected("attack_grid", CONTROLS, model="deq_pgd_at_base", shard="states1-3_images0-5")
    assert found == counted(job.output)


def test_early_state_selection_counts_what_its_job_counts(trained: Trained, tmp_path: Path) -> None:
    job = evaluated(trained, tmp_path, "select", "deq_pgd_at_base", {})
    assert jobs.select_early_state(job) == 0
    found = json.loads(job.output.read_text())["provenance"]["f_evaluations"]
    assert expected("select_early_state", model="deq_pgd_at_base") == found


def test_timed_inference_counts_what_its_job_counts(trained: Trained, tmp_path: Path) -> None:
    changes = {"timing": {"batch_size": 4, "warmup": 1, "repeats": 3}}
    job = evaluated(trained, tmp_path, "time_inference", specs.SWEPT, changes)
    assert timing.time_inference(job) == 0
    found = json.loads(job.output.read_text())["provenance"]["f_evaluations"]
    assert expected("time_inference", changes, model=specs.SWEPT) == found


def test_transfer_scores_on_a_second_model_and_controls_that_change_nothing_cost_nothing() -> None:
    one, shard = tiny.settings({"attack": {"transfer": False}}), "states1-3_images0-5"
    both = tiny.settings({"attack": {"transfer": True}})
    model = "deq_trades_base"
    alone, with_other = (work.job("attack_grid", {"model": model, "shard": shard}, c, IMAGES) for c in (one, both))
    points = [point for point in specs.grid_points(one) if point.state <= 3]
    scored = work.decisions(one, model, controls=False).f_evaluations
    assert with_other.f_evaluations - alone.f_evaluations == 6 * (len(points) + 1) * scored
    controlled = tiny.settings(CONTROLS)
    assert set(work.decisions(controlled, model).parts) == {
        "decide/plain", "decide/entropy", "decide/entropy_restart_only"
    }  # fmt: skip


def test_more_of_everything_is_more_work() -> None:
    few = {"autoattack": {"queries": 10, "iterations": 5, "square_images": 4}, "attack": {"in_loop_points": 1}}
    for rule, wildcards in {
        "autoattack": {"model": "deq_trades_base", "defence": "entropy", "images": "0-11"},
        "attack_top": {"model": specs.SWEPT, "images": "0-11"},
        "attack_in_loop": {"model": specs.SWEPT, "images": "0-11"},
    }.items():
        assert 0 < expected(rule, few, **wildcards) < expected(rule, {}, **wildcards)


def test_square_attacks_the_first_images_only() -> None:
    changes = {"autoattack": {"attacks": ["square"], "square_images": 4, "queries": 1000}}
    first, second = (
        expected("autoattack", changes, model="deq_trades_base", defence="plain", images=images)
        for images in ("0-5", "6-11")
    )
    assert first > 100 * second > 0


def test_every_rule_of_the_workflow_has_its_work() -> None:
    rules = "".join(path.read_text() for path in (tiny.ROOT / "rules").glob("*.smk"))
    for rule in work._COMPUTING:
        assert f"rule {rule}:" in rules, rule
    assert work.job("table1", {}, tiny.settings(), IMAGES).parts == {"report": 1.0}


# What Snakemake prints

PRINTED = """Building DAG of jobs...
Job stats:
job             count    min threads    max threads
------------  -------  -------------  -------------
prepare_data        1              1              1
clean               2              1              1
all                 1              1              1
total               4              1              1


[Sun Nov 22 17:41:08 2026]
localrule prepare_data:
    output: results/data/dataset.safetensors
    jobid: 4
    reason: Forced execution
[Sun Nov 22 17:41:08 2026]
rule clean:
    input: results/data/dataset.safetensors, results/models/a/seed0/best.safetensors
    output: results/attacks/clean/a/seed0.parquet
    jobid: 2
    wildcards: model=a, seed=0
    resources: tmpdir=/tmp
[Sun Nov 22 17:41:08 2026]
rule clean:
    input: results/data/dataset.safetensors
    output: results/attacks/clean/b/seed0.parquet
    wildcards: model=b, seed=0
[Sun Nov 22 17:41:08 2026]
localrule all:
    input: results/attacks/clean/a/seed0.parquet
Job stats:
job             count
------------  -------
"""


def test_jobs_and_their_counts_are_read_from_a_dry_run() -> None:
    assert workflow.parse_counts(PRINTED) == {"prepare_data": 1, "clean": 2}
    prepare, first, second = workflow.parse_jobs(PRINTED)
    assert (prepare.rule, prepare.wildcards, prepare.inputs) == ("prepare_data", {}, ())
    assert first.wildcards == {"model": "a", "seed": "0"}
    assert first.inputs == ("results/data/dataset.safetensors", "results/models/a/seed0/best.safetensors")
    assert second.outputs == ("results/attacks/clean/b/seed0.parquet",)


def test_nothing_to_be_done_is_no_job() -> None:
    printed = "Building DAG of jobs...\nNothing to be done (all requested files are present and up to date).\n"
    assert workflow.parse_counts(printed) == {}
    assert workflow.parse_jobs(printed) == []


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        ("Building\ndeqpipe: config: unknown key a\nSystemExit in file x:\n2\n", "config: unknown key a"),
        ("Building\nMissingInputException in rule x:\n", "Snakemake cannot plan: MissingInputException in rule x:"),
        ("", "Snakemake cannot plan: it says nothing"),
    ],
)
def test_a_refusal_is_one_line(printed: str, line: str) -> None:
    assert workflow.complaint(printed) == line


# When jobs run


def job(rule: str, output: str, *inputs: str) -> workflow.Job:
    return workflow.Job(rule, {}, inputs, (output,))


def test_jobs_wait_for_files_cores_and_a_machine_of_their_own() -> None:
    listed = [
        job("prepare_data", "data"), job("clean", "a", "data"), job("clean", "b", "data"),
        job("time_training", "t", "data"), job("table1", "table", "a", "b"),
    ]  # fmt: skip
    seconds = [1.0, 10.0, 10.0, 5.0, 2.0]
    assert schedule.wall_seconds(listed, seconds, schedule.Machine(cores=1, one_device=False)) == 28
    assert schedule.wall_seconds(listed, seconds, schedule.Machine(cores=4, one_device=False)) == 18
    assert schedule.wall_seconds(listed, seconds, schedule.Machine(cores=4, one_device=True)) == 28
    assert schedule.wall_seconds([], [], schedule.Machine(cores=4, one_device=True)) == 0


# The printed plan

PRICES = {
    "start": 3.0, "report": 1.0, "pass": 1e-4, "solve": 1e-4, "unroll": 2e-4, "descent": 2e-4, "pretrain": 2e-4,
    "decide/plain": 1e-3, "decide/entropy": 5e-3, "decide/entropy_restart_only": 1e-3,
    "resnet/gradient": 1e-3, "resnet/decide": 3e-4, "resnet/train/pgd_at": 5e-3, "resnet/train/trades": 6e-3,
    **{f"train/{model}": 1e-4 for model in specs.DEQS},
}  # fmt: skip
MEASURED = estimate.Measured(PRICES, device="a processor", cuda=False, processes=2)


def demo() -> config.Config:
    return config.load([tiny.ROOT / "config.yaml", tiny.ROOT / "config" / "demo.yaml"])


def test_images_of_a_job_are_those_that_it_takes() -> None:
    config, images = demo(), work.Images(1337, 100, 360, (1, 8, 8), classes=10)

    def taken(rule: str, **wildcards: str) -> int:
        return work.taken(rule, wildcards, config, images)

    assert taken("pretrain") == 5 * 1337
    assert taken("train_deq", model="deq_trades_base") == 6 * 1337
    assert taken("train_resnet", model="resnet18_trades") == 4 * 1337
    assert (taken("clean", model="deq_pretrain"), taken("select_early_state", model="deq_trades_base")) == (48, 100)
    assert taken("attack_grid", shard="states1-8_images20-47") == 28
    assert taken("autoattack", images="0-23") == 24
    assert (taken("time_training"), taken("table1")) == (16, 0)


def test_the_plan_shows_every_rule_and_both_totals() -> None:
    model = {"model": "deq_trades_base", "seed": "0"}
    listed = [
        workflow.Job("prepare_data", {}, (), ("data",)),
        workflow.Job("train_deq", model, ("data",), ("weights",)),
        workflow.Job("train_deq", model | {"model": "deq_pgd_at_base"}, ("data",), ("other",)),
        workflow.Job("clean", model, ("weights",), ("clean",)),
    ]
    whole = estimate.Plan(demo(), sources.images_of(demo()), listed, listed[2:], MEASURED, cores=2)
    printed = estimate.text(whole).splitlines()
    rows = {line.split()[0]: line.split() for line in printed if line.split()[1:2] and line.split()[1].isdigit()}
    assert list(rows) == ["prepare_data", "train_deq", "clean", "all"]
    assert [row[1:3] for row in rows.values()] == [["1", "0"], ["2", "1"], ["1", "1"], ["4", "2"]]
    assert rows["train_deq"][3:7] == ["16.0", "k", "2.02", "M"]
    assert printed[0] == "Measured on a processor, 2 processes side by side; 2 core(s) to plan for."
    assert printed[-1] == "Estimated time of the whole run: 2.01 min; of what is left to do: 1.56 min."
    assert sum(line.startswith("Assumed: ") for line in printed) == len(work.ASSUMED) + 1


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.2, "3 s"), (90, "1.5 min"), (7200, "2 h"), (1e6, "11.6 days"), (1e9, "11,574 days")]
)
def test_durations_are_readable(seconds: float, words: str) -> None:
    assert estimate.duration(seconds) == words


def test_every_part_of_every_rule_has_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = calibration.Bench(tiny.settings(CONTROLS), IMAGES, torch.device("cpu"), box=0.0, patience=1e9)

    def once(
        self: calibration.Bench, piece: Callable[[int], object], *, most: int, fewest: int = 1
    ) -> tuple[int, float]:
        piece(min(fewest, most))
        return min(fewest, most), 1.0

    monkeypatch.setattr(calibration.Bench, "sized", once)
    found = calibration.prices(bench)
    assert set(found) | {"start", "report"} >= set(PRICES)
    assert all(price >= 0 for price in found.values())


def test_what_takes_too_long_is_reckoned_from_its_evaluations() -> None:
    bench = calibration.Bench(tiny.settings(), IMAGES, torch.device("cpu"), box=0.0, patience=0.0)
    found = {"solve": 2.0, "unroll": 4.0}
    assert calibration._training_prices(bench, found) == {
        "pretrain": 4.0, **{f"train/{model}": 3.0 for model in specs.DEQS}
    }  # fmt: skip


def test_a_plan_needs_the_folder_of_the_workflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tiny.run("plan") == 2
    assert capsys.readouterr().err == (
        f"deqpipe: there is no config.yaml in {tmp_path}: run this in the folder of the workflow\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_overlay_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.ROOT)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("solver: {steps: 0}\n")
    assert tiny.run("plan", "--configfile", overlay) == 2
    assert "solver.steps is 0" in capsys.readouterr().err


def test_a_failing_measurement_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.ROOT)
    with pytest.raises(UserError, match=r"config file nowhere\.yaml does not exist"):
        estimate._calibrate([Path("nowhere.yaml")], device="cpu", processes=1)


def test_a_folder_of_images_is_counted_without_reading_them(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("test", 3)):
        for number in range(count):
            path = tmp_path / split / f"class{number % 3}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(path)
    folder = tiny.settings({"data": {"source": "folder", "root": str(tmp_path)}})
    assert sources.images_of(folder) == work.Images(3, 9, 3, (3, 8, 8), classes=3)
    with pytest.raises(UserError, match="must hold more than 12"):
        sources.images_of(tiny.settings({"data": {"source": "folder", "root": str(tmp_path), "validation": 12}}))


def test_known_sources_need_no_images() -> None:
    assert sources.images_of(demo()) == work.Images(1337, 100, 360, (1, 8, 8), classes=10)
    assert planning.plan is estimate.plan
