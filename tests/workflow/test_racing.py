"""With racing, jobs for later images wait for the race of the earlier ones; without it, nothing races."""

import re
from collections.abc import Mapping

import pytest

from tests.workflow.conftest import Workspace, job_counts

RACING = {"racing.enabled": True, "racing.images": 24, "racing.confidence": 0.99}
TRADES, PGD_AT = "deq_trades_base", "deq_pgd_at_base"


def plan(workspace: Workspace, settings: Mapping[str, object], *targets: str) -> str:
    overlay = workspace.overlay(settings)
    return workspace.dry_run(*targets, "--configfile", "config/demo.yaml", overlay, "--printshellcmds")


def inputs(printed: str, output: str) -> set[str]:
    """The inputs of the job with this output."""
    for block in printed.split("\nrule ")[1:]:
        found = re.search(r"\n    input: (.*)\n    output: (.*)\n", block)
        if found and output in found[2].split(", "):
            return set(found[1].split(", "))
    raise AssertionError(f"no job makes {output}")


def shard(model: str, images: str) -> str:
    return f"results/demo/attacks/grid/{model}/seed0/states1-8_images{images}.parquet"


def race(model: str, of: str = "grid") -> str:
    return f"results/demo/race/{of}/{model}/seed0.json"


def select(model: str) -> str:
    return f"results/demo/select/{model}/seed0.json"


def test_grid_jobs_are_split_at_the_race_and_those_behind_it_wait(workspace: Workspace) -> None:
    printed = plan(workspace, RACING, "table2")
    assert job_counts(printed)["attack_grid"] == 8
    assert job_counts(printed)["race"] == 4
    assert race(TRADES) in inputs(printed, shard(TRADES, "24-47"))
    assert race(TRADES) not in inputs(printed, shard(TRADES, "0-23"))
    assert printed.count(f"--race {race(TRADES)}") == 1


def test_a_race_needs_the_first_images_and_the_early_states_of_every_decision(workspace: Workspace) -> None:
    printed = plan(workspace, RACING, "table2")
    other = "deq_trades_random_states"
    expected = {shard(TRADES, "0-23"), select(TRADES), select(other)}
    assert inputs(printed, race(TRADES)) == expected
    assert inputs(printed, race(PGD_AT)) == {shard(PGD_AT, "0-23"), select(PGD_AT)}
    printed = plan(workspace, {**RACING, "attack.transfer": False}, "table2")
    assert inputs(printed, race(TRADES)) == expected - {select(other)}


@pytest.mark.slow
def test_tables_and_rankings_are_made_from_races_as_well(workspace: Workspace) -> None:
    printed = plan(workspace, RACING)
    for output in ("results/demo/tables/table2.csv", "results/demo/figures/figure3.png"):
        assert race(TRADES) in inputs(printed, output)
    assert race(TRADES) in inputs(printed, f"results/demo/strongest/{TRADES}/seed0.json")


@pytest.mark.slow
def test_the_sweep_races_where_it_takes_the_whole_grid(workspace: Workspace) -> None:
    model = "deq_trades_random_states"
    sweep = "results/demo/attacks/sweep/deq_trades_random_states/seed0/images{}.parquet"
    printed = plan(workspace, {**RACING, "entropy_sweep.points": "all"}, "table5")
    assert job_counts(printed)["race_sweep"] == 1
    assert race(model, "sweep") in inputs(printed, sweep.format("24-47"))
    assert race(model, "sweep") not in inputs(printed, sweep.format("0-23"))
    assert race(model, "sweep") in inputs(printed, "results/demo/tables/table5.csv")
    assert inputs(printed, race(model, "sweep")) == {sweep.format("0-23"), select(model)}
    few = plan(workspace, RACING, "table5")
    assert "race_sweep" not in job_counts(few)
    assert race(model, "sweep") not in inputs(few, sweep.format("24-47"))


@pytest.mark.parametrize(
    "settings",
    [{}, {"racing.enabled": True, "racing.images": 1000, "racing.confidence": 0.99}],
    ids=["off", "race over all images"],
)
def test_nothing_races_where_all_images_face_every_attack(workspace: Workspace, settings: Mapping[str, object]) -> None:
    printed = plan(workspace, {"entropy_sweep.points": "all", **settings})
    assert not {"race", "race_sweep"} & job_counts(printed).keys()
    assert job_counts(printed)["attack_grid"] == 4
    assert "--race" not in printed
