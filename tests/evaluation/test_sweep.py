"""Sec. 3.2 with other T_f and R (Table 5)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe import build
from deqpipe.config import EntropyConfig
from deqpipe.defence.entropy import build_entropy_reduction
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.evaluation.stages import sweep
from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.results import records
from deqpipe.results.records import Records
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import gridpoints
from deqpipe.workflow.defences import restarts_alone
from deqpipe.workflow.gridpoints import EntropySetting, GridPoint
from tests import tiny
from tests.evaluation.commands import OTHER, RANDOM, OnePiece, assert_same_rows, call, grid, in_order, race, strongest
from tests.sampling import one_in
from tests.tiny import Trained

READINGS = ("predicted", "margin", "entropy")
GRID: dict[str, Any] = {
    "attack": {"transfer": False, "grid": {"states": [3], "steps": [1], "damping": [0.5, 1.0]}},
    "entropy": {"controls": True},
    "entropy_sweep": {"solver_steps": [1, 2, 4, 8], "input_steps": [1, 2]},
}
FEW: dict[str, Any] = {**GRID, "entropy_sweep": {**GRID["entropy_sweep"], "points": 2}}
RACING: dict[str, Any] = {"racing": {"enabled": True, "images": 5, "confidence": 0.99}}


def line(trained: Trained, folder: Path, *options: object, images: str = "0-11", **changes: Any) -> list[str]:
    state = ("--images", images, "--state", folder / "state")
    return call(trained, "attack-sweep", folder / "sweep.parquet", *state, *options, model=RANDOM, **changes)


@pytest.fixture(scope="module")
def swept(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Records:
    folder = tmp_path_factory.mktemp("sweep")
    assert tiny.run(*line(trained, folder, **GRID)) == 0
    return records.read(folder / "sweep.parquet")


@pytest.fixture(scope="module")
def gridded(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Records:
    folder = tmp_path_factory.mktemp("grid")
    assert tiny.run(*grid(trained, folder, model=RANDOM, **GRID)) == 0
    return records.read(folder / "grid.parquet")


def of(found: Records, defence: str) -> Any:
    return in_order(found.where(found["defence"] == defence))


def loaded(trained: Trained, **changes: Any) -> EvaluatedModel:
    spec = json.loads(tiny.spec("attack_sweep", {**GRID, **changes}, model=RANDOM))
    return load_evaluated_model(
        EvaluationJob(spec, trained.data, trained.file(RANDOM), Path(), torch.device("cpu"), 1, batch_size=5)
    )


def test_every_setting_is_scored_on_every_point_of_the_grid(swept: Records) -> None:
    settings = gridpoints.entropy_settings(tiny.settings(GRID))
    assert len(settings) == 4 * 4
    assert set(swept["defence"]) == {setting.defence for setting in settings}
    assert len(swept) == 16 * 3 * tiny.TEST
    assert set(swept["model"]) == set(swept["crafted_on"]) == {RANDOM}
    assert set(swept["attack"]) == {"pgd"}
    assert np.isnan(swept["deviation"]).all()


def test_images_are_those_of_the_grid_and_the_configs_own_setting_decides_as_there(
    swept: Records, gridded: Records
) -> None:
    own, known = of(swept, "entropy_every2_steps2"), of(gridded, "entropy")
    for name in ("image", "state", "steps", "damping", "perturbation", "lost_gradient", "status"):
        np.testing.assert_array_equal(own[name], known[name], err_msg=name)
    for name in READINGS:
        np.testing.assert_array_equal(own[name][:, :-1], known[name][:, :-1], err_msg=name)


def test_what_table_5_does_not_read_is_not_computed(swept: Records) -> None:
    """The final state, and how far any state is from a fixed point."""
    assert (swept["predicted"][:, -1] == records.NOT_COMPUTED).all()
    assert (swept["predicted"][:, :-1] >= 0).all()
    assert np.isnan(swept["margin"][:, -1]).all()
    assert np.isnan(swept["residual"]).all()


def test_without_descent_steps_or_updates_the_undefended_decision_is_left(swept: Records, gridded: Records) -> None:
    """T_f = 8 is longer than the solve, and in the authors' code T_f = 4 leaves a single round of it."""
    plain = of(gridded, "plain")
    same = [f"entropy_every{every}_steps0" for every in (1, 2, 4, 8)]
    same += ["entropy_every8_steps1", "entropy_every8_steps2", "restart_only_every4", "restart_only_every8"]
    for defence in same:
        for name in READINGS:
            np.testing.assert_array_equal(of(swept, defence)[name][:, :-1], plain[name][:, :-1], err_msg=defence)
        np.testing.assert_array_equal(of(swept, defence)["status"], plain["status"], err_msg=defence)
    for defence in ("entropy_every1_steps1", "entropy_every4_steps1", "restart_only_every1"):
        assert (of(swept, defence)["margin"] != plain["margin"])[:, :-1].any()
    restarted, known = of(swept, "restart_only_every2"), of(gridded, "entropy_restart_only")
    np.testing.assert_array_equal(restarted["margin"][:, :-1], known["margin"][:, :-1])


@pytest.mark.parametrize("protocol", ["paper", "release"])
@pytest.mark.parametrize(
    "setting", one_in(4, gridpoints.entropy_settings(tiny.settings(GRID))), ids=lambda setting: setting.defence
)
def test_what_is_left_out_changes_nothing(trained: Trained, protocol: str, setting: EntropySetting) -> None:
    """The defence written out, with every restart and update, has the states of what is computed instead."""
    evaluated = loaded(trained, protocol=protocol)
    judge = next(one for one in sweep.judges(evaluated) if one.defence == setting.defence)
    change = {"solver_steps": setting.solver_steps, "input_steps": setting.input_steps}
    entropy = evaluated.settings.section("entropy", EntropyConfig).model_copy(update=change)
    if setting.restart_only:
        entropy = restarts_alone(entropy, 4)
    plain, ball = build.plain_dynamics(evaluated.settings), LinfBall(20 / 255)
    written_out = build_entropy_reduction(
        entropy, solver=plain.solver, termination=plain.termination, ball=ball, returned=plain.returned
    )
    x = evaluated.dataset.test.float_images(slice(0, 5))
    one, other = judge.dynamics(judge.model, x), written_out(judge.model, x)
    assert torch.equal(one.solution.states, other.solution.states)
    assert torch.equal(one.solution.residuals, other.solution.residuals)
    assert torch.equal(one.solution.status, other.solution.status)
    assert torch.equal(one.final_state(judge.unroll), other.final_state(judge.unroll))


def test_equal_decisions_are_solved_once(trained: Trained, swept: Records) -> None:
    """R = 0 with four T_f, T_f = 8 with three R, and the restarts of a single round are one solve."""
    behaviours = [judge.behaviour for judge in sweep.judges(loaded(trained))]
    assert len(behaviours) == 16
    assert len(set(behaviours)) == 16 - 7
    (origin,) = swept.provenance
    assert origin["evaluations"]["forward"] > 0
    evaluated = loaded(trained)
    plain = build.plain_dynamics(evaluated.settings)
    entropy = evaluated.settings.section("entropy", EntropyConfig)
    assert build.entropy_dynamics(evaluated.settings, entropy.model_copy(update={"input_steps": 0})) == plain
    assert build.entropy_dynamics(evaluated.settings, entropy) != plain


def test_a_number_of_points_takes_the_strongest(trained: Trained, tmp_path: Path, swept: Records) -> None:
    ranked = strongest(tmp_path, [GridPoint(1.0, 3, 1), GridPoint(0.5, 4, 2), GridPoint(0.5, 3, 1)])
    assert tiny.run(*line(trained, tmp_path, "--strongest", ranked, **FEW)) == 0
    found = records.read(tmp_path / "sweep.parquet")
    asked = (swept["damping"] == 1) | (swept["state"] == 4)
    assert_same_rows(found, swept.where(asked), exact=True)


def test_behind_a_race_only_the_points_left_are_scored(trained: Trained, tmp_path: Path, swept: Records) -> None:
    left = race(tmp_path, ["state4_steps2_damping0.5"], stage="race_sweep")
    assert tiny.run(*line(trained, tmp_path, "--race", left, images="5-11", **GRID, **RACING)) == 0
    same = (swept["state"] == 4) & (swept["image"] >= 5)
    assert_same_rows(records.read(tmp_path / "sweep.parquet"), swept.where(same), exact=True)


@pytest.mark.slow
def test_a_sweep_goes_on_behind_its_finished_points(
    trained: Trained, tmp_path: Path, swept: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deqpipe.evaluation.resumable.StopRequest", OnePiece)
    assert [tiny.run(*line(trained, tmp_path, **GRID)) for _ in range(3)] == [EXIT_UNFINISHED, EXIT_UNFINISHED, 0]
    assert_same_rows(records.read(tmp_path / "sweep.parquet"), swept, exact=True)


def test_a_missing_foreign_or_useless_ranking_and_an_unknown_point_are_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [GridPoint(1.0, 3, 1), GridPoint(0.5, 4, 2)]
    wrong: list[tuple[tuple[object, ...], dict[str, Any], str]] = [
        ((), FEW, "--strongest is missing"),
        (("--strongest", strongest(tmp_path, points)), GRID, "but the spec has entropy_sweep.points all"),
        (
            ("--race", race(tmp_path, ["state1_steps1_damping1.0"], stage="race_sweep")),
            {**GRID, **RACING},
            "which is none of the 3",
        ),
    ]
    for options, changes, message in wrong:
        assert tiny.run(*line(trained, tmp_path, *options, images="5-11", **changes)) == 2
        assert message in capsys.readouterr().err
    of_grid = race(tmp_path, ["state4_steps2_damping0.5"])
    assert tiny.run(*line(trained, tmp_path, "--race", of_grid, images="5-11", **GRID, **RACING)) == 2
    assert (
        f"is of stage race, {RANDOM} of seed 0, but must be of stage race_sweep, {RANDOM} of seed 0"
        in capsys.readouterr().err
    )
    foreign = strongest(tmp_path, points, model=OTHER)
    assert tiny.run(*line(trained, tmp_path, "--strongest", foreign, **FEW)) == 2
    assert (
        f"strongest, {OTHER} of seed 0, but must be of stage strongest, {RANDOM} of seed 0" in capsys.readouterr().err
    )
    assert not (tmp_path / "sweep.parquet").exists()
