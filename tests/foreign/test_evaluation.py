"""Evaluations from end to end: what they come to, how they go on, what they say when time runs out."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

import deqpipe
from deqpipe.errors import UserError
from deqpipe.foreign import evaluation, plan
from deqpipe.foreign.description import Description
from deqpipe.foreign.evaluation import CARD, PAGE, ROWS, STATE, Evaluated, Options
from deqpipe.foreign.loading import read_description
from deqpipe.foreign.plan import Effort, Entry
from deqpipe.foreign.running import Evaluation
from deqpipe.foreign.subject import subject_of
from deqpipe.machine.stopping import Interrupted
from deqpipe.results import document, records
from tests.foreign.test_mistakes import Network, States

FOREIGN = Path(__file__).parent
COUNT, BATCH, EPSILON_255 = 10, 6, 20.0
X = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(1))
SOLVER = {"name": "broyden", "steps": 3}
TINY = Effort(plan._suite(2, 2, 2, (2, 3), 4), (3, 2, 5), 2, (1, 3), (0.5,), (0.5, 2.0))


@pytest.fixture(autouse=True)
def _little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "EFFORTS", {"quick": TINY})


class Sharp(Network):
    """A network of four classes whose margins are of the size that attacks can turn some of."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
        for parameter in self.layers.parameters():
            parameter.data *= 4


def labels(model: nn.Module, **said: Any) -> Tensor:
    """As the model has them, but for one image."""
    subject = subject_of(Description(model, **said), X, torch.zeros(COUNT, dtype=torch.int64))
    y = subject.victim.logits(X).argmax(1)
    y[3] = (y[3] + 1) % subject.classes
    return y


def evaluated(model: nn.Module, **said: Any) -> Evaluated:
    own = {name: said[name] for name in ("solver", "defence") if name in said}
    given: dict[str, Any] = {"effort": "quick", "epsilon_255": EPSILON_255, "batch_size": BATCH, **said}
    return deqpipe.evaluate(model, X, labels(model, **own), **given)


DEFENCE = {"solver_steps": 2, "input_steps": 1}
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "network": (Sharp, {}),
    "plain": (States, {"solver": SOLVER}),
    "defended": (States, {"solver": SOLVER, "defence": DEFENCE}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "defended" else ()) for name in CASES]
)
def test_an_evaluation_counts_every_image_and_attack(name: str, tmp_path: Path) -> None:
    make, said = CASES[name]
    outcome = evaluated(make(), output=tmp_path / "out", **said)
    card, columns = outcome.card, outcome.columns
    assert card["kind"] == name
    assert outcome.clean_accuracy == pytest.approx((COUNT - 1) / COUNT)
    inside = columns["radius"] <= EPSILON_255 / 255
    wrong = columns["predicted"][:, 0] != columns["label"]
    fallen = set(columns["image"][inside & wrong].tolist())
    assert outcome.robust_accuracy == pytest.approx(1 - len(fallen) / COUNT)
    assert (columns["perturbation"] <= columns["radius"] + 1e-6).all()
    assert not card["skipped"]
    assert card == {**json.loads(json.dumps(card))}


def test_an_image_leaves_once_the_decision_errs_and_meets_all_attacks_in_individual_mode() -> None:
    standard, individual = (evaluated(Sharp(), mode=mode) for mode in ("standard", "individual"))
    faced = [one["faced"] for one in standard.card["attacks"] if one["section"] != "controls"]
    turned = [one["turned"] for one in standard.card["attacks"] if one["section"] != "controls"]
    left = COUNT - 1
    for met, fell in zip(faced, turned, strict=True):
        assert met == left
        left -= fell
    assert sum(turned) > 0
    assert {one["faced"] for one in individual.card["attacks"]} == {COUNT - 1}


def test_controls_remove_nothing_and_a_section_that_is_empty_is_none() -> None:
    outcome = evaluated(Sharp())
    assert outcome.section("states") is None
    assert outcome.section("autoattack") is not None
    (noise,) = [one for one in outcome.card["attacks"] if one["section"] == "controls"]
    assert noise["faced"] == COUNT - 1


def test_autoattack_is_the_librarys_own_image_by_image(tmp_path: Path) -> None:
    model = Sharp()
    y = labels(model)
    outcome = evaluated(model, output=tmp_path / "out", seed=5)
    theirs = librarys(model, X, y, seed=5)
    torch.testing.assert_close(ends_with(tmp_path / "out", X), theirs, rtol=0, atol=1e-7)
    right = float((model(theirs).argmax(1) == y).double().mean())
    assert outcome.section("autoattack") == pytest.approx(right)
    assert right < outcome.clean_accuracy == pytest.approx(float((model(X).argmax(1) == y).double().mean()))


@pytest.mark.slow
def test_autoattack_on_the_librarys_own_example_is_the_librarys(tmp_path: Path) -> None:
    weights = Path(pyautoattack.__file__).parent / "examples" / "model_test.pt"
    x, y = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)), torch.zeros(4, dtype=torch.int64)
    described = replace(read_description(FOREIGN / "resnet18.py", weights), epsilon_255=1)
    y = subject_of(described, x, y).victim.logits(x).argmax(1)
    options = Options("quick", batch_size=BATCH, seed=3)
    outcome = evaluation.run(described, x, y, options, tmp_path / "out")
    theirs = librarys(described.model, x, y, seed=3, epsilon_255=1)
    torch.testing.assert_close(ends_with(tmp_path / "out", x), theirs, rtol=0, atol=1e-7)
    right = float((described.model(theirs).argmax(1) == y).double().mean())
    assert outcome.clean_accuracy == 1
    assert outcome.section("autoattack") == pytest.approx(right)


def ends_with(output: Path, x: Tensor) -> Tensor:
    """The images that AutoAttack's attacks turned, in place of the clean ones."""
    made = x.clone()
    for name in ("apgd_ce", "apgd_t", "fab_t", "square"):
        for file in sorted((output / STATE).glob(f"autoattack_{name}_batch*.npz")):
            with np.load(file) as rows:
                fell = rows["predicted"] != rows["label"]
                made[rows["image"][fell]] += torch.from_numpy(rows["delta"][fell])
    return made


def librarys(model: nn.Module, x: Tensor, y: Tensor, *, seed: int, epsilon_255: float = EPSILON_255) -> Tensor:
    """The images that the library's own standard evaluation ends with."""
    iterations, targets, queries = TINY.library
    attack = AutoAttack(
        model.eval(), norm="Linf", eps=epsilon_255 / 255, seed=seed, version="custom", device="cpu",
        attacks=["apgd-ce", "apgd-t", "fab-t", "square"],
    )  # fmt: skip
    attack.apgd.n_restarts, attack.fab.n_restarts, attack.apgd_targeted.n_restarts = 1, 1, 1
    for one in (attack.apgd, attack.apgd_targeted, attack.fab):
        one.n_iter = iterations
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
    attack.square.n_queries = queries
    images: Tensor = attack.run_standard_evaluation(x, y, batch_size=BATCH)[0]
    return images


def test_the_same_arguments_give_the_same_bits_however_often_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluated(Sharp(), output=tmp_path / "whole")
    done, original = iter(range(10_000)), Evaluation._attacked

    def stopping(self: Evaluation, entry: Entry, images: Any) -> Any:
        if next(done) % 4 == 3:
            raise KeyboardInterrupt
        return original(self, entry, images)

    monkeypatch.setattr(Evaluation, "_attacked", stopping)
    tries = 0
    while not (tmp_path / "parts" / PAGE).exists():
        tries += 1
        try:
            evaluated(Sharp(), output=tmp_path / "parts")
        except KeyboardInterrupt:
            continue
    assert tries > 3
    first, second = (tmp_path / name / ROWS for name in ("whole", "parts"))
    assert first.read_bytes() == second.read_bytes()
    cards = [document.read(tmp_path / name / CARD)[0] for name in ("whole", "parts")]
    assert cards[0] == cards[1]
    assert records.read(first)["image"].tolist() == whole.columns["image"].tolist()


def test_a_damaged_piece_is_computed_again(tmp_path: Path) -> None:
    outcome = evaluated(Sharp(), output=tmp_path / "out")
    file = tmp_path / "out" / STATE / "exact_margin_batch0.npz"
    file.write_bytes(file.read_bytes()[:-40])
    again = evaluated(Sharp(), output=tmp_path / "out")
    assert {**again.card, "provenance": 0} == {**outcome.card, "provenance": 0}
    assert file.with_name(f"{file.name}.damaged").exists()


def test_a_budget_leaves_attacks_out_and_says_so_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, done = Evaluation._attacked, iter(range(10_000))

    def spent(self: Evaluation, entry: Entry, images: Any) -> Any:
        if next(done) >= 5:
            raise Interrupted("time budget of 1 minutes")
        return original(self, entry, images)

    monkeypatch.setattr(Evaluation, "_attacked", spent)
    outcome = evaluated(Sharp(), output=tmp_path / "out", budget_minutes=1.0)
    assert "The time budget was used up" in outcome.warnings[0]
    lacking = {one["name"] for one in outcome.card["skipped"]}
    assert "exact_margin" in lacking
    assert "autoattack_apgd_ce" not in lacking
    page = (tmp_path / "out" / PAGE).read_text()
    assert "The time budget was used up" in page
    assert "did not run" in page

    monkeypatch.setattr(
        Evaluation, "_attacked", lambda *_: pytest.fail("nothing is left to compute within this budget")
    )
    again = evaluated(Sharp(), output=tmp_path / "out", budget_minutes=1.0)
    assert {**again.card, "provenance": 0} == {**outcome.card, "provenance": 0}

    monkeypatch.setattr(Evaluation, "_attacked", original)
    more = evaluated(Sharp(), output=tmp_path / "out", budget_minutes=60.0)
    assert not more.card["skipped"]
    assert {**more.card, "provenance": 0} == {**evaluated(Sharp()).card, "provenance": 0}


def test_another_model_or_other_images_do_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    evaluated(Sharp(), output=tmp_path / "out")
    other = Sharp()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    with pytest.raises(UserError, match=r"holds an evaluation of other weights: give another folder"):
        evaluated(other, output=tmp_path / "out")
    with pytest.raises(UserError, match="holds an evaluation of other options"):
        evaluated(Sharp(), output=tmp_path / "out", seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other files"):
        evaluated(Sharp(), output=tmp_path / "mine")


def test_a_card_escapes_what_others_say_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    outcome = evaluated(Sharp(), output=tmp_path / "out", name="<script>alert(1)</script>")
    page = (tmp_path / "out" / PAGE).read_text()
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert f"{100 * outcome.robust_accuracy:.1f}" in page
    assert 'name="viewport"' in page


def test_a_blind_attack_fails_a_check_and_the_card_opens_with_it() -> None:
    """Rounded pixels have no gradient, but queries see through them."""

    class Rounded(Sharp):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = super().forward((8 * x).round() / 8)
            return logits

    big = Rounded()
    outcome = evaluated(big)
    failed = {one["check"] for one in outcome.card["findings"] if one["verdict"] == "failed"}
    assert "lost gradients" in failed
    assert any("lost gradients" in text for text in outcome.warnings)


@pytest.mark.parametrize("kind", ["network", "plain", "defended"])
@pytest.mark.parametrize("classes", [2, 10])
def test_a_plan_names_every_attack_once_and_the_strongest_come_first(kind: Any, classes: int) -> None:
    states = 0 if kind == "network" else 7
    entries = plan.plan(kind, classes, states, effort="quick", epsilon=8 / 255)
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names)
    attacks = [entry.name for entry in entries if entry.removes]
    assert attacks[0] == ("autoattack_apgd_ce" if kind == "network" else "exact_margin")
    assert attacks[-1] == "rays"
    assert ("autoattack_apgd_t" in names) == (classes >= 4)
    assert any(name.startswith("grid_state7") for name in names) == (kind != "network")
    assert ("straight_through" in names) == (kind == "defended")
    assert max(entry.times for entry in entries) == pytest.approx(255 / 8)


def test_options_are_part_of_what_results_depend_on_but_the_budget_is_not() -> None:
    described, y = Description(Sharp()), torch.zeros(COUNT, dtype=torch.int64)
    spec = evaluation._spec(described, X, y, Options())
    assert spec == evaluation._spec(described, X, y, replace(Options(), budget_minutes=1.0))
    assert spec != evaluation._spec(described, X, y, replace(Options(), seed=1))
