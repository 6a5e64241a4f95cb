"""What each of Snakemake's jobs computes, against what real jobs count, to the last evaluation."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe import config, data
from deqpipe.counts import Evaluations, sum_of
from deqpipe.evaluation import suite_target
from deqpipe.evaluation.evaluated_model import EvaluationJob, load_evaluated_model
from deqpipe.evaluation.resumable import Part
from deqpipe.evaluation.stages import autoattack, clean, example, selection, suite, sweep, timing, transfer
from deqpipe.evaluation.stages.grid import GridShard, attack_grid, attack_point
from deqpipe.planning import arithmetic, cost, leavers
from deqpipe.results import checkpoint, early_states, records
from deqpipe.results.early_states import EarlyState
from deqpipe.training import timing as training_timing
from deqpipe.workflow import defences, dry_run, gridpoints, specs, vocabulary
from deqpipe.workflow.gridpoints import GridPoint
from tests import tiny
from tests.evaluation.commands import BASE, OTHER, RANDOM, other_trades, strongest
from tests.results.edits import write_json
from tests.sampling import one_in
from tests.tiny import Trained

IMAGES = cost.Images(tiny.TRAIN, tiny.VALIDATION, tiny.TEST, (1, 8, 8), classes=len(tiny.CLASSES))
CONTROLS = {"entropy": {"controls": True}, "attack": {"transfer": False}}
RELEASE: dict[str, Any] = {"protocol": "release", "solver": {"tolerance": 0.0}}
BY_PROTOCOL = {"paper": {}, "release": RELEASE}
protocols = pytest.mark.parametrize(
    "protocol",
    [
        pytest.param(changes, id=name, marks=[pytest.mark.slow] if name == "release" else [])  # test_formulas has both
        for name, changes in BY_PROTOCOL.items()
    ],
)


def expected(rule: str, changes: Mapping[str, Any] | None = None, **wildcards: str) -> Evaluations:
    return cost.job(rule, wildcards, tiny.settings(changes), IMAGES).evaluations


def counted(path: Path) -> Evaluations:
    """What the provenance of a file says."""
    told = json.loads(path.read_text())["provenance"] if path.suffix == ".json" else records.read(path).provenance[0]
    return Evaluations(**told["evaluations"])


def evaluated(
    trained: Trained,
    folder: Path,
    stage: str,
    model: str,
    changes: Mapping[str, Any],
    *,
    name: str = "out",
    **more: Any,
) -> EvaluationJob:
    """An evaluation job of a tiny model."""
    spec = json.loads(tiny.spec(stage, changes, model=model))
    return EvaluationJob(
        spec=spec, data=trained.data, checkpoint=trained.file(model), output=folder / name, batch_size=5,
        device=torch.device("cpu"), threads=1, **more,
    )  # fmt: skip


def part(folder: Path, images: range = range(tiny.TEST)) -> Part:
    return Part(images, folder / "state", 1e9)


ALL = f"0-{tiny.TEST - 1}"

# Trainings


def test_pretraining_counts_what_its_job_counts(trained: Trained) -> None:
    told = checkpoint.read_metadata(trained.file(vocabulary.TRUNK))["provenance"]["evaluations"]
    assert expected("pretrain") == Evaluations(**told)


@pytest.mark.parametrize("model", [BASE, RANDOM])
def test_a_training_counts_what_its_job_counts_up_to_what_is_drawn(trained: Trained, model: str) -> None:
    told = checkpoint.read_metadata(trained.file(model))["provenance"]["evaluations"]
    with trained.trainings[model].outputs["history"].open() as file:
        last = list(csv.DictReader(file))[-1]
    assert {way: int(last[f"f_{way}"]) for way in told} == told
    found = expected("train_deq", model=model)
    for way, number in told.items():
        assert getattr(found, way) == pytest.approx(number, rel=0.05), way


PERTURBED = {"enabled": True, "size": {"pgd_at": 0.01, "trades": 0.005}, "warmup_epochs": 2}


@pytest.mark.parametrize("model", one_in(2, [OTHER, "deq_trades_awp"]))
def test_a_training_without_anything_drawn_counts_what_its_job_counts(
    trained: Trained, tmp_path: Path, model: str
) -> None:
    """With perturbed weights, too, from the third epoch on."""
    changes = {"jacobian": {"frequency": 0.0}, "weight_perturbation": PERTURBED}
    spec, trunk = tiny.spec("train_deq", changes, model=model), trained.file(vocabulary.TRUNK, "handoff")
    training = tiny.Training("train-deq", spec, trained.data, tmp_path, trunk=trunk)
    assert training.run() == 0
    told = checkpoint.read_metadata(training.outputs["last"])["provenance"]["evaluations"]
    assert expected("train_deq", changes, model=model) == Evaluations(**told)


def test_what_perturbs_the_weights_of_a_network_without_states_takes_three_passes_per_branch_of_the_loss() -> None:
    """Of the images of the epochs that perturb them."""
    settings = tiny.settings({"weight_perturbation": PERTURBED, "resnet": {"training": {"epochs": 5}}})
    for plain, model, branches in (
        ("resnet18_pgd_at", "resnet18_pgd_at_awp", 1),
        ("resnet18_trades", "resnet18_trades_awp", 2),
    ):
        without, found = (
            arithmetic.feedforward_passes(
                settings, cost.job("train_feedforward", {"model": name}, settings, IMAGES).parts, name="resnet"
            )
            for name in (plain, model)
        )
        assert found - without == 3 * branches * 3 * tiny.TRAIN


@pytest.mark.slow
def test_timed_training_counts_what_its_job_counts_up_to_what_is_drawn(trained: Trained, tmp_path: Path) -> None:
    changes = {"timing": {"batch_size": 4, "warmup": 1, "repeats": 3}}
    spec = json.loads(tiny.spec("time_training", changes))
    output = tmp_path / "out.json"
    job = training_timing.TimingJob(
        spec, trained.data, trained.file(vocabulary.TRUNK, "handoff"), output, torch.device("cpu"), threads=1,
        state=tmp_path / "state",
    )  # fmt: skip
    assert training_timing.time_training(job) == 0
    found, told = expected("time_training", changes), counted(output)
    assert found.forward == pytest.approx(told.forward, rel=0.1)
    assert (found.backward_input, found.backward_weights) == (told.backward_input, told.backward_weights)


# Decisions and attacks

ENTROPY = {
    "paper": {},
    "lowest": {"entropy": {"state": "lowest"}},
    "released": {"entropy": {"resolve": "quasi_newton", "solver_steps": 3, "last_update": "resolve"}},
    "dead": {"entropy": {"resolve": "quasi_newton", "last_update": "dead"}, "attack": {"unroll": {"lead_step": True}}},
    "every step": {"entropy": {"resolve": "quasi_newton", "solver_steps": 1, "last_update": "resolve"}},
    "release": RELEASE,
}


@pytest.mark.parametrize("changes", ENTROPY.values(), ids=ENTROPY.keys())
def test_decisions_count_what_their_job_counts(trained: Trained, tmp_path: Path, changes: dict[str, Any]) -> None:
    merged = config.merge(CONTROLS, changes)
    job = evaluated(trained, tmp_path, "clean", BASE, merged)
    assert clean.clean(job, **kept(job)) == 0
    assert expected("clean", merged, model=BASE) == counted(job.output)


@protocols
def test_an_attack_grid_counts_what_its_job_counts(trained: Trained, tmp_path: Path, protocol: dict[str, Any]) -> None:
    merged = config.merge(CONTROLS, protocol)
    job = evaluated(trained, tmp_path, "attack_grid", BASE, merged)
    assert attack_grid(job, GridShard((1, 3), part(tmp_path, range(10)))) == 0
    assert expected("attack_grid", merged, model=BASE, shard="states1-3_images0-9") == counted(job.output)


def test_a_transferred_grid_counts_what_its_job_counts(trained: Trained, tmp_path: Path) -> None:
    job = evaluated(trained, tmp_path, "attack_grid", RANDOM, {}, other=other_trades(trained, tmp_path))
    assert attack_grid(job, GridShard((4, 4), part(tmp_path))) == 0
    assert expected("attack_grid", model=RANDOM, shard=f"states4-4_images{ALL}") == counted(job.output)


def test_a_single_point_counts_what_its_job_counts(trained: Trained, tmp_path: Path) -> None:
    job, point = evaluated(trained, tmp_path, "attack_grid", RANDOM, {}), GridPoint(1.0, 3, 2)
    assert attack_point(job, point=point, images=range(4)) == 0
    assert expected("attack_point", model=RANDOM, point=point.name, images="0-3") == counted(job.output)


@pytest.mark.parametrize("model", [vocabulary.TRUNK, "resnet18_pgd_at"])
def test_ready_made_attacks_count_what_their_job_counts(trained: Trained, tmp_path: Path, model: str) -> None:
    job = evaluated(trained, tmp_path, "attack_pgd", model, {})
    assert clean.attack_pgd(job, **kept(job)) == 0
    assert expected("attack_pgd", model=model) == counted(job.output)


@protocols
def test_early_state_selection_counts_what_its_job_counts(
    trained: Trained, tmp_path: Path, protocol: dict[str, Any]
) -> None:
    job = evaluated(trained, tmp_path, "select", BASE, protocol, name="out.json")
    assert selection.select_early_state(job, **kept(job)) == 0
    assert expected("select_early_state", protocol, model=BASE) == counted(job.output)


@pytest.mark.slow
def test_timed_inference_counts_what_its_job_counts(trained: Trained, tmp_path: Path) -> None:
    changes = {"timing": {"batch_size": 4, "warmup": 1, "repeats": 3}}
    job = evaluated(trained, tmp_path, "time_inference", vocabulary.SWEEP_MODEL, changes, name="out.json")
    assert timing.time_inference(job, **kept(job)) == 0
    assert expected("time_inference", changes, model=vocabulary.SWEEP_MODEL) == counted(job.output)


GRID = {"grid": {"states": [1, 3], "steps": [1], "damping": [0.5]}}  # and the ready-made point


@pytest.mark.slow
@protocols
def test_the_sweep_counts_what_its_job_counts(trained: Trained, tmp_path: Path, protocol: dict[str, Any]) -> None:
    few = {"attack": GRID, "entropy_sweep": {"solver_steps": [1, 4], "input_steps": [1, 2]}}
    changes = config.merge(few, protocol)
    job = evaluated(trained, tmp_path, "attack_sweep", vocabulary.SWEEP_MODEL, changes)
    assert sweep.attack_sweep(job, part(tmp_path), race=None) == 0
    assert expected("attack_sweep", changes, model=vocabulary.SWEEP_MODEL, images=ALL) == counted(job.output)


@pytest.mark.slow
@protocols
def test_attacks_through_sec_3_2_count_what_their_job_counts(
    trained: Trained, tmp_path: Path, protocol: dict[str, Any]
) -> None:
    changes = config.merge({"attack": {**GRID, "in_loop_points": 9}}, protocol)
    points = list(gridpoints.grid_points(tiny.settings(changes)))
    files: dict[str, Any] = {"other": other_trades(trained, tmp_path), "strongest": strongest(tmp_path, points)}
    job = evaluated(trained, tmp_path, "attack_in_loop", RANDOM, changes, **files)
    assert transfer.attack_in_loop(job, part(tmp_path)) == 0
    assert_equal(counted(job.output), expected("attack_in_loop", changes, model=RANDOM, images=ALL))


def kept(job: EvaluationJob) -> dict[str, Any]:
    """Where a job that goes through images once keeps its pieces."""
    return {"state": job.output.with_suffix(".state"), "budget_minutes": math.inf}


def assert_equal(found: Evaluations, wanted: Evaluations) -> None:
    """Up to the rounding of a mean over points."""
    for way in ("forward", "backward_input", "backward_weights"):
        assert getattr(found, way) == pytest.approx(getattr(wanted, way), rel=1e-12), way


@pytest.mark.slow
def test_the_example_counts_what_its_job_counts(trained: Trained, tmp_path: Path) -> None:
    changes = {"attack": GRID}
    select, cleaned, grid = (evaluated(trained, tmp_path, stage, BASE, changes, name=stage) for stage in (
        "select", "clean", "attack_grid"))  # fmt: skip
    assert selection.select_early_state(select, **kept(select)) == clean.clean(cleaned, **kept(cleaned)) == 0
    (tmp_path / "grid").mkdir()
    in_folder = evaluated(trained, tmp_path / "grid", "attack_grid", BASE, changes, name="states1-4_images0-11.parquet")
    assert grid.spec == in_folder.spec
    assert attack_grid(in_folder, GridShard((1, 4), part(tmp_path))) == 0
    job = evaluated(trained, tmp_path, "attack_example", BASE, changes, name="x.npz")
    assert example.attack_example(job, select=select.output, clean=cleaned.output, grid=tmp_path / "grid") == 0
    with np.load(job.output) as file:
        told = json.loads(str(file["provenance"]))["evaluations"]
    found = expected("attack_example", changes, model=BASE)
    # images 0 to 4 are the first batch; an image of the last one, which is smaller, would cost less
    assert Evaluations(**told) in (found, found * (2 / 5))


# AutoAttack

POINT = GridPoint(0.5, 4, 2)
SMALL: dict[str, Any] = {
    "attack": {"grid": {"states": [4], "steps": [2], "damping": [0.5]}},
    "autoattack": {"iterations": 2, "targets": 2, "queries": 3, "batch_size": 5, "square_images": 8, "top_points": 2},
    "threat_model": {"epsilon_255": 0.11},
}
"""One point, and a ball so small that nothing in it turns an image."""


def agreeing(trained: Trained, folder: Path, job: EvaluationJob, *, through: Any) -> EvaluationJob:
    """The job on images with the labels that the attacked logits give them: nothing ever fools these."""
    evaluated = load_evaluated_model(job)
    split = evaluated.dataset.test
    with torch.no_grad():
        logits = evaluated.logits_of(POINT if evaluated.is_deq else None, through=through)
        labels = logits(split.float_images(slice(None))).argmax(1)
    path = folder / "agreeing.safetensors"
    data.save(path, replace(evaluated.dataset, test=data.Split(split.images, labels)), provenance={})
    return replace(job, data=path)


def attacked(trained: Trained, folder: Path, changes: Mapping[str, Any], *, model: str, defence: Any) -> EvaluationJob:
    spec = specs.build("autoattack", tiny.settings(changes), model=model, seed=0, defence=defence)
    ranked = None if model == "resnet18_pgd_at" else strongest(folder, [POINT], model=model)
    job = EvaluationJob(
        spec=specs.loads(specs.dumps(spec)), data=trained.data, checkpoint=trained.file(model), output=folder / "out",
        device=torch.device("cpu"), threads=1, batch_size=5, strongest=ranked,
    )  # fmt: skip
    return agreeing(trained, folder, job, through=defence)


@pytest.mark.parametrize("protocol", ["paper", pytest.param("release", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("model", "defence"),
    [(BASE, "plain"), pytest.param(BASE, "entropy", marks=pytest.mark.slow), ("resnet18_pgd_at", "plain")],
)
def test_autoattack_counts_what_its_job_counts(
    trained: Trained, tmp_path: Path, model: str, defence: str, protocol: str
) -> None:
    every = config.merge(SMALL, {"autoattack": {"mode": "individual"}})
    changes = config.merge(every, BY_PROTOCOL[protocol])
    job = attacked(trained, tmp_path, changes, model=model, defence=defence)
    assert autoattack.autoattack(job, part(tmp_path)) == 0
    assert expected("autoattack", changes, model=model, defence=defence, images=ALL) == counted(job.output)


@pytest.mark.slow
def test_images_that_leave_autoattack_early_cost_nothing_more(trained: Trained, tmp_path: Path) -> None:
    """Those that the decision errs on without an attack: here a state before the one that is attacked decides."""
    changes = config.merge(SMALL, {"early_state": {"mode": "fixed", "index": 1}})
    job = attacked(trained, tmp_path, changes, model=BASE, defence="plain")
    early = json.loads((tmp_path / "strongest.json").read_text()) | {"early": {"plain": 1, "entropy": 1}}
    write_json(tmp_path / "strongest.json", early)
    assert autoattack.autoattack(job, part(tmp_path)) == 0
    wildcards = {"model": BASE, "defence": "plain", "images": ALL, "seed": "0"}
    planned = dry_run.PlannedJob("autoattack", wildcards, (), (str(job.output),))
    settings = tiny.settings(changes)
    met = leavers.entering(settings, [planned])
    assert met.source == "measured in 1 of 1 jobs"
    assert 0 < met.shares["apgd_ce"] < 1
    found = cost.job("autoattack", wildcards, settings, IMAGES, entering=met.shares).evaluations
    assert_equal(counted(job.output), found)


@pytest.mark.slow
@protocols
def test_attacks_at_the_top_points_count_what_their_job_counts(
    trained: Trained, tmp_path: Path, protocol: dict[str, Any]
) -> None:
    changes = config.merge(SMALL, protocol)
    files: dict[str, Any] = {"strongest": strongest(tmp_path, [POINT])}
    job = evaluated(trained, tmp_path, "attack_top", RANDOM, changes, **files)
    job = agreeing(trained, tmp_path, job, through="entropy")
    assert autoattack.attack_top(job, part(tmp_path)) == 0
    assert expected("attack_top", changes, model=RANDOM, images=ALL) == counted(job.output)


SUITE: dict[str, Any] = {
    "threat_model": {"epsilon_255": 0.11},  # within which nothing falls
    "early_state": {"mode": "fixed", "index": 3},
    "suite": {
        "mode": "individual", "iterations": 1, "restarts": 1, "targets": 1, "long": [2], "queries": 2,
        "decision_queries": 1, "radii": [0, 0.5, 1], "radius_images": 12,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "release"])
@pytest.mark.parametrize(
    ("stage", "defence"),
    [
        ("attack_suite", "plain"),
        ("attack_suite", "entropy"),
        ("attack_suite", "longer_solve"),
        ("attack_radius", "plain"),
        ("attack_radius", "entropy"),
    ],
)
def test_the_suite_counts_what_its_jobs_count_but_for_searches_that_rays_has_begun(
    trained: Trained, tmp_path: Path, stage: Any, defence: Any, protocol: str
) -> None:
    changes = config.merge(SUITE, BY_PROTOCOL[protocol])
    settings = tiny.settings(changes)
    spec = specs.build(stage, settings, model=BASE, seed=0, defence=defence)
    job = EvaluationJob(
        spec=specs.loads(specs.dumps(spec)), data=trained.data, checkpoint=trained.file(BASE),
        output=tmp_path / "out.parquet", device=torch.device("cpu"), threads=1, batch_size=5,
    )  # fmt: skip
    chosen = {name: EarlyState(3, (0.5,) * 4, 0.5, 9) for name in ("plain", "entropy")}
    select = {"spec": specs.build("select", settings, model=BASE, seed=0)}
    early_states.write(tmp_path / "select.json", chosen, select)
    target = suite_target.targets_of(
        suite_target.evaluated_for(job, [defence], range(12)), [defence], tmp_path / "select.json"
    )[defence]
    job = judged_right(job, target, tmp_path)
    run = {"attack_suite": suite.attack_suite, "attack_radius": suite.attack_radius}[stage]
    assert run(job, part(tmp_path), tmp_path / "select.json") == 0
    found = expected(stage, changes, model=BASE, defence=defence, images=ALL)
    rows = records.read(job.output)
    rays = rows.where(rows["attack"] == "rays")
    more = float(((rays["taken"] - 1) * rays["per_step"]).sum())
    assert counted(job.output).total == pytest.approx(found.total + more, abs=1e-3 * found.total)


def judged_right(job: EvaluationJob, target: suite_target.SuiteTarget, folder: Path) -> EvaluationJob:
    """The job on images with the labels that the decision gives them."""
    split = target.evaluated.dataset.test
    labels = target.victim.logits(split.float_images(slice(None))).argmax(1)
    path = folder / "right.safetensors"
    data.save(path, replace(target.evaluated.dataset, test=data.Split(split.images, labels)), provenance={})
    return replace(job, data=path)


# From the configuration alone


def test_networks_that_decide_together_cost_what_each_does_and_are_shown_all_that_the_suite_has_made() -> None:
    config = tiny.settings({"seeds": [0, 1, 2], "early_state": {"mode": "fixed", "index": 3}})
    plain, together = (cost.deciding(config, BASE, name).evaluations for name in ("plain", "ensemble"))
    assert together == plain * 3 == Evaluations(9)
    alone, faced = (
        {attack.name: work for attack, work in cost.faced(config, BASE, name, classes=IMAGES.classes).items()}
        for name in ("plain", "ensemble")
    )
    assert all(work.evaluations == alone[attack].evaluations * 3 for attack, work in faced.items())
    whole = cost.job("attack_ensemble", {"model": BASE, "images": "0-11"}, config, IMAGES).evaluations * (1 / 12)
    own = sum_of(work.evaluations for work in faced.values()) + together * (3 + 2 * len(faced))
    made = sum(
        3 * (len(cost.faced(config, model, name, classes=IMAGES.classes)) - 1)  # noise is no attack
        for model in vocabulary.faces_suite(config)
        for name in vocabulary.suite_decisions(config, model)
    )
    assert (whole - own).total == pytest.approx(together.total * made)


def test_transfer_scores_on_a_second_model_and_controls_that_change_nothing_cost_nothing() -> None:
    one, shard = tiny.settings({"attack": {"transfer": False}}), "states1-3_images0-5"
    both = tiny.settings({"attack": {"transfer": True}})
    model = "deq_trades_base"
    without, with_other = (cost.job("attack_grid", {"model": model, "shard": shard}, c, IMAGES) for c in (one, both))
    points = [point for point in gridpoints.grid_points(one) if point.state <= 3]
    scored = cost.decisions(one, model, controls=False).evaluations
    assert with_other.evaluations - without.evaluations == scored * (6 * len(points))
    controlled = tiny.settings(CONTROLS)
    names: tuple[defences.DefenceName, ...] = ("plain", "entropy", "entropy_restart_only")
    alone = [cost.decision(controlled, name).evaluations for name in names]  # the others are the undefended one
    assert cost.decisions(controlled, model).evaluations == sum_of(alone)


def test_more_of_everything_is_more_work() -> None:
    few = {"autoattack": {"queries": 10, "iterations": 5, "square_images": 4}, "attack": {"in_loop_points": 1}}
    for rule, wildcards in {
        "autoattack": {"model": "deq_trades_base", "defence": "entropy", "images": "0-11"},
        "attack_top": {"model": vocabulary.SWEEP_MODEL, "images": "0-11"},
        "attack_in_loop": {"model": vocabulary.SWEEP_MODEL, "images": "0-11"},
    }.items():
        assert 0 < expected(rule, few, **wildcards).total < expected(rule, {}, **wildcards).total


def test_square_attacks_the_first_images_only() -> None:
    changes = {"autoattack": {"attacks": ["square"], "square_images": 4, "queries": 1000}}
    first, second = (
        expected("autoattack", changes, model="deq_trades_base", defence="plain", images=images).total
        for images in ("0-5", "6-11")
    )
    assert first > 50 * second > 0


def test_every_rule_of_the_workflow_has_its_work() -> None:
    rules = "".join(path.read_text() for path in (tiny.ROOT / "rules").glob("*.smk"))
    for rule in ("autoattack", *cost._COMPUTING):
        assert f"rule {rule}:" in rules, rule
        assert cost.uses_device(rule)
    assert cost.job("table1", {}, tiny.settings(), IMAGES).parts == {"report": 1.0}


def test_images_of_a_job_are_those_that_it_takes() -> None:
    demo = config.load([tiny.ROOT / "config.yaml", tiny.ROOT / "config" / "demo.yaml"])
    images = cost.Images(1337, 100, 360, (1, 8, 8), classes=10)

    def taken(rule: str, **wildcards: str) -> int:
        return cost.taken(rule, wildcards, demo, images)

    assert taken("pretrain") == 5 * 1337
    assert taken("train_deq", model="deq_trades_base") == 6 * 1337
    assert taken("train_feedforward", model="resnet18_trades") == 4 * 1337
    assert (taken("clean", model="deq_pretrain"), taken("select_early_state", model="deq_trades_base")) == (48, 100)
    assert taken("attack_grid", shard="states1-8_images20-47") == 28
    assert taken("autoattack", images="0-23") == 24
    assert (taken("time_training"), taken("attack_example", model="deq_pgd_at_base"), taken("table1")) == (8, 48, 0)
