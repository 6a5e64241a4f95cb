"""The printed plan."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deqpipe import config
from deqpipe.errors import UserError
from deqpipe.planning import arithmetic, cost, estimate, known, printed, rates, sources
from deqpipe.planning.leavers import Entering
from deqpipe.planning.printed import CostPlan, Measured
from deqpipe.workflow import dry_run, vocabulary
from tests import tiny

PRICES = {
    "start": 3.0, "report": 1.0, "pass": 1e-4, "solve": 1e-4, "unroll": 2e-4, "descent": 2e-4, "pretrain": 2e-4,
    "read": 1e-5,
    "resnet/gradient": 1e-3, "resnet/decide": 3e-4, "resnet/train/pgd_at": 5e-3, "resnet/train/trades": 6e-3,
    **{f"train/{model}": 1e-4 for model in vocabulary.DEQS},
}  # fmt: skip
MEASURED = Measured(PRICES, device="a processor", cuda=False, processes=2)


def demo() -> config.Config:
    return config.load([tiny.ROOT / "config.yaml", tiny.ROOT / "config" / "demo.yaml"])


MODEL = {"model": "deq_trades_base", "seed": "0"}
ATTACKED = MODEL | {"defence": "plain", "images": "0-47"}
JOBS = [
    dry_run.PlannedJob("prepare_data", {}, (), ("data",)),
    dry_run.PlannedJob("train_deq", MODEL, ("data",), ("weights",)),
    dry_run.PlannedJob("train_deq", MODEL | {"model": "deq_pgd_at_base"}, ("data",), ("other",)),
    dry_run.PlannedJob("clean", MODEL, ("weights",), ("clean",)),
    dry_run.PlannedJob("autoattack", ATTACKED, ("weights",), ("attacked",)),
    dry_run.PlannedJob("table1", {}, ("clean", "attacked"), ("table",)),
    dry_run.PlannedJob("report", {}, ("table",), ("report",)),
]
ENTERING = Entering({"apgd_ce": 0.5, "apgd_t": 0.0, "fab_t": 0.0, "square": 0.0}, "assumed")


def plan(config: config.Config, *, entering: Entering = ENTERING, **changes: Any) -> CostPlan:
    rated = rates.rates(Path("nothing"))
    made = CostPlan(
        config, sources.images_of(config), JOBS, JOBS[2:], MEASURED, cores=2, entering=entering, rates=rated
    )
    return replace(made, **changes)


def rows_of(printed: str) -> dict[str, list[str]]:
    """The cells of the lines of tables, by their rows; a row of both tables stands twice."""
    cells = [re.split(r"\s{2,}", line) for line in printed.splitlines()]
    return {f"{row[0]}/{len(row)}": row for row in cells if len(row) in (6, 7)}


def test_the_plan_shows_every_rule_and_what_reads_results_as_one() -> None:
    rows = rows_of(printed.text(plan(demo())))
    here = {name.removesuffix("/6"): row[1:4] for name, row in rows.items() if name.endswith("/6")}
    assert here == {
        "rule": ["jobs", "left", "images"],
        "prepare_data": ["1", "0", "-"],
        "train_deq": ["2", "1", "16.0 k"],
        "clean": ["1", "1", "48"],
        "autoattack (Table 1)": ["1", "1", "48"],
        "tables, figures, report": ["2", "2", "-"],
        "all": ["7", "5", "16.1 k"],
    }


def test_the_plan_shows_what_an_h100_would_need_from_all_three_counts() -> None:
    one = demo()
    rows = rows_of(printed.text(plan(one)))
    made = plan(one)
    evaluations = made.work_of(JOBS[1]).evaluations + made.work_of(JOBS[2]).evaluations
    ways = (evaluations.forward, evaluations.backward_input, evaluations.backward_weights)
    assert rows["train_deq/7"][1:4] == [printed.count(number) for number in ways]
    assert "table1/7" not in rows
    assert "prepare_data/7" not in rows
    of_f = arithmetic.operations_of_f(one, made.images)
    assert made.on_h100(JOBS[1:3])["tf32"] == pytest.approx(evaluations.total * of_f / 60e12)


def test_the_time_on_an_h100_is_that_of_the_paper_s_configuration() -> None:
    one = config.load([tiny.ROOT / "config.yaml"])
    made = CostPlan(one, sources.images_of(one), JOBS, JOBS, MEASURED, 2, ENTERING, rates.rates(Path("nothing")))
    per_image = 239 * 0.823e9  # TRADES, in operations
    steps = (one.training.epochs * 49_000 - one.pretrain.steps * 96) * per_image
    assert made.on_h100(JOBS[1:2])["tf32"] == pytest.approx(steps / 60e12, rel=0.03), "and validation"
    assert made.on_h100(JOBS[1:2])["bf16"] == pytest.approx(made.on_h100(JOBS[1:2])["tf32"] * 60 / 200)


def test_a_measured_rate_holds_for_its_kind_of_work() -> None:
    one = plan(demo())
    faster = replace(one, rates={**one.rates, ("tf32", "training"): rates.Rate(120.0, "a card")})
    assert faster.on_h100(JOBS[1:2])["tf32"] == pytest.approx(one.on_h100(JOBS[1:2])["tf32"] / 2)
    assert faster.on_h100(JOBS[3:4])["tf32"] == one.on_h100(JOBS[3:4])["tf32"]
    assert "training 120 TFLOP/s (measured: a card)" in " ".join(printed.text(faster).split())


def test_the_plan_says_what_autoattacks_early_leavers_save() -> None:
    text = printed.text(plan(demo()))
    rows, words = rows_of(text), " ".join(text.split())
    assert (
        printed.count(plan(demo()).work_of(JOBS[4], leaving=True).evaluations.forward)
        == (rows["autoattack, leavers out/7"][1])
    )
    assert rows["all, leavers out/7"] != rows["all/7"]
    seconds = [sum(plan(demo()).seconds(JOBS[4:5], leaving=leaving)) for leaving in (False, True)]
    assert seconds[1] < 0.5 * seconds[0]
    saved = f"{printed.duration(seconds[0] - seconds[1])} of {printed.duration(seconds[0])} on one core"
    assert f"leave AutoAttack early save {saved} (assumed: 50 % meet APGD-CE, 0 % APGD-T" in words
    nobody = replace(ENTERING, shares=dict.fromkeys(ENTERING.shares, 1))
    assert "leave AutoAttack early save" not in printed.text(plan(demo(), entering=nobody))
    assert "leavers out" not in printed.text(plan(demo(), entering=nobody))


def test_the_plan_shows_the_critical_path_and_both_totals() -> None:
    one = plan(demo())
    lines = printed.text(one).splitlines()
    times = dict(zip((job.rule for job in JOBS), one.seconds(JOBS), strict=True))
    chain = ["prepare_data", "train_deq (deq_trades_base)", "autoattack (deq_trades_base)", "table1", "report"]
    trained = one.seconds(JOBS[1:2])[0]
    seconds = [times["prepare_data"], trained, times["autoattack"], times["table1"], times["report"]]
    told = ", ".join(f"{name} {printed.duration(taken)}" for name, taken in zip(chain, seconds, strict=True))
    text = " ".join(" ".join(lines).split())
    assert f"Critical path, {printed.duration(sum(seconds))} on any machine: {told}." in text
    assert lines[0] == "Measured on a processor, 2 processes side by side; 2 core(s) to plan for."
    whole, left = (printed.duration(one.run(jobs).seconds) for jobs in (JOBS, JOBS[2:]))
    assert lines[-1] == f"Estimated time of the whole run: {whole}; of what is left to do: {left}."
    assert all(assumption in text for assumption in cost.ASSUMED)
    assert "for room" not in text


def test_the_plan_says_which_rules_wait_for_room() -> None:
    text = " ".join(printed.text(plan(demo(), cores=1)).split())
    trained = printed.duration(sum(plan(demo()).seconds(JOBS[1:3])))
    assert re.search(rf"On 1 core\(s\) jobs wait for room, too, .* 2 train_deq {re.escape(trained)}", text)
    gpu = replace(MEASURED, cuda=True)
    assert "On one GPU jobs wait for room" in " ".join(printed.text(plan(demo(), cores=8, measured=gpu)).split())


def test_a_plan_for_some_targets_counts_their_jobs_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the real workflow; what is kept of prices is still that of a job of every rule."""
    kept: list[set[str]] = []
    monkeypatch.chdir(tiny.ROOT)
    monkeypatch.setattr(known, "read", lambda *_, **__: None)
    monkeypatch.setattr(known, "write", lambda _, __, jobs, *___, **____: kept.append({one.rule for one in jobs}))
    prices = defaultdict(lambda: 1e-4, PRICES)
    monkeypatch.setattr(estimate, "measure", lambda *_, **__: replace(MEASURED, prices=prices))
    assert tiny.run("plan", "table9", "--configfile", "config/demo.yaml", "--cores", 2) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1] == "Only what it takes to make table9."
    here = {name.removesuffix("/6") for name in rows_of(text) if name.endswith("/6")}
    assert here == {
        "rule", "prepare_data", "pretrain", "time_training (Table 9)", "tables, figures, report", "all",
    }  # fmt: skip
    assert "Estimated time of all that this takes: " in text
    assert kept[0] > {"time_training", "table9", "autoattack", "report"}


def test_a_target_that_no_rule_makes_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.ROOT)
    assert tiny.run("plan", "tabel9") == 2
    assert "there is no rule tabel9" in capsys.readouterr().err
    assert tiny.run("plan", "table9", "--profile", "profiles/slurm") == 2
    assert "not of table9" in capsys.readouterr().err


def test_the_plan_fits_a_screen() -> None:
    lines = printed.text(plan(demo())).splitlines()
    assert max(map(len, lines)) <= printed.WIDTH
    assert len(lines) <= 60


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.2, "3 s"), (90, "1.5 min"), (7200, "2 h"), (1e6, "11.6 days"), (86.37e6, "1,000 days"), (1e9, "11,574 days")],
)
def test_durations_are_readable(seconds: float, words: str) -> None:
    assert printed.duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"), [(0, "-"), (999, "999"), (1000, "1.00 k"), (999_400, "999 k"), (999_600, "1.00 M")]
)
def test_large_numbers_have_three_digits(number: float, words: str) -> None:
    assert printed.count(number) == words


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
    folder = tiny.settings({"data": {"source": "folder", "root": str(tmp_path)}, "evaluation": {"images": 3}})
    assert sources.images_of(folder) == cost.Images(3, 9, 3, (3, 8, 8), classes=3)
    with pytest.raises(UserError, match=r"data\.validation is 12, but .*train has 12 images: at least 13 are needed"):
        sources.images_of(tiny.settings({"data": {"source": "folder", "root": str(tmp_path), "validation": 12}}))


def test_known_sources_need_no_images() -> None:
    assert sources.images_of(demo()) == cost.Images(1337, 100, 360, (1, 8, 8), classes=10)
