"""What runs again after a change: exactly what depends on it."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace

import pytest

from deqpipe.workflow.stages import PRODUCTS, STAGES
from tests.workflow.conftest import DEMO, Workspace

TABLES = dict.fromkeys((f"table{number}" for number in range(1, 12)), 1)
FIGURES = dict.fromkeys((f"figure{number}" for number in (2, 3, 4, 5, 7, 8)), 1)
REPORTING = {**TABLES, **FIGURES, "report": 1}
CHANGED_CONFIG = {"write_config": 1, **REPORTING}  # tables and figures state the conditions they were made under
RANKED = {"strongest": 4, "autoattack": 8, "attack_top": 1, "attack_in_loop": 2, "attack_sweep": 1, "attack_example": 1}
"""Where the strongest points of the grids are attacked again."""
GRID = {"attack_grid": 4, **RANKED}
SUITE = {"attack_suite": 14, "attack_radius": 10, "attack_transferred": 6}
"""Its images are judged on the decisions of all models."""
SUITE_OF_DEQS = {**SUITE, "attack_suite": 12, "attack_radius": 8}
EVALUATED_DEQS = {"select_early_state": 4, "clean": 4, **GRID, **SUITE_OF_DEQS, "time_inference": 1}
TRADES_AGAIN = {"attack_grid": 2, "strongest": 2, "autoattack": 4, "attack_top": 1, "attack_in_loop": 2,
                "attack_sweep": 1}  # fmt: skip
TRAINED = {"train_deq": 4, "time_training": 1}
EVERYTHING = {**EVALUATED_DEQS, "train_feedforward": 2, "clean": 7, "attack_pgd": 3, "autoattack": 10, **SUITE}
FEEDFORWARD = {"train_feedforward": 2, "clean": 2, "attack_pgd": 2, "autoattack": 2, **SUITE, "attack_suite": 2,
               "attack_radius": 2}  # fmt: skip


def test_a_finished_run_has_nothing_to_do(finished: Workspace) -> None:
    assert "Nothing to be done" in finished.dry_run(*DEMO)


ONE_OF_EACH_KIND = (
    "device",
    "training.learning_rate",
    "statistics.resamples",
    "attack.images_per_job",
    "random_state.natural",
    "seeds",
)
"""What `make test` looks at; tests/workflow/test_specs.py asks every key which stages depend on it."""

CHANGES: tuple[tuple[Mapping[str, object], Mapping[str, int]], ...] = (
    # how and where it is computed
    ({"device": "cpu"}, {}),
    ({"evaluation.batch_size": 7}, {}),
    ({"pathvars.state": "elsewhere", "pathvars.logs": "other logs"}, {}),
    # the same value written in another way
    ({"threat_model.epsilon_255": 38.0, "training.learning_rate": 0.004}, {}),
    # reporting
    ({"statistics.resamples": 2000}, CHANGED_CONFIG),
    # evaluation
    ({"attack.grid.steps": [1, 3, 5, 7]}, {**GRID, **CHANGED_CONFIG}),
    ({"attack.grid.states": [1, 3, 5, 7]}, {**GRID, **CHANGED_CONFIG}),
    (
        {"attack.images_per_job": 24},
        # the ranking is made again, and is the same by its spec: what is attacked at its points stays
        {name: jobs for name, jobs in GRID.items() if name not in ("autoattack", "attack_top")}
        | {"attack_grid": 8, "attack_in_loop": 4, "attack_sweep": 2, **CHANGED_CONFIG},
    ),
    ({"evaluation.images": 40}, {**GRID, "clean": 7, "attack_pgd": 3, "autoattack": 10, **CHANGED_CONFIG}),
    ({"entropy.input_steps": 5}, {**EVALUATED_DEQS, **CHANGED_CONFIG}),
    ({"entropy.controls": False}, {"clean": 4, **GRID, **CHANGED_CONFIG}),
    # and two controls of each DEQ, which are undefended or R = 0 otherwise
    ({"entropy.resolve": "quasi_newton"}, {**EVALUATED_DEQS, "attack_suite": 12 + 2 * 4, **CHANGED_CONFIG}),
    ({"attack.pgd.steps": 9}, {**GRID, "attack_pgd": 3, **CHANGED_CONFIG}),
    ({"attack.transfer": False}, {**TRADES_AGAIN, **CHANGED_CONFIG}),
    ({"autoattack.queries": 9}, {"autoattack": 10, "attack_top": 1, **CHANGED_CONFIG}),
    ({"entropy_sweep.input_steps": [1, 2]}, {"attack_sweep": 1, "time_inference": 1, **CHANGED_CONFIG}),
    ({"timing.repeats": 4}, {"time_training": 1, "time_inference": 1, **CHANGED_CONFIG}),
    ({"figures.jacobian": True}, {"train_deq": 2, "figure6": 1, **CHANGED_CONFIG}),
    (
        {"early_state.mode": "fixed", "early_state.index": 8},
        {"select_early_state": 4, **RANKED, **SUITE_OF_DEQS, **CHANGED_CONFIG},
    ),
    # training
    (
        {"random_state.natural": "shared"},
        {"train_deq": 1, "select_early_state": 1, "clean": 1, **TRADES_AGAIN}  # TRADES alone
        | {
            "attack_suite": 3,
            "attack_radius": 2,
            "attack_transferred": 6,
            "time_training": 1,
            "time_inference": 1,
            **CHANGED_CONFIG,
        },
    ),
    (
        {"jacobian.weight.trades": 0.5},
        {"train_deq": 2, "select_early_state": 2, "clean": 2, **TRADES_AGAIN}
        | {"attack_suite": 6, "attack_radius": 4, "attack_transferred": 6}
        | {"time_training": 1, "time_inference": 1, **CHANGED_CONFIG},
    ),
    ({"resnet.training.epochs": 5}, {**FEEDFORWARD, **CHANGED_CONFIG}),
    ({"jacobian.other_weight.trades": 3.0}, CHANGED_CONFIG),
    (
        {"training.epochs": 12},
        {"pretrain": 1, **TRAINED, **EVALUATED_DEQS, "clean": 5, "attack_pgd": 1, **CHANGED_CONFIG},
    ),
    (
        {"solver.scope": "batch"},
        # jobs of the suite take whole batches: those of the ResNets too have other images
        {**TRAINED, **EVALUATED_DEQS, "attack_suite": 14, "clean": 5, "attack_pgd": 1, **CHANGED_CONFIG},
    ),
    (
        {"selection.freeze_fooled": True},
        {**TRAINED, **EVALUATED_DEQS, **FEEDFORWARD, "clean": 6, "autoattack": 10, **SUITE, **CHANGED_CONFIG},
    ),
    (
        {"protocol": "release"},
        {"pretrain": 1, **TRAINED, **EVERYTHING, "attack_suite": 14 + 2 * 4, **CHANGED_CONFIG},
    ),
    (
        {"seeds": [0, 1]},  # speed is measured, and the example shown, of the first
        {name: jobs for name, jobs in EVERYTHING.items() if name not in ("time_inference", "attack_example")}
        | {"pretrain": 1, "train_deq": 4, "attack_suite": 14, "attack_radius": 10, "attack_transferred": 12}
        | CHANGED_CONFIG,
    ),
    # everything
    (
        {"data.validation": 120},
        {"prepare_data": 1, "pretrain": 1, **TRAINED, **EVERYTHING, **CHANGED_CONFIG},
    ),
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(*change, marks=() if set(change[0]) & set(ONE_OF_EACH_KIND) else pytest.mark.slow)
        for change in CHANGES
    ],
    ids=lambda value: next(iter(value), "nothing") if isinstance(value, dict) else None,
)
def test_a_changed_key_runs_again_what_depends_on_it(
    finished: Workspace, settings: Mapping[str, object], expected: Mapping[str, int], request: pytest.FixtureRequest
) -> None:
    overlay = finished.overlay(settings, name=f"overlay{abs(hash(request.node.name))}.yaml")
    assert finished.plan(*DEMO, overlay) == expected


@pytest.mark.slow
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


WITHOUT_HISTORIES = {name: 1 for name in REPORTING if name not in ("figure4", "figure6", "table9", "table10")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("select", {"select_early_state": 4, **RANKED, **SUITE_OF_DEQS, **WITHOUT_HISTORIES}),
        ("attack_grid", {**GRID, **{name: 1 for name in WITHOUT_HISTORIES if name != "figure7"}}),
        (
            "strongest",
            {name: jobs for name, jobs in RANKED.items() if name != "attack_example"}
            | {"table1": 1, "table3": 1, "table4": 1, "table5": 1, "table11": 1, "report": 1},
        ),
        ("autoattack", {"autoattack": 10, "table1": 1, "table11": 1, "report": 1}),
        ("attack_top", {"attack_top": 1, "table4": 1, "report": 1}),
        ("attack_in_loop", {"attack_in_loop": 2, "table3": 1, "report": 1}),
        ("attack_sweep", {"attack_sweep": 1, "table5": 1, "report": 1}),
        ("attack_example", {"attack_example": 1, "figure2": 1, "report": 1}),
        ("time_training", {"time_training": 1, "table9": 1, "report": 1}),
        ("time_inference", {"time_inference": 1, "table10": 1, "report": 1}),
        ("race", {}),
        (
            "clean",
            {"clean": 7, "attack_example": 1, "table1": 1, "table6": 1, "table7": 1, "table11": 1}
            | {"figure2": 1, "figure8": 1, "report": 1},
        ),
        ("table", {**TABLES, "report": 1}),
        ("figure", {**FIGURES, "report": 1}),
        ("report", {"report": 1}),
        (
            "train_feedforward",
            {**FEEDFORWARD, "table1": 1, "table11": 1, "figure7": 1, "figure8": 1, "report": 1},
        ),
    ],
)
def test_a_raised_revision_runs_its_stage_and_those_below_again(
    finished: Workspace, monkeypatch: pytest.MonkeyPatch, stage: str, expected: Mapping[str, int]
) -> None:
    if stage in PRODUCTS:
        monkeypatch.setitem(PRODUCTS, stage, replace(PRODUCTS[stage], revision=99))
    else:
        monkeypatch.setitem(STAGES, stage, replace(STAGES[stage], revision=99))
    assert finished.plan(*DEMO) == expected


def test_cosmetic_edits_run_nothing_again(finished_copy: Workspace) -> None:
    for file, old, new in (
        ("rules/train.smk", "deqpipe train-deq --spec", "deqpipe train-deq  --spec"),
        ("rules/train.smk", "Adversarial training of a DEQ", "Adversarial training, of a DEQ"),
        ("rules/train.smk", "rule train_deq:", "# A comment.\nrule train_deq:"),
        ("rules/train.smk", "threads: THREADS", "threads: 2"),
        ("config.yaml", "  steps: 8    ", "  steps:   8"),
    ):
        path = finished_copy.folder / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    assert finished_copy.plan(*DEMO) == {}


@pytest.mark.slow
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


def without_memory(workspace: Workspace) -> Workspace:
    """The same files where Snakemake remembers nothing, all written at other times than they were."""
    shutil.rmtree(workspace.folder / ".snakemake")
    files = [path for path in sorted((workspace.folder / "results").rglob("*")) if path.is_file()]
    for number, path in enumerate(files):
        written = 1_700_000_000 + 7919 * number % 1009
        os.utime(path, (written, written))
    return workspace


def test_what_lies_there_counts_and_not_what_snakemake_remembers(finished_copy: Workspace) -> None:
    copied = without_memory(finished_copy)
    assert copied.plan(*DEMO) == {}
    weaker = copied.overlay({"attack.pgd.steps": 9})
    assert copied.plan(*DEMO, weaker) == {**GRID, "attack_pgd": 3, **CHANGED_CONFIG}
    fewer = copied.overlay({"statistics.resamples": 2000})
    assert copied.plan(*DEMO, fewer) == CHANGED_CONFIG


@pytest.mark.slow
def test_older_files_that_were_put_back_are_not_taken_for_current_ones(finished_copy: Workspace) -> None:
    kept, attacked = finished_copy.folder / "kept", finished_copy.folder / "results/demo/attacks/pgd"
    shutil.copytree(attacked, kept)
    weaker = (*DEMO, finished_copy.overlay({"attack.pgd.steps": 9}))
    target = "results/demo/attacks/pgd/resnet18_trades/seed0.parquet"
    assert finished_copy.run(target, *weaker, "--cores", "1").returncode == 0
    assert finished_copy.plan(target, *weaker) == {}
    shutil.rmtree(attacked)
    shutil.copytree(kept, attacked)
    assert finished_copy.plan(target, *weaker) == {"attack_pgd": 1}


@pytest.mark.parametrize("content", [b"", b"of somebody else"])
def test_a_file_that_says_nothing_of_its_job_is_made_again(finished_copy: Workspace, content: bytes) -> None:
    (finished_copy.folder / "results/demo/select/deq_pgd_at_base/seed0.json").write_bytes(content)
    planned = finished_copy.plan("results/demo/tables/table2.csv", *DEMO)
    assert planned == {"select_early_state": 1, "table2": 1}
