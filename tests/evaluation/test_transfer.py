"""Attacks on one TRADES DEQ that the other one decides about, and attacks through Sec. 3.2 (Table 3)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe import build
from deqpipe.attack.surrogate import defended_surrogate_of
from deqpipe.evaluation.evaluated_model import EvaluatedModel, EvaluationJob, load_evaluated_model
from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import records
from deqpipe.results.records import Records
from deqpipe.seeding import Stream
from deqpipe.workflow.gridpoints import GridPoint
from tests import tiny
from tests.evaluation.commands import (
    OTHER,
    RANDOM,
    OnePiece,
    assert_same_rows,
    call,
    grid,
    in_order,
    other_trades,
    race,
    strongest,
)
from tests.tiny import Trained

POINTS = [GridPoint(0.5, 3, 1), GridPoint(1.0, 1, 3), GridPoint(0.5, 4, 2), GridPoint(1.0, 3, 1)]
TRANSFER: dict[str, Any] = {
    "attack": {"transfer": True, "in_loop_points": 2, "grid": {"states": [3], "steps": [1], "damping": [1.0]}}
}
RACING: dict[str, Any] = {**TRANSFER, "racing": {"enabled": True, "images": 5, "confidence": 0.99}}


@pytest.fixture(scope="module")
def other(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_trades(trained, tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def transferred(trained: Trained, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Records:
    folder = tmp_path_factory.mktemp("transferred")
    assert tiny.run(*grid(trained, folder, model=RANDOM, **TRANSFER), "--other", other) == 0
    return records.read(folder / "grid.parquet")


def evaluated(trained: Trained, stage: str, *, model: str, checkpoint: Path, **changes: Any) -> EvaluatedModel:
    spec = json.loads(tiny.spec(stage, changes, model=model))
    return load_evaluated_model(
        EvaluationJob(spec, trained.data, checkpoint, Path("unused"), torch.device("cpu"), 1, batch_size=5)
    )


def crafted(attacked: EvaluatedModel, logits_of: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two steps of PGD on all test images, and their labels."""
    split = attacked.dataset.test
    x, y = split.float_images(slice(None)), split.labels
    noise = Stream(0, "attack/start").uniform(range(len(y)), (1, 8, 8))
    made = (x + (2 * noise - 1) * 20 / 255).clamp(0, 1)
    for _ in range(2):
        made = made.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(logits_of(made), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, made)
        made = (made + 10 / 255 * gradient.sign()).detach()
        made = torch.max(torch.min(made, x + 20 / 255), x - 20 / 255).clamp(0, 1)
    return made.detach(), y


def test_transferred_rows_are_the_other_models_own_judgement_of_the_same_images(
    trained: Trained, transferred: Records, other: Path
) -> None:
    attacked = evaluated(trained, "attack_grid", model=RANDOM, checkpoint=trained.file(RANDOM), **TRANSFER)
    deciding = evaluated(trained, "clean", model=OTHER, checkpoint=other)
    for point in (GridPoint(1.0, 3, 1), GridPoint(0.5, 4, 2)):
        made, y = crafted(attacked, attacked.logits_of(point))
        for judge in deciding.judges:
            mask = (transferred["model"] == OTHER) & (transferred["defence"] == judge.defence)
            rows = in_order(transferred.where(mask & (transferred["state"] == point.state)))
            expected = judge(made, y).columns
            for name in ("margin", "entropy", "residual"):
                np.testing.assert_allclose(rows[name], expected[name], rtol=1e-3, atol=1e-4)
            clear = np.abs(expected["margin"]) > 1e-3
            np.testing.assert_array_equal(rows["predicted"][clear], expected["predicted"][clear])
            assert np.isnan(rows["deviation"]).all()


def test_transfer_adds_rows_and_changes_none(trained: Trained, transferred: Records, tmp_path: Path) -> None:
    alone: dict[str, Any] = {"attack": {**TRANSFER["attack"], "transfer": False}}
    assert tiny.run(*grid(trained, tmp_path, model=RANDOM, **alone)) == 0
    own = transferred["model"] == RANDOM
    assert_same_rows(transferred.where(own), records.read(tmp_path / "grid.parquet"), exact=True)
    assert set(transferred["crafted_on"]) == {RANDOM}
    assert set(transferred["model"]) == {RANDOM, OTHER}
    assert len(transferred) == 2 * 4 * tiny.TEST
    assert (in_order(transferred.where(own))["margin"] != in_order(transferred.where(~own))["margin"]).any()


def test_provenance_names_both_models(trained: Trained, transferred: Records, other: Path) -> None:
    (origin,) = transferred.provenance
    assert origin["inputs"].keys() == {"data", "checkpoint", "other"}
    own = evaluated(trained, "clean", model=RANDOM, checkpoint=trained.file(RANDOM)).weights
    assert origin["weights"] == f"{own}-{evaluated(trained, 'clean', model=OTHER, checkpoint=other).weights}"


def test_points_scored_on_other_weights_are_not_taken_for_finished(
    trained: Trained, tmp_path: Path, other: Path
) -> None:
    line = grid(trained, tmp_path, model=RANDOM, states="4-4", images="0-1", **TRANSFER)
    margins = []
    for file in (other, other_trades(trained, tmp_path, noise=8)):
        assert tiny.run(*line, "--other", file) == 0
        margins.append(in_order(records.read(tmp_path / "grid.parquet"))["margin"])
    assert (margins[0] != margins[1]).any()
    assert len(list(tmp_path.glob("state/points/*"))) == 2


@pytest.mark.parametrize(
    ("model", "claims", "message"),
    [
        (RANDOM, None, f"--other is missing, but the spec transfers the attacks on {RANDOM} to {OTHER}"),
        (RANDOM, {"seed": 1}, f"is {OTHER} of seed 1, but the spec transfers to {OTHER} of seed 0"),
        (RANDOM, {"model": RANDOM}, f"is {RANDOM} of seed 0, but the spec transfers to {OTHER} of seed 0"),
        ("deq_pgd_at_base", {}, "but the spec transfers the attacks on deq_pgd_at_base nowhere"),
    ],
)
def test_a_wrong_or_missing_other_model_is_refused(
    trained: Trained, tmp_path: Path, model: str, claims: dict[str, Any] | None, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = () if claims is None else ("--other", other_trades(trained, tmp_path, **claims))
    assert tiny.run(*grid(trained, tmp_path, model=model, **TRANSFER), *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "grid.parquet").exists()


def in_loop(trained: Trained, folder: Path, *options: object, images: str = "0-11", **changes: Any) -> list[str]:
    state = ("--images", images, "--state", folder / "state")
    return call(trained, "attack-in-loop", folder / "loop.parquet", *state, *options, model=RANDOM, **changes)


def test_in_loop_attacks_follow_the_defended_states_and_are_scored_on_four_decisions(
    trained: Trained, tmp_path: Path, other: Path
) -> None:
    line = in_loop(trained, tmp_path, "--other", other, "--strongest", strongest(tmp_path, POINTS), **TRANSFER)
    assert tiny.run(*line) == 0
    found = records.read(tmp_path / "loop.parquet")
    asked = {(point.state, point.steps, point.damping) for point in POINTS[:2]}
    assert set(zip(*(found[name].tolist() for name in ("state", "steps", "damping")), strict=True)) == asked
    assert len(found) == 2 * 4 * tiny.TEST
    assert set(found["attack"]) == {"pgd_in_loop"}
    assert set(found["crafted_on"]) == {RANDOM}
    assert {(m, d) for m, d in zip(found["model"], found["defence"], strict=True)} == {
        (model, defence) for model in (RANDOM, OTHER) for defence in ("plain", "entropy")
    }
    attacked = evaluated(trained, "attack_grid", model=RANDOM, checkpoint=trained.file(RANDOM))
    dynamics = build.dynamics(attacked.settings, "entropy")
    surrogate = defended_surrogate_of(POINTS[0], dynamics=dynamics, lead_step=False)
    model = attacked.loaded.model
    assert isinstance(model, DEQClassifier)
    made, y = crafted(attacked, lambda x: surrogate(model, x))
    for judge in attacked.judges:
        mask = (found["state"] == 3) & (found["model"] == RANDOM) & (found["defence"] == judge.defence)
        expected, margin = judge(made, y).columns["margin"], in_order(found.where(mask))["margin"]
        np.testing.assert_allclose(margin[:, :-1], expected[:, :-1], rtol=1e-3, atol=1e-4)
        assert np.isnan(margin[:, -1]).all(), "no table reads the final state"
    blind, _ = crafted(attacked, attacked.logits_of(POINTS[0]))
    assert (blind != made).any()


@pytest.mark.slow
def test_an_in_loop_job_goes_on_behind_its_finished_points(
    trained: Trained, tmp_path: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--other", other, "--strongest", strongest(tmp_path, POINTS))
    line = in_loop(trained, tmp_path, *options, images="0-6", **TRANSFER)
    with monkeypatch.context() as patched:
        patched.setattr("deqpipe.evaluation.resumable.StopRequest", OnePiece)
        assert [tiny.run(*line) for _ in range(2)] == [EXIT_UNFINISHED, 0]
    interrupted = records.read(tmp_path / "loop.parquet")
    whole = tmp_path / "whole"
    line[line.index("--state") + 1] = str(whole)
    assert tiny.run(*line) == 0
    assert_same_rows(interrupted, records.read(tmp_path / "loop.parquet"), exact=True)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [("--other", "--other is missing"), ("--strongest", "--strongest is missing")],
)
def test_an_in_loop_job_without_one_of_its_inputs_is_refused(
    trained: Trained, tmp_path: Path, other: Path, lacking: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--other": other, "--strongest": strongest(tmp_path, POINTS)}
    options = [part for name, path in given.items() if name != lacking for part in (name, path)]
    assert tiny.run(*in_loop(trained, tmp_path, *options, **TRANSFER)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "loop.parquet").exists()


def test_a_ranking_of_another_model_or_seed_is_refused(
    trained: Trained, tmp_path: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, seed in ((OTHER, 0), (RANDOM, 1)):
        ranked = strongest(tmp_path, POINTS, model=model, seed=seed)
        assert tiny.run(*in_loop(trained, tmp_path, "--other", other, "--strongest", ranked, **TRANSFER)) == 2
        assert f"but must be of stage strongest, {RANDOM} of seed 0" in capsys.readouterr().err


def test_behind_a_race_only_the_points_left_are_attacked(
    trained: Trained, tmp_path: Path, other: Path, transferred: Records
) -> None:
    left = race(tmp_path, [GridPoint(1.0, 3, 1).name])
    for states, points in (("3-4", {3}), ("4-4", set())):
        line = grid(trained, tmp_path, model=RANDOM, states=states, images="5-11", **RACING)
        assert tiny.run(*line, "--other", other, "--race", left) == 0
        found = records.read(tmp_path / "grid.parquet")
        assert set(found["state"].tolist()) == points
        same = np.isin(transferred["state"], sorted(points)) & (transferred["image"] >= 5)
        assert_same_rows(found, transferred.where(same), exact=True)
        assert "race" in found.provenance[0]["inputs"]
    assert found["predicted"].shape == (0, 5)


@pytest.mark.parametrize(
    ("points", "images", "changes", "message"),
    [
        (
            ["state2_steps1_damping1.0"],
            "5-11",
            RACING,
            "has the point state2_steps1_damping1.0, which is none of the 2",
        ),
        (["third"], "5-11", RACING, "must look like state3_steps5_damping0.5"),
        (["state3_steps1_damping1.0"], "4-11", RACING, "but images 0 to 4 face every attack"),
        (["state3_steps1_damping1.0"], "5-11", TRANSFER, "but the spec has no racing"),
    ],
)
def test_a_race_that_does_not_fit_is_refused(
    trained: Trained, tmp_path: Path, other: Path, points: list[str], images: str, changes: dict[str, Any],
    message: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = grid(trained, tmp_path, model=RANDOM, images=images, **changes)
    assert tiny.run(*line, "--other", other, "--race", race(tmp_path, points)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "grid.parquet").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"points": 3, "provenance": {"spec": {"stage": "race", "model": "x", "seed": 0}}}']
)
def test_an_unreadable_race_is_refused(
    trained: Trained, tmp_path: Path, other: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "race.json").write_text(text)
    line = grid(trained, tmp_path, model=RANDOM, images="5-11", **RACING)
    assert tiny.run(*line, "--other", other, "--race", tmp_path / "race.json") == 2
    assert "race" in capsys.readouterr().err
    assert tiny.run(*line, "--other", other, "--race", tmp_path / "nowhere.json") == 2
    assert "nowhere.json does not exist" in capsys.readouterr().err
