"""The evaluation commands on tiny trained models."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deqpipe.attack.pgd import PGD
from deqpipe.build import build_solver, build_termination
from deqpipe.data import save
from deqpipe.dynamics import PlainDynamics
from deqpipe.evaluation import scoring
from deqpipe.evaluation.stages import grid as grid_stage
from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.model import architecture
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import checkpoint, document, records
from deqpipe.results.provenance import file_hash
from deqpipe.results.records import Records
from deqpipe.seeding import Stream
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.workflow import gridpoints, specs
from tests import tiny
from tests.evaluation.commands import BASE, RANDOM, OnePiece, assert_same_rows, call, grid, in_order, until_done
from tests.sampling import one_in
from tests.tiny import Trained

TRUNK, RESNET = "deq_pretrain", "resnet18_pgd_at"
GRID = {(d, i, k) for d in (0.5, 1.0) for i in (1, 3) for k in (1, 3)}
READY_MADE = (0.5, 4, 2)
CONTROLS = {"entropy_zero_steps", "entropy_restart_only", "entropy_one_round"}
EVERY_DECISION = {"plain", "entropy", *CONTROLS}
# With controls, and one attack beside the ready-made one; the same by the authors' code.
CONTROLLED: dict[str, Any] = {
    "entropy": {"controls": True},
    "attack": {"grid": {"states": [3], "steps": [1], "damping": [1.0]}},
}
RELEASE: dict[str, Any] = {"protocol": "release", **CONTROLLED}


@pytest.fixture(scope="module")
def finished(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Records:
    folder = tmp_path_factory.mktemp("grid")
    assert tiny.run(*grid(trained, folder)) == 0
    return records.read(folder / "grid.parquet")


def points(found: Records) -> set[tuple[float, int, int]]:
    return set(zip(found["damping"].tolist(), found["state"].tolist(), found["steps"].tolist(), strict=True))


class Counting:
    """How many points are crafted, and a budget of so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.crafted: list[str] = []
        original = scoring.attacks_rows

        def note(evaluated: Any, attacks: Any, *arguments: Any, **named: Any) -> Any:
            self.crafted += [attack.point.name for attack in attacks]
            return original(evaluated, attacks, *arguments, **named)

        monkeypatch.setattr(grid_stage, "attacks_rows", note)


def test_grid_holds_its_points_and_the_ready_made_one_for_every_decision_and_image(finished: Records) -> None:
    assert points(finished) == GRID | {READY_MADE}
    assert len(finished) == 9 * 2 * tiny.TEST
    assert set(finished["defence"]) == {"plain", "entropy"}
    assert set(finished["model"]) == set(finished["crafted_on"]) == {BASE}
    for defence in ("plain", "entropy"):
        part = finished.where((finished["defence"] == defence) & (finished["state"] == 4))
        assert part["image"].tolist() == list(range(tiny.TEST))
        assert part["label"].tolist() == tiny.dataset().test.labels.tolist()
    assert finished["predicted"].shape[1] == 5
    assert finished["perturbation"].max() <= 20 / 255 + 1e-6
    assert finished["perturbation"].min() > 0
    assert np.isfinite(finished["deviation"]).all()
    assert (finished["deviation"] > 0).all()


def test_grid_says_where_it_comes_from(trained: Trained, finished: Records) -> None:
    (origin,) = finished.provenance
    assert origin["spec"] == json.loads(tiny.spec("attack_grid", model=BASE))
    assert origin["seed"] == 0
    assert origin["inputs"] == {"data": file_hash(trained.data), "checkpoint": file_hash(trained.file(BASE))}
    assert origin["seconds"] > 0
    assert origin["evaluations"]["forward"] > 9 * tiny.TEST * 2 * 3
    assert origin["evaluations"]["backward_weights"] == 0
    assert {"python", "torch", "deqpipe"} <= origin["versions"].keys()
    assert origin["device"].startswith("CPU")


@pytest.mark.parametrize("point", [*sorted(GRID)[:3], READY_MADE])
def test_an_attack_is_pgd_on_eq_11_written_out(
    trained: Trained, finished: Records, point: tuple[float, int, int]
) -> None:
    damping, state, steps = point
    model = load(trained, BASE)
    split = tiny.dataset().test
    x, y = split.float_images(slice(None)), split.labels
    made = pgd(lambda image: surrogate(model, image, damping, state, steps), x, y, clamp_start=True)
    rows = of_point(finished, point)
    np.testing.assert_allclose(rows["perturbation"], (made - x).abs().flatten(1).amax(1).numpy(), atol=1e-6)
    expected = margins(surrogate(model, made, 0.5, 4, 2), y)
    np.testing.assert_allclose(rows["margin"][:, -1], expected, rtol=1e-3, atol=1e-4)


def pgd(
    logits: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    clamp_start: bool,
    first: int = 0,
) -> torch.Tensor:
    """Two steps of PGD on test images from `first` on."""
    noise = [torch.rand(1, 8, 8, generator=Stream(0, "attack/start").generator(first + i)) for i in range(len(y))]
    epsilon = 20 / 255
    made = x + (2 * torch.stack(noise) - 1) * epsilon
    made = made.clamp(0, 1) if clamp_start else made
    for _ in range(2):
        made = made.detach().requires_grad_()
        loss = F.cross_entropy(logits(made), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, made)
        made = (made + 10 / 255 * gradient.sign()).detach()
        made = torch.max(torch.min(made, x + epsilon), x - epsilon).clamp(0, 1)
    return made


def margins(logits: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """By how much the logit of the label is above all others."""
    own = logits.gather(1, y[:, None])[:, 0]
    found: np.ndarray = (own - logits.scatter(1, y[:, None], -torch.inf).amax(1)).detach().numpy()
    return found


def of_point(found: Records, point: tuple[float, int, int]) -> Records:
    """The rows of the undefended decision under one attack."""
    damping, state, steps = point
    return found.where(
        (found["damping"] == damping) & (found["state"] == state)
        & (found["steps"] == steps) & (found["defence"] == "plain")
    )  # fmt: skip


def load(trained: Trained, model: str) -> DEQClassifier:
    loaded = architecture.load_model(trained.file(model), torch.device("cpu")).model
    assert isinstance(loaded, DEQClassifier)
    return loaded


def surrogate(model: DEQClassifier, x: torch.Tensor, damping: float, state: int, steps: int) -> torch.Tensor:
    solver = tiny.settings().solver
    z = PlainDynamics(build_solver(solver), build_termination(solver))(model, x.detach()).state(state)
    f = model.bind(x)
    for _ in range(steps):
        z = (1 - damping) * z + damping * f(z)
    return model.logits(z)


PER_STATE = ("predicted", "margin", "entropy", "residual")


@pytest.fixture(scope="module")
def controlled(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Part of the grid, scored on the controls of Sec. 3.2 as well."""
    folder = tmp_path_factory.mktemp("controlled")
    assert tiny.run(*grid(trained, folder, **CONTROLLED)) == 0
    return records.read(folder / "grid.parquet")


def of_defence(found: Records, defence: str) -> Mapping[str, np.ndarray]:
    """The rows of one decision, in order."""
    return in_order(found.where(found["defence"] == defence))


def test_controls_stand_beside_the_other_decisions_and_change_nothing_of_them(
    controlled: Records, finished: Records
) -> None:
    assert len(controlled) == 2 * 5 * tiny.TEST
    assert set(controlled["defence"]) == EVERY_DECISION
    extra = np.isin(controlled["defence"], sorted(CONTROLS))
    assert np.isnan(controlled["deviation"][extra]).all(), "of controls no clean states are kept"
    assert np.isfinite(controlled["margin"]).all()
    asked = (finished["damping"] == 1) & (finished["state"] == 3) & (finished["steps"] == 1) | (finished["state"] == 4)
    assert_same_rows(controlled.where(~extra), finished.where(asked), exact=True)


@pytest.mark.parametrize("control", ["entropy_zero_steps", "entropy_one_round"])
def test_sec_32_without_descent_or_with_nothing_after_it_decides_as_without_it(
    controlled: Records, control: str
) -> None:
    plain, other = of_defence(controlled, "plain"), of_defence(controlled, control)
    for name in (*PER_STATE, "status", "image", "perturbation"):
        np.testing.assert_array_equal(other[name], plain[name], err_msg=name)
    assert (of_defence(controlled, "entropy")["margin"] != plain["margin"]).any()


def test_restarts_alone_change_the_states_from_the_second_round_on(controlled: Records) -> None:
    """T_f is 2. z^[3] is stepped to with all there is of the first round, unless that was better off at z^[1]."""
    plain, restarted = of_defence(controlled, "plain"), of_defence(controlled, "entropy_restart_only")
    better_off = plain["residual"][:, 0] <= plain["residual"][:, 1]
    assert better_off.sum() < len(better_off) / 2
    for name in ("margin", "residual"):
        np.testing.assert_array_equal(restarted[name][:, :2], plain[name][:, :2])
        same = np.isclose(restarted[name], plain[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(same[:, 2], ~better_off)
        assert not same[:, 3:].any()


@pytest.mark.slow
def test_shards_and_batches_of_other_sizes_hold_the_same_rows(
    trained: Trained, finished: Records, tmp_path: Path
) -> None:
    parts = []
    for number, (states, images) in enumerate((s, i) for s in ("1-2", "3-4") for i in ("0-6", "7-11")):
        line = grid(trained, tmp_path, states=states, images=images, name=f"part{number}", batch_size=3)
        assert tiny.run(*line) == 0
        parts.append(records.read(tmp_path / f"part{number}.parquet"))
    assert_same_rows(records.merge(parts), finished)


def test_several_points_judged_at_once_have_the_rows_of_each_alone(
    trained: Trained, finished: Records, controlled: Records, tmp_path: Path
) -> None:
    """Of 12 images, batches of 40 take three points; the parts that the controls are asked of have two points."""
    assert tiny.run(*grid(trained, tmp_path, batch_size=40)) == 0
    assert_same_rows(records.read(tmp_path / "grid.parquet"), finished)
    assert tiny.run(*grid(trained, tmp_path / "controlled", batch_size=40, **CONTROLLED)) == 0
    assert_same_rows(records.read(tmp_path / "controlled" / "grid.parquet"), controlled)


def test_points_judged_at_once_share_their_cost_and_are_kept_one_by_one(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr("deqpipe.evaluation.resumable.StopRequest", OnePiece)
        assert tiny.run(*grid(trained, tmp_path, images="0-3", batch_size=17)) == EXIT_UNFINISHED
    kept = sorted(tmp_path.glob("state/points/*/*.parquet"))
    assert len(kept) == len(counting.crafted) == 17 // 4
    told = [records.read(file).provenance[0]["evaluations"] for file in kept]
    for way in ("forward", "backward_input"):
        costs = [shares[way] for shares in told]
        assert 0 < max(costs) - 1 <= min(costs)
    kept[1].unlink()
    counting.crafted.clear()
    assert tiny.run(*grid(trained, tmp_path, images="0-3", batch_size=17)) == 0
    assert len(counting.crafted) == 9 - 3
    found = records.read(tmp_path / "grid.parquet")
    assert points(found) == GRID | {READY_MADE}
    assert len(found) == 9 * 2 * 4


def test_states_between_those_of_the_config_are_not_attacked(trained: Trained, tmp_path: Path) -> None:
    """The range of a job may have gaps: the config asks for states 1 and 3 only."""
    assert tiny.run(*grid(trained, tmp_path, states="1-3", images="0-1")) == 0
    assert points(records.read(tmp_path / "grid.parquet")) == GRID


@pytest.mark.slow
def test_another_k_computes_only_its_own_points(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(monkeypatch)
    assert tiny.run(*grid(trained, tmp_path, images="0-1")) == 0
    assert len(counting.crafted) == 9
    old = specs.state_key(json.loads(tiny.spec("attack_grid", model=BASE)))
    more: Mapping[str, Any] = {"attack": {"grid": {"steps": [1, 3, 2]}}}
    assert specs.state_key(json.loads(tiny.spec("attack_grid", more, model=BASE))) == old
    counting.crafted.clear()
    assert tiny.run(*grid(trained, tmp_path, images="0-1", name="more", **more)) == 0
    assert sorted(counting.crafted) == sorted(gridpoints.GridPoint(d, i, 2).name for d in (0.5, 1.0) for i in (1, 3))
    both = records.read(tmp_path / "more.parquet")
    assert points(both) == GRID | {READY_MADE} | {(d, i, 2) for d in (0.5, 1.0) for i in (1, 3)}


@pytest.mark.slow
def test_attempts_with_a_budget_compute_each_point_once(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Records
) -> None:
    counting = Counting(monkeypatch)
    monkeypatch.setattr("deqpipe.evaluation.resumable.StopRequest", OnePiece)
    statuses = [tiny.run(*grid(trained, tmp_path)) for _ in range(9)]
    assert statuses == [*[EXIT_UNFINISHED] * 8, 0]
    assert len(counting.crafted) == len(set(counting.crafted)) == 9
    assert_same_rows(records.read(tmp_path / "grid.parquet"), finished, exact=True)


def test_an_attempt_without_progress_is_answered_even_when_points_are_there(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("deqpipe.evaluation.resumable.StopRequest", OnePiece)
        assert tiny.run(*grid(trained, tmp_path, images="0-1")) == EXIT_UNFINISHED
    assert tiny.run(*grid(trained, tmp_path, images="0-1"), "--time-budget-minutes", "1e-9") == 2
    assert "not one piece finished within 1e-09 minutes: allow more time" in capsys.readouterr().err
    assert not (tmp_path / "grid.parquet").exists()


@pytest.mark.slow
def test_a_killed_grid_goes_on_where_it_was(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Records
) -> None:
    line = [sys.executable, "-m", "deqpipe.cli", *grid(trained, tmp_path)]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None and len(list(tmp_path.glob("state/points/*/*.parquet"))) < 3:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = len(list(tmp_path.glob("state/points/*/*.parquet")))
    assert 3 <= kept < 9
    assert not (tmp_path / "grid.parquet").exists()
    counting = Counting(monkeypatch)
    assert tiny.run(*grid(trained, tmp_path)) == 0
    assert len(counting.crafted) == 9 - kept
    assert_same_rows(records.read(tmp_path / "grid.parquet"), finished, exact=True)


def test_a_damaged_piece_is_set_aside_and_computed_again(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counting = Counting(monkeypatch)
    assert tiny.run(*grid(trained, tmp_path, images="0-1")) == 0
    before = records.read(tmp_path / "grid.parquet")
    (tmp_path / "grid.parquet").unlink()
    flipped, cut, *_ = pieces = sorted(tmp_path.glob("state/points/*/*.parquet"))
    content = bytearray(flipped.read_bytes())
    content[len(content) // 4] ^= 16
    flipped.write_bytes(content)
    os.truncate(cut, 500)
    counting.crafted.clear()
    assert tiny.run(*grid(trained, tmp_path, images="0-1")) == 0
    assert len(counting.crafted) == 2
    assert_same_rows(records.read(tmp_path / "grid.parquet"), before, exact=True)
    for piece in pieces:
        assert piece.with_name(f"{piece.name}.damaged").exists() == (piece in (flipped, cut))
    assert f"it is now called {cut.name}.damaged, and what it held is computed again" in caplog.text


def test_points_of_another_spec_are_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(*grid(trained, tmp_path, images="0-1")) == 0
    other: Mapping[str, Any] = {"attack": {"pgd": {"steps": 3}}}
    assert tiny.run(*grid(trained, tmp_path, images="0-1", name="other", **other)) == 2
    assert "belongs to another spec; delete" in capsys.readouterr().err
    assert not (tmp_path / "other.parquet").exists()


def test_a_point_crafted_again_has_the_same_rows(trained: Trained, finished: Records, tmp_path: Path) -> None:
    output = tmp_path / "point.parquet"
    line = call(trained, "attack-point", output, "--point", "state3_steps1_damping1.0", "--images", "0-11")
    assert tiny.run(*line) == 0
    again = records.read(output)
    mask = (finished["state"] == 3) & (finished["steps"] == 1) & (finished["damping"] == 1)
    assert_same_rows(again, finished.where(mask), exact=True)
    (origin,) = again.provenance
    assert origin["spec"] == specs.point_spec(json.loads(tiny.spec("attack_grid", model=BASE)))
    assert not any(key.startswith("attack.grid.") for key in origin["spec"]["config"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--point", "state5_steps1_damping1.0", "--images", "0-1"), "states are 1 to 4"),
        (("--point", "state1_steps1_damping2.0", "--images", "0-1"), "damping in (0, 1]"),
        (("--point", "state1_steps1_damping1.0", "--images", "0-12"), "has images 0 to 11"),
        (("--point", "state0_steps1_damping1.0", "--images", "0-1"), "must look like state3_steps5_damping0.5"),
    ],
)
def test_a_point_or_images_that_are_not_there_are_refused(
    trained: Trained, tmp_path: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(*call(trained, "attack-point", tmp_path / "x", *options)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("states", "images", "message"),
    [
        ("0-2", "0-1", "states 0 to 2 were asked for, but the solver has states 1 to 4"),
        ("1-5", "0-1", "states 1 to 5 were asked for"),
        ("2-2", "0-1", "states 2 to 2 hold no point of the grid"),
        ("1-4", "5-12", "test images 5 to 12 were asked for, but stripes has images 0 to 11"),
    ],
)
def test_a_shard_outside_the_grid_is_refused(
    trained: Trained, tmp_path: Path, states: str, images: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(*grid(trained, tmp_path, states=states, images=images)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "grid.parquet").exists()


@pytest.mark.parametrize("model", [BASE, RANDOM, TRUNK, RESNET])
def test_clean_rows_hold_every_decision_on_every_image(trained: Trained, tmp_path: Path, model: str) -> None:
    output = tmp_path / "clean.parquet"
    assert tiny.run(*call(trained, "clean", output, model=model, **CONTROLLED)) == 0
    found = records.read(output)
    decisions = EVERY_DECISION if model in (BASE, RANDOM) else {"plain"}
    assert len(found) == len(decisions) * tiny.TEST
    assert set(found["defence"]) == decisions
    assert set(found["attack"]) == {"clean"}
    assert set(found["crafted_on"]) == {""}
    assert (found["perturbation"] == 0).all()
    assert found["predicted"].shape[1] == (1 if model == RESNET else 5)
    assert np.isnan(found["deviation"]).all()
    plain = found.where(found["defence"] == "plain")
    loaded = architecture.load_model(trained.file(model), torch.device("cpu")).model
    x = tiny.dataset().test.float_images(slice(None))
    with torch.no_grad():
        logits = loaded(x) if model == RESNET else surrogate(loaded, x, 0.5, 4, 2)  # type: ignore[arg-type]
    np.testing.assert_array_equal(plain["predicted"][:, -1], logits.argmax(1).numpy())
    (origin,) = found.provenance
    assert (origin["evaluations"]["forward"] > 0) == (model != RESNET)


def test_clean_deviation_of_the_same_images_would_be_zero(trained: Trained, tmp_path: Path) -> None:
    """An attack that may change nothing ends on the clean trajectory."""
    still: Mapping[str, Any] = {"threat_model": {"epsilon_255": 0.0}}
    assert tiny.run(*grid(trained, tmp_path, states="4-4", images="3-8", batch_size=4, **still)) == 0
    found = records.read(tmp_path / "grid.parquet")
    plain = found.where(found["defence"] == "plain")
    assert (plain["perturbation"] == 0).all()
    np.testing.assert_allclose(plain["deviation"], 0, atol=1e-6)


@pytest.mark.parametrize("model", [TRUNK, RESNET])
def test_pgd_at_the_final_state(trained: Trained, tmp_path: Path, model: str) -> None:
    output = tmp_path / "pgd.parquet"
    assert tiny.run(*call(trained, "attack-pgd", output, model=model)) == 0
    found = records.read(output)
    assert len(found) == tiny.TEST
    assert points(found) == ({READY_MADE} if model == TRUNK else {(0.0, 0, 0)})
    assert set(found["crafted_on"]) == {model}
    assert 0 < found["perturbation"].max() <= 20 / 255 + 1e-6
    assert np.isnan(found["deviation"]).all() == (model == RESNET)
    clean = tmp_path / "clean.parquet"
    assert tiny.run(*call(trained, "clean", clean, model=model)) == 0
    assert found["margin"][:, -1].mean() < records.read(clean)["margin"][:, -1].mean()


def selected(trained: Trained, folder: Path, **changes: Any) -> dict[str, Any]:
    assert tiny.run(*call(trained, "select-early-state", folder / "select.json", model=RANDOM, **changes)) == 0
    found: dict[str, Any] = json.loads((folder / "select.json").read_text())
    return found


def test_the_chosen_state_is_the_later_of_the_best_under_attack(trained: Trained, tmp_path: Path) -> None:
    found = selected(trained, tmp_path)
    assert found.keys() == {"plain", "entropy", "provenance", "digest"}, "controls decide where Sec. 3.2 does"
    for defence in ("plain", "entropy"):
        entry = found[defence]
        assert len(entry["accuracy"]) == 4
        assert entry["n"] == tiny.VALIDATION
        best = max(entry["accuracy"])
        assert entry["state"] == max(n for n, value in enumerate(entry["accuracy"], 1) if value == best)
        assert 0 <= entry["final"] <= 1
    assert found["provenance"]["spec"] == json.loads(tiny.spec("select", model=RANDOM))
    assert found["provenance"]["evaluations"]["forward"] > 0
    assert selected(trained, tmp_path, batch_size=2)["plain"] == found["plain"]


def test_the_choice_is_made_on_held_out_images_under_the_ready_made_attack(trained: Trained, tmp_path: Path) -> None:
    """Accuracies of the undefended decision, computed again."""
    found = selected(trained, tmp_path)["plain"]
    model, split = load(trained, RANDOM), tiny.dataset().validation
    x, y = split.float_images(slice(None)), split.labels
    noise = Stream(0, "selection/start").uniform(range(len(y)), (1, 8, 8))
    attack = PGD(LinfBall(20 / 255), steps=2, step_size=10 / 255)
    made = attack(
        lambda image: F.cross_entropy(surrogate(model, image, 0.5, 4, 2), y, reduction="sum"),
        x,
        start=(x + (2 * noise - 1) * 20 / 255).clamp(0, 1),
    ).images
    states = [surrogate(model, made, 0.5, i, 0).argmax(1) for i in range(1, 5)]
    assert found["accuracy"] == [int((state == y).sum()) / len(y) for state in states]
    assert found["final"] == int((surrogate(model, made, 0.5, 4, 2).argmax(1) == y).sum()) / len(y)


def test_a_fixed_early_state_is_taken_as_it_is(trained: Trained, tmp_path: Path) -> None:
    found = selected(trained, tmp_path, early_state={"mode": "fixed", "index": 2})
    assert found["plain"]["state"] == found["entropy"]["state"] == 2


def test_too_many_images_are_refused(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, model in (("clean", BASE), ("attack-pgd", RESNET)):
        line = call(trained, verb, tmp_path / "x.parquet", model=model, evaluation={"images": 13})
        assert tiny.run(*line) == 2
        assert "evaluation.images may be at most 12" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_other_images_another_model_or_another_seed_is_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = tiny.dataset()
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    two = {name: replace(split, labels=split.labels % 2) for name, split in splits.items()}
    fewer = replace(dataset, classes=("rows", "columns"), **two)
    save(tmp_path / "other.safetensors", fewer, provenance={})
    line = call(trained, "clean", tmp_path / "x.parquet")
    line[line.index("--data") + 1] = str(tmp_path / "other.safetensors")
    assert tiny.run(*line) == 2
    assert "was trained on stripes images of shape (1, 8, 8) with 3 classes" in capsys.readouterr().err
    line = call(trained, "clean", tmp_path / "x.parquet")
    line[line.index("--checkpoint") + 1] = str(trained.file(RANDOM))
    assert tiny.run(*line) == 2
    assert f"is {RANDOM} of seed 0, but the spec is of {BASE} of seed 0" in capsys.readouterr().err
    line = call(trained, "clean", tmp_path / "x.parquet")
    line[line.index("--spec") + 1] = tiny.spec("clean", model=BASE, seed=1)
    assert tiny.run(*line) == 2
    assert f"is {BASE} of seed 0, but the spec is of {BASE} of seed 1" in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()


def test_models_are_evaluated_with_frozen_parameters(trained: Trained) -> None:
    model = load(trained, BASE)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    stored = checkpoint.read(trained.file(BASE))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in stored.tensors.items())


@pytest.fixture(scope="module")
def released(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Part of the grid under the authors' code."""
    folder = tmp_path_factory.mktemp("release")
    assert tiny.run(*grid(trained, folder, **RELEASE)) == 0
    return records.read(folder / "grid.parquet")


def test_release_has_the_same_rows(released: Records) -> None:
    assert points(released) == {(1.0, 3, 1), READY_MADE}
    assert len(released) == 2 * 5 * tiny.TEST
    assert released["perturbation"].max() <= 20 / 255 + 1e-6
    (origin,) = released.provenance
    assert origin["spec"]["config"]["evaluation.batch_size"] == 5


def released_states(model: DEQClassifier, x: torch.Tensor) -> tuple[list[torch.Tensor], int]:
    """z^[1] .. z^[4] and the final state of a batch by the authors' code, and which of them z* is.

    That is the one of lowest residual over the batch. The final state is one undamped and two damped steps from there.
    """
    f = model.bind(x.detach())
    states = list(PlainDynamics(Broyden(), Termination(max_steps=4))(model, x.detach()).solution.states)
    ratios = [float((f(z) - z).norm() / f(z).norm()) for z in states]
    assert min(ratios) > 1e-3, "the tolerance would stop this solve"
    lowest = ratios.index(min(ratios))
    z = f(states[lowest])
    for _ in range(2):
        z = (z + f(z)) / 2
    return [*states, z], lowest + 1


def test_attacks_and_decisions_under_release_are_those_of_the_authors_code_written_out(
    trained: Trained, released: Records
) -> None:
    model, split = load(trained, BASE), tiny.dataset().test
    rows, equilibria = of_point(released, (1.0, 3, 1)), set()
    for images in (slice(0, 5), slice(5, 10), slice(10, 12)):
        x, y = split.float_images(images), split.labels[images]

        def logits(image: torch.Tensor) -> torch.Tensor:
            f, z = model.bind(image), released_states(model, image)[0][2]
            return model.logits(f(f(z)))

        made = pgd(logits, x, y, clamp_start=False, first=images.start)
        perturbation = (made - x).abs().flatten(1).amax(1).numpy()
        np.testing.assert_allclose(rows["perturbation"][images], perturbation, atol=1e-6)
        states, lowest = released_states(model, made)
        for index, state in enumerate(states):
            expected = margins(model.logits(state), y)
            np.testing.assert_allclose(rows["margin"][images, index], expected, rtol=1e-3, atol=1e-4)
        equilibria.add(lowest)
    assert min(equilibria) < 4, "z* would be the last state"


def test_under_release_r_0_is_the_restarts_alone(released: Records) -> None:
    plain, zero, restarted, once = (
        of_defence(released, name)
        for name in ("plain", "entropy_zero_steps", "entropy_restart_only", "entropy_one_round")
    )
    for name in PER_STATE:
        np.testing.assert_array_equal(zero[name], restarted[name], err_msg=name)
        np.testing.assert_array_equal(once[name], plain[name], err_msg=name)
    assert (zero["margin"][:, 3:] != plain["margin"][:, 3:]).any(0).all()


@pytest.mark.slow
def test_a_resumed_shard_and_a_single_point_have_the_bits_of_the_whole_under_release(
    trained: Trained, released: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the same images meet."""
    with monkeypatch.context() as patched:
        patched.setattr("deqpipe.evaluation.resumable.StopRequest", OnePiece)
        statuses = [tiny.run(*grid(trained, tmp_path, images="5-11", **RELEASE)) for _ in range(2)]
    assert statuses == [EXIT_UNFINISHED, 0]
    part = records.read(tmp_path / "grid.parquet")
    assert_same_rows(part, released.where(released["image"] >= 5), exact=True)
    name, output = "state3_steps1_damping1.0", tmp_path / "point.parquet"
    for images, middle in (("5-9", range(5, 10)), ("10-11", range(10, 12))):
        line = call(trained, "attack-point", output, "--point", name, "--images", images, **RELEASE)
        assert tiny.run(*line) == 0
        same = (released["state"] == 3) & np.isin(released["image"], middle)
        assert_same_rows(records.read(output), released.where(same), exact=True)


def test_under_release_the_final_state_depends_on_which_images_meet(trained: Trained, tmp_path: Path) -> None:
    """Under paper nothing does: test_shards_and_batches_of_other_sizes_hold_the_same_rows."""
    found = []
    for size in (5, 3):
        changes: dict[str, Any] = {"protocol": "release", "evaluation": {"batch_size": size}}
        assert tiny.run(*call(trained, "clean", tmp_path / f"x{size}", batch_size=size, **changes)) == 0
        found.append(records.read(tmp_path / f"x{size}"))
    one, other = map(in_order, found)
    np.testing.assert_allclose(one["margin"][:, :4], other["margin"][:, :4], rtol=1e-3, atol=1e-4)
    assert np.abs(one["margin"][:, 4] - other["margin"][:, 4]).max() > 0.01, "another state is z*"


@pytest.mark.parametrize(
    ("verb", "model"),
    [
        ("clean", BASE),
        ("clean", TRUNK),
        ("attack-pgd", TRUNK),
        ("select-early-state", RANDOM),
        ("attack-grid", BASE),
        ("attack-point", BASE),
    ],
)
def test_a_batch_size_that_is_not_the_specs_is_refused_where_images_are_coupled(
    trained: Trained, tmp_path: Path, verb: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options: tuple[object, ...] = ("--images", "0-5") if verb in ("attack-grid", "attack-point") else ()
    options += ("--states", "1-4", "--state", tmp_path / "state") if verb == "attack-grid" else ()
    options += ("--point", "state3_steps1_damping1.0") if verb == "attack-point" else ()
    line = call(trained, verb, tmp_path / "x", *options, model=model, batch_size=3, **RELEASE)
    assert tiny.run(*line) == 2
    refusal = "--batch-size is 3, but the spec has evaluation.batch_size 5, and its solver couples the images"
    assert refusal in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["clean", "attack-pgd"])
def test_a_resnet_has_no_solver_that_could_couple_images(trained: Trained, tmp_path: Path, verb: str) -> None:
    found = []
    for size in (3, 5):
        assert tiny.run(*call(trained, verb, tmp_path / f"x{size}", model=RESNET, batch_size=size, **RELEASE)) == 0
        found.append(records.read(tmp_path / f"x{size}"))
    assert_same_rows(*found)


@pytest.mark.parametrize("images", ["0-5", "1-4", "3-9", "0-10", "10-10"])
def test_images_that_would_cut_a_batch_are_refused_where_they_are_coupled(
    trained: Trained, tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    point = ("--point", "state3_steps1_damping1.0", "--images", images)
    for line in (
        grid(trained, tmp_path, images=images, **RELEASE),
        call(trained, "attack-point", tmp_path / "x", *point, **RELEASE),
    ):
        assert tiny.run(*line) == 2
        told = capsys.readouterr().err
        assert f"test images {images.replace('-', ' to ')} were asked for" in told
        assert "a multiple of evaluation.batch_size (5), and no batch may be cut short" in told
    assert not list(tmp_path.iterdir())


def test_images_beyond_those_that_are_evaluated_are_refused_where_they_are_coupled(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 7 images the last batch has two; with images 7 to 9 it would be another one."""
    seven = {**RELEASE, "evaluation": {"images": 7}}
    point = ("--point", "state3_steps1_damping1.0", "--images")
    assert tiny.run(*call(trained, "attack-point", tmp_path / "x", *point, "5-9", **seven)) == 2
    assert "test images 5 to 9 were asked for" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert tiny.run(*call(trained, "attack-point", tmp_path / "x", *point, "5-6", **seven)) == 0


def test_the_early_state_under_release_is_fixed_and_judged_on_the_test_images(trained: Trained, tmp_path: Path) -> None:
    found = selected(trained, tmp_path, protocol="release")
    for defence in ("plain", "entropy"):
        assert (found[defence]["state"], found[defence]["n"]) == (4, tiny.TEST)


@pytest.mark.parametrize(
    ("verb", "model", "checks"),
    one_in(
        3,
        [
            ("clean", BASE, 30),
            ("clean", RESNET, 2),
            ("attack-pgd", RESNET, 4),
            ("select-early-state", RANDOM, 80),
            ("attack-grid", BASE, 200),
        ],
    ),
)
def test_a_job_that_is_left_again_and_again_ends_with_the_same_file_and_tells_the_same_cost(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, model: str, checks: int
) -> None:
    """Work that was left is done again, and so are states that pieces share; what is told is what the result takes."""
    monkeypatch.setattr("deqpipe.evaluation.images.PIECE", 4)
    whole, left = tmp_path / "whole" / "out", tmp_path / "left" / "out"

    def run(output: Path) -> int:
        part = ("--states", "1-4", "--images", "0-3", "--state", output.parent / "state")
        return tiny.run(*call(trained, verb, output, *(part if verb == "attack-grid" else ()), model=model))

    assert run(whole) == 0
    assert until_done(lambda: run(left), checks, monkeypatch) > 2
    if verb == "select-early-state":
        (one, told), (other, told_again) = document.read(whole), document.read(left)
        assert one == other
        assert told["evaluations"] == told_again["evaluations"]
    else:
        once, again = records.read(whole), records.read(left)
        assert_same_rows(once, again, exact=True)
        assert once.provenance[0]["evaluations"] == again.provenance[0]["evaluations"]
