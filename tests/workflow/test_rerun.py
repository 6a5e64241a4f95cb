"""What runs again after a change: exactly what depends on it."""

import os
from collections.abc import Mapping

import pytest

from deqpipe import specs
from tests.workflow.conftest import DEMO, Workspace

TABLES = dict.fromkeys(("table1", "table2", "table8"), 1)
FIGURES = dict.fromkeys(("figure3", "figure4", "figure5"), 1)
REPORTING = {**TABLES, **FIGURES, "report": 1}
CHANGED_CONFIG = {"write_config": 1, **REPORTING}  # tables and figures state the conditions they were made under
EVALUATED_DEQS = {"select_early_state": 4, "clean": 4, "attack_grid": 4}


def test_a_finished_run_has_nothing_to_do(finished: Workspace) -> None:
    assert "Nothing to be done" in finished.dry_run(*DEMO)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # how and where it is computed
        ({"device": "cpu"}, {}),
        ({"evaluation.batch_size": 7}, {}),
        ({"pathvars.state": "elsewhere", "pathvars.logs": "other logs"}, {}),
        ({"data.root": "unused/by/digits"}, {}),
        # the same value written in another way
        ({"threat_model.epsilon_255": 38.0, "training.learning_rate": 0.004}, {}),
        # reporting
        ({"statistics.resamples": 2000}, CHANGED_CONFIG),
        # evaluation
        ({"attack.grid.steps": [1, 3, 5, 7]}, {"attack_grid": 4, **CHANGED_CONFIG}),
        ({"attack.grid.states": [1, 3, 5, 7]}, {"attack_grid": 4, **CHANGED_CONFIG}),
        ({"attack.images_per_job": 24}, {"attack_grid": 8, **CHANGED_CONFIG}),
        ({"evaluation.images": 40}, {"clean": 7, "attack_grid": 4, "attack_pgd": 3, **CHANGED_CONFIG}),
        ({"entropy.input_steps": 5}, {**EVALUATED_DEQS, **CHANGED_CONFIG}),
        ({"entropy.controls": False}, {"clean": 4, "attack_grid": 4, **CHANGED_CONFIG}),
        ({"entropy.resolve": "quasi_newton"}, {**EVALUATED_DEQS, **CHANGED_CONFIG}),
        ({"attack.pgd.steps": 9}, {"attack_grid": 4, "attack_pgd": 3, **CHANGED_CONFIG}),
        # keys that another key makes meaningless
        ({"solver.anderson_memory": 7}, {}),
        ({"early_state.index": 3}, {}),
        ({"training.implicit_steps": 9}, {}),
        ({"early_state.mode": "fixed"}, {"select_early_state": 4, **CHANGED_CONFIG}),
        # training
        (
            {"random_state.natural": "shared"},
            {"train_deq": 1, "select_early_state": 1, "clean": 1, "attack_grid": 1, **CHANGED_CONFIG},  # TRADES alone
        ),
        (
            {"jacobian.weight.trades": 0.5},
            {"train_deq": 2, "select_early_state": 2, "clean": 2, "attack_grid": 2, **CHANGED_CONFIG},
        ),
        ({"resnet.training.epochs": 5}, {"train_resnet": 2, "clean": 2, "attack_pgd": 2, **CHANGED_CONFIG}),
        (
            {"training.epochs": 12},
            {"pretrain": 1, "train_deq": 4, **EVALUATED_DEQS, "clean": 5, "attack_pgd": 1, **CHANGED_CONFIG},
        ),
        (
            {"solver.scope": "batch"},
            {"train_deq": 4, **EVALUATED_DEQS, "clean": 5, "attack_pgd": 1, **CHANGED_CONFIG},
        ),
        (
            {"selection.freeze_fooled": True},
            {"train_deq": 4, "train_resnet": 2, **EVALUATED_DEQS, "clean": 6, "attack_pgd": 2, **CHANGED_CONFIG},
        ),
        (
            {"protocol": "release"},
            {"pretrain": 1, "train_deq": 4, "train_resnet": 2, **EVALUATED_DEQS, "clean": 7, "attack_pgd": 3}
            | CHANGED_CONFIG,
        ),
        (
            {"seeds": [0, 1]},
            {"pretrain": 1, "train_deq": 4, "train_resnet": 2, **EVALUATED_DEQS, "clean": 7, "attack_pgd": 3}
            | CHANGED_CONFIG,
        ),
        # everything
        (
            {"data.validation": 120},
            {"prepare_data": 1, "pretrain": 1, "train_deq": 4, "train_resnet": 2, **EVALUATED_DEQS}
            | {"clean": 7, "attack_pgd": 3, **CHANGED_CONFIG},
        ),
    ],
    ids=lambda value: next(iter(value), "nothing") if isinstance(value, dict) else None,
)
def test_a_changed_key_runs_again_what_depends_on_it(
    finished: Workspace, settings: Mapping[str, object], expected: Mapping[str, int], request: pytest.FixtureRequest
) -> None:
    overlay = finished.overlay(settings, name=f"overlay{abs(hash(request.node.name))}.yaml")
    assert finished.plan(*DEMO, overlay) == expected


def test_under_release_another_batch_size_evaluates_the_deqs_again(workspace: Workspace) -> None:
    targets = tuple(
        f"results/demo/{name}"
        for name in (
            "select/deq_trades_base/seed0.json",
            "attacks/clean/deq_trades_base/seed0.parquet",
            "attacks/clean/resnet18_trades/seed0.parquet",
            "attacks/grid/deq_trades_base/seed0/states1-8_images0-47.parquet",
            "attacks/pgd/deq_pretrain/seed0.parquet",
        )
    )
    release = workspace.overlay({"protocol": "release"}, name="release.yaml")
    result = workspace.run(*targets, *DEMO, release, "--cores", "2")
    assert result.returncode == 0, result.stderr
    assert workspace.plan(*targets, *DEMO, release) == {}
    smaller = workspace.overlay({"evaluation.batch_size": 16})
    again = {"select_early_state": 1, "clean": 1, "attack_grid": 1, "attack_pgd": 1}
    assert workspace.plan(*targets, *DEMO, release, smaller) == again
    assert workspace.plan(*targets, *DEMO, release, workspace.overlay({"attack.images_per_job": 96})) == {}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("select", {"select_early_state": 4, **{name: 1 for name in REPORTING if name != "figure4"}}),
        ("attack_grid", {"attack_grid": 4, **{name: 1 for name in REPORTING if name != "figure4"}}),
        ("clean", {"clean": 7, "table1": 1, "report": 1}),
        ("table", {**TABLES, "report": 1}),
        ("figure", {**FIGURES, "report": 1}),
        ("report", {"report": 1}),
        ("train_resnet", {"train_resnet": 2, "clean": 2, "attack_pgd": 2, "table1": 1, "report": 1}),
    ],
)
def test_a_raised_revision_runs_its_stage_and_those_below_again(
    finished: Workspace, monkeypatch: pytest.MonkeyPatch, stage: str, expected: Mapping[str, int]
) -> None:
    monkeypatch.setitem(specs.REVISION, stage, specs.REVISION[stage] + 1)
    assert finished.plan(*DEMO) == expected


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("rules/train.smk", "deqpipe train-deq --spec", "deqpipe train-deq  --spec"),
        ("rules/train.smk", "Adversarial training of a DEQ", "Adversarial training, of a DEQ"),
        ("rules/train.smk", "rule train_deq:", "# A comment.\nrule train_deq:"),
        ("rules/train.smk", "threads: THREADS", "threads: 2"),
        ("config.yaml", "  steps: 8    ", "  steps:   8"),
    ],
)
def test_a_cosmetic_edit_runs_nothing_again(finished_copy: Workspace, file: str, old: str, new: str) -> None:
    path = finished_copy.folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert finished_copy.plan(*DEMO) == {}


def test_other_threads_and_memory_run_nothing_again(finished: Workspace) -> None:
    resources = ("--set-threads", "train_deq=3", "--set-resources", "train_deq:mem_mb=9000", "train_deq:runtime=90")
    assert finished.plan(*DEMO, *resources) == {}


def test_a_deleted_shard_is_missed_only_when_something_needs_it(finished_copy: Workspace) -> None:
    shard = "results/demo/attacks/grid/deq_trades_base/seed0/states1-8_images0-47.parquet"
    (finished_copy.folder / shard).unlink()
    assert finished_copy.plan(*DEMO) == {}
    assert finished_copy.plan(shard, *DEMO) == {"attack_grid": 1}


def test_a_model_that_was_copied_but_is_the_same_runs_nothing_again(finished_copy: Workspace) -> None:
    os.utime(finished_copy.folder / "results/demo/models/deq_pretrain/seed0/handoff.safetensors")
    assert finished_copy.plan(*DEMO) == {}
