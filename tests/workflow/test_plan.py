"""What the workflow would run before anything has been run."""

import pytest

from tests.sampling import one_in
from tests.workflow.conftest import DEMO, Workspace, job_counts

MODELS = {"pretrain": 1, "train_deq": 4, "train_feedforward": 2}
REPORTING = (*(f"table{n}" for n in range(1, 12)), *(f"figure{n}" for n in (2, 3, 4, 5, 7, 8)), "report")
ONCE = ("prepare_data", "write_config", "time_training", "time_inference", "attack_example", *REPORTING)
ATTACKS = {"clean": 7, "attack_grid": 4, "attack_pgd": 3, "strongest": 4, "autoattack": 10, "attack_top": 1,
           "attack_in_loop": 2, "attack_sweep": 1, "attack_suite": 14, "attack_transferred": 6, "attack_radius": 10,
}  # fmt: skip
"""Of the demo."""


FULL = {
    **dict.fromkeys(ONCE, 1), **MODELS, "select_early_state": 4, "strongest": 4,
    "clean": 7, "attack_grid": 44, "attack_pgd": 3, "autoattack": 100, "attack_top": 10, "attack_in_loop": 22,
    "attack_sweep": 11, "attack_suite": 72, "attack_transferred": 24, "attack_radius": 10,
}  # fmt: skip
"""10,000 test images in eleven chunks of up to 960 for four DEQs, each with 144 points; ten of 1,000 for AutoAttack."""


def test_the_full_reproduction_has_these_jobs(workspace: Workspace) -> None:
    assert workspace.plan() == FULL


def test_the_authors_protocol_has_the_same_jobs(workspace: Workspace) -> None:
    """Its batches of 96 fill every chunk but the last. Of Sec. 3.2 it has two controls more that the suite attacks."""
    release = workspace.overlay({"protocol": "release"})
    printed = workspace.dry_run("--configfile", release, "--printshellcmds")
    assert job_counts(printed) == {**FULL, "attack_suite": FULL["attack_suite"] + 2 * 4 * 4}
    assert "--images 8640-9599 --batch-size 96 " in printed
    assert "--images 9600-9999 --batch-size 96 " in printed


def test_the_demo_has_one_grid_job_per_deq(workspace: Workspace) -> None:
    expected = {**dict.fromkeys(ONCE, 1), **MODELS, "select_early_state": 4, **ATTACKS}
    assert workspace.plan(*DEMO) == expected
    figure6 = {"train_deq": 6, "figure6": 1}
    assert workspace.plan(*DEMO, workspace.overlay({"figures.jacobian": True})) == expected | figure6


PERTURBED = {
    "weight_perturbation.enabled": True, "weight_perturbation.size.pgd_at": 0.01,
    "weight_perturbation.size.trades": 0.005, "weight_perturbation.warmup_epochs": 0,
}  # fmt: skip


@pytest.mark.slow
def test_weight_perturbation_adds_six_models_to_what_tables_1_and_11_need(workspace: Workspace) -> None:
    expected = {
        **dict.fromkeys(ONCE, 1), **MODELS, **ATTACKS, "train_deq": 4 + 4, "train_feedforward": 4,
        "select_early_state": 8, "clean": 13, "attack_grid": 8, "attack_pgd": 5, "strongest": 8,
        "autoattack": 10 + 4 * 2 + 2, "attack_suite": 2 * 14, "attack_radius": 2 * 10, "attack_transferred": 2 * 6,
    }  # fmt: skip
    overlay = workspace.overlay(PERTURBED)
    printed = workspace.dry_run(*DEMO, overlay)
    assert job_counts(printed) == expected
    assert "output: results/demo/models/deq_trades_awp_random_states/seed0/best.safetensors" in printed


@pytest.mark.slow
def test_models_with_perturbed_weights_are_no_target_of_a_run_without_them(workspace: Workspace) -> None:
    target = "results/demo/models/deq_trades_awp/seed0/best.safetensors"
    workspace.dry_run(target, *DEMO, workspace.overlay(PERTURBED))
    assert "MissingRuleException" in workspace.dry_run(target, *DEMO, status=1)


DECIDED = {"write_config": 1, "pretrain": 1, "train_deq": 4, "select_early_state": 4, "attack_grid": 4}
"""What the grid's accuracies of all four DEQs need."""
TRADES = {**DECIDED, "train_deq": 2, "select_early_state": 2, "attack_grid": 2}
"""Images of a TRADES DEQ are scored on the other one, too."""
RANKED = {**TRADES, "select_early_state": 1, "attack_grid": 1, "strongest": 1}
"""The strongest points of TRADES with random states."""
TABLES = {
    1: {**DECIDED, **MODELS, "clean": 7, "attack_pgd": 3, "strongest": 4, "autoattack": 10},
    2: DECIDED,
    3: {**TRADES, "strongest": 2, "attack_in_loop": 2},
    4: {**RANKED, "attack_top": 1},
    5: {**RANKED, "attack_sweep": 1},
    6: {**DECIDED, "clean": 4},
    7: {**DECIDED, "clean": 4},
    8: {**TRADES, "select_early_state": 1, "attack_grid": 1},
    9: {"write_config": 1, "pretrain": 1, "time_training": 1},
    10: {"write_config": 1, "pretrain": 1, "train_deq": 1, "time_inference": 1},
    11: {
        **DECIDED,
        "train_feedforward": 2,
        "clean": 6,
        "attack_pgd": 2,
        "strongest": 4,
        "autoattack": 10,
        "attack_suite": 14,
        "attack_transferred": 6,
        "attack_radius": 10,
    },
}


@pytest.mark.parametrize("number", one_in(3, TABLES))
def test_a_single_table_runs_what_it_needs_and_nothing_else(workspace: Workspace, number: int) -> None:
    plan = workspace.plan(f"results/demo/tables/table{number}.csv", *DEMO)
    assert plan == {"prepare_data": 1, f"table{number}": 1, **TABLES[number]}


def test_the_whole_sweep_needs_no_ranking(workspace: Workspace) -> None:
    plan = workspace.plan("table5", *DEMO, workspace.overlay({"entropy_sweep.points": "all"}))
    assert "strongest" not in plan
    assert "attack_grid" not in plan


@pytest.mark.parametrize(
    ("target", "expected"),
    one_in(
        3,
        [
            (
                "figure2",
                {
                    **DECIDED,
                    "train_deq": 1,
                    "select_early_state": 1,
                    "attack_grid": 1,
                    "clean": 1,
                    "attack_example": 1,
                    "figure2": 1,
                },
            ),
            ("figure3", {**TRADES, "figure3": 1}),
            ("figure6", {"write_config": 1, "pretrain": 1, "train_deq": 4, "figure6": 1}),
            ("results/demo/figures/figure4.png", {"pretrain": 1, "train_deq": 4, "figure4": 1, "write_config": 1}),
            ("train_all", MODELS),
            ("select_all", {"pretrain": 1, "train_deq": 4, "select_early_state": 4}),
            ("attack_all", {**MODELS, "select_early_state": 4, **ATTACKS}),
            ("results/demo/models/resnet18_trades/seed0/best.safetensors", {"train_feedforward": 1}),
            (
                "results/demo/attacks/points/deq_trades_base/seed0/state3_steps5_damping0.5_images0-9.parquet",
                {"pretrain": 1, "train_deq": 1, "attack_point": 1},
            ),
        ],
    ),
)
def test_a_single_target_runs_what_it_needs_and_nothing_else(
    workspace: Workspace, target: str, expected: dict[str, int]
) -> None:
    assert workspace.plan(target, *DEMO) == {"prepare_data": 1, **expected}


@pytest.mark.parametrize(
    "target",
    one_in(
        4,
        [
            "results/demo/models/deq_mart_base/seed0/best.safetensors",
            "results/demo/select/resnet18_trades/seed0.json",
            "results/demo/attacks/grid/deq_trades_base/seed0/states1-9_images0-47.parquet",
            "results/demo/attacks/clean/deq_trades_base/seed00.parquet",
            "results/demo/attacks/points/deq_trades_base/seed0/state9_steps5_damping0.5_images0-9.parquet",
            "results/demo/tables/table12.csv",
            "results/demo/attacks/autoattack/resnet18_trades/seed0/mart_images0-47.parquet",
            "results/demo/attacks/sweep/deq_trades_base/seed0/images0-47.parquet",
        ],
    ),
)
def test_names_outside_the_vocabularies_have_no_rule(workspace: Workspace, target: str) -> None:
    assert "MissingRuleException" in workspace.dry_run(target, *DEMO, status=1)


def test_two_seeds_share_the_data_and_nothing_else(workspace: Workspace) -> None:
    plan = workspace.plan("train_all", *DEMO, workspace.overlay({"seeds": [0, 3]}))
    assert plan == {"prepare_data": 1, "pretrain": 2, "train_deq": 8, "train_feedforward": 4}


TOGETHER = "results/demo/attacks/ensemble/deq_trades_base/images0-19.parquet"


@pytest.mark.slow
def test_what_all_seeds_decide_together_is_attacked_once_with_the_networks_of_all_of_them(workspace: Workspace) -> None:
    seeds = workspace.overlay({"seeds": [0, 3], "suite.static": True})
    printed = workspace.dry_run(TOGETHER, *DEMO, seeds, "--printshellcmds")
    assert job_counts(printed)["attack_ensemble"] == 1
    called = next(line for line in printed.splitlines() if "deqpipe attack-ensemble" in line)
    weights, states = (f"results/demo/{folder}/deq_trades_base/seed{{}}" for folder in ("models", "select"))
    for option, path in (("checkpoint", f"{weights}/best.safetensors"), ("select", f"{states}.json")):
        assert f"--{option} {path.format(0)} {path.format(3)} --" in called
    assert called.count("_images0-19.safetensors") == 2 * (4 * 4 + 2)


def test_with_one_seed_nothing_is_attacked_that_several_decide_together(workspace: Workspace) -> None:
    one = workspace.overlay({"suite.static": True})
    assert "MissingRuleException" in workspace.dry_run(TOGETHER, *DEMO, one, status=1)


def test_grid_jobs_cover_states_and_images_in_chunks(workspace: Workspace) -> None:
    sizes = {"attack.states_per_job": 3, "attack.images_per_job": 20}
    assert workspace.plan("attack_all", *DEMO, workspace.overlay(sizes))["attack_grid"] == 4 * 3 * 3


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cuda", 1)])
def test_only_jobs_that_compute_ask_for_a_gpu(workspace: Workspace, device: str, gpus: int) -> None:
    printed = workspace.dry_run(*DEMO, workspace.overlay({"device": device}))
    for job in printed.split("\nrule ")[1:]:
        rule, _, details = job.partition(":")
        light = {"strongest", "write_config", "prepare_data", "figure6", "all", *REPORTING}
        computes = rule.replace("localrule ", "") not in light
        assert (f"gpu={gpus}" in details.partition("\n\n")[0]) == computes, job


def test_cluster_jobs_ask_for_one_gpu_each_and_stop_before_their_time_is_up(workspace: Workspace) -> None:
    options = ("--dry-run", "--printshellcmds", "--profile", "profiles/slurm", *DEMO)
    result = workspace.run(*options)  # in this process Snakemake's cluster resources would leave warnings behind
    assert result.returncode == 0, result.stderr
    jobs = {job.partition(":")[0]: job for job in result.stdout.split("\nrule ")[1:]}
    assert "gpu=1" in jobs["train_deq"]
    assert "runtime=240" in jobs["train_deq"]
    assert "--device cuda" in jobs["train_deq"]
    assert "--time-budget-minutes 235" in jobs["train_deq"]
    assert "--time-budget-minutes 235" in jobs["attack_grid"]
    assert "gpu=" not in jobs["table1"]


def test_without_a_scheduler_there_is_no_time_budget(workspace: Workspace) -> None:
    assert "--time-budget-minutes" not in workspace.dry_run("--printshellcmds", *DEMO)
