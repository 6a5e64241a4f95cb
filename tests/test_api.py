"""deqpipe in Python: the same models, states and attacked images as the workflow's."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import deqpipe
from deqpipe import api, extending
from deqpipe.errors import UserError
from deqpipe.results import early_states, records
from deqpipe.results.early_states import EarlyState
from tests import tiny

MODEL = "deq_trades_random_states"


@pytest.fixture(scope="module")
def results(trained: tiny.Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a model, its configuration and its early states."""
    folder = tmp_path_factory.mktemp("api") / "results"
    file = folder / "models" / MODEL / "seed0" / "best.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(trained.file(MODEL).read_bytes())
    (folder / "config.yaml").write_text(yaml.safe_dump(tiny.settings().model_dump(mode="json")))
    chosen = {"plain": EarlyState(2, (0.1, 0.5), 0.3, 9), "entropy": EarlyState(1, (0.5, 0.1), 0.3, 9)}
    early_states.write(folder / "select" / MODEL / "seed0.json", chosen, tiny.chosen_on(file))
    return folder


@pytest.fixture(scope="module")
def model(results: Path) -> Any:
    return deqpipe.load(results / "models" / MODEL / "seed0" / "best.safetensors")


def test_an_attack_from_python_is_that_of_the_workflow_image_by_image(
    model: Any, trained: tiny.Trained, tmp_path: Path
) -> None:
    output = tmp_path / "point.parquet"
    point = ("--point", "state3_steps3_damping0.5", "--images", "0-11")
    job = ("--spec", tiny.spec("attack_grid", model=MODEL), "--data", trained.data, "--checkpoint", trained.file(MODEL))
    assert tiny.run("attack-point", *job, *point, "--batch-size", 12, "--output", output) == 0
    found = records.read(output).columns
    x, y = deqpipe.images(trained.data, count=12)
    attacked = model.attack(x, y, state=3, steps=3, damping=0.5)
    for defence in ("plain", "entropy"):
        ours = model.logits_along(attacked, defence=defence).argmax(2).T
        theirs = found["predicted"][found["defence"] == defence][:, :-1]
        assert ours.tolist() == theirs.tolist()
    assert not torch.equal(attacked, model.attack(x, y, state=1, steps=3, damping=0.5))


def test_an_attack_stays_in_the_ball_that_was_asked_for(model: Any, trained: tiny.Trained) -> None:
    x, y = deqpipe.images(trained.data, count=4)
    for radius in (model.ball.epsilon * 255, 3.0):
        change = (model.attack(x, y, state=2, epsilon_255=radius) - x).abs().max()
        assert 0 < change <= radius / 255 + 1e-6


def test_settings_are_those_of_the_results_folder_or_the_papers_or_of_a_file(
    model: Any, trained: tiny.Trained, results: Path
) -> None:
    assert model.ball.epsilon == 20 / 255
    assert model.early_states == {"plain": 2, "entropy": 1}
    elsewhere = deqpipe.load(trained.file(MODEL))
    assert (elsewhere.ball.epsilon, elsewhere.early_states) == (8 / 255, {})
    named = deqpipe.load(trained.file(MODEL), configuration=results / "config.yaml")
    assert named.ball.epsilon == 20 / 255


def test_early_states_of_other_weights_are_refused(trained: tiny.Trained, results: Path, tmp_path: Path) -> None:
    """As after a training that ran again and before its states are chosen again."""
    shutil.copytree(results, tmp_path / "results")
    file = tmp_path / "results/models" / MODEL / "seed0" / "best.safetensors"
    chosen, _ = early_states.read(tmp_path / "results/select" / MODEL / "seed0.json", ("plain", "entropy"))
    other = tiny.chosen_on(trained.file("deq_pgd_at_base"))
    early_states.write(tmp_path / "results/select" / MODEL / "seed0.json", chosen, other)
    with pytest.raises(UserError, match=r"early states .*seed0\.json were chosen for other weights than .*best"):
        deqpipe.load(file)


def test_logits_of_a_state_are_those_along_the_dynamics(model: Any, trained: tiny.Trained) -> None:
    x, y = deqpipe.images(trained.data, count=5, split="validation")
    along = model.logits_along(x)
    assert along.shape == (4, 5, 3)
    assert torch.equal(model.logits(x, state=2), along[1])
    assert model.accuracy(x, y, state=2) == float((along[1].argmax(1) == y).double().mean())
    assert not torch.equal(model.logits(x), along[3])
    with pytest.raises(IndexError, match="state 5 was asked for, but the solver recorded states 1 to 4"):
        model.logits(x, state=5)


def test_logits_that_are_not_finite_are_wrong(
    model: Any, trained: tiny.Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _ = deqpipe.images(trained.data, count=5)
    monkeypatch.setattr(type(model), "logits", lambda *_, **__: torch.full((5, 3), torch.nan))
    assert model.accuracy(x, torch.zeros(5, dtype=torch.int64)) == 0


def test_a_rule_of_ones_own_sees_the_final_state_in_the_place_of_the_last(
    model: Any, trained: tiny.Trained, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from deqpipe.extending import Defence\nS = Defence('summing', 'summing', decide=lambda along: along.sum(0))\n"
    )
    extending.activate([str(path)])
    x, _ = deqpipe.images(trained.data, count=4)
    expected = model.logits_along(x)[:-1].sum(0) + model.logits(x)
    torch.testing.assert_close(model.logits(x, defence="summing"), expected)


def test_what_is_no_deq_or_not_there_is_refused_in_a_line(trained: tiny.Trained) -> None:
    with pytest.raises(UserError, match="a network without states"):
        deqpipe.load(trained.file("resnet18_pgd_at"))
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        deqpipe.load("nowhere.safetensors")
    with pytest.raises(UserError, match="count is 13, but must be 1 to 12"):
        deqpipe.images(trained.data, count=13)


def test_the_package_offers_its_functions_and_nothing_that_is_not_there() -> None:
    assert (deqpipe.load, deqpipe.images) == (api.load, api.images)
    assert {"load", "images"} <= set(dir(deqpipe))
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        deqpipe.laod  # noqa: B018
