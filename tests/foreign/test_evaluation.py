"""Evaluations from end to end: what they come to, how they go on, what they say when time runs out."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

import deqpipe
from deqpipe.attack import losses, suite
from deqpipe.attack.suite import Batch, Victim
from deqpipe.defence.rule import DecisionRule
from deqpipe.errors import UserError
from deqpipe.foreign import evaluation, plan
from deqpipe.foreign import outcome as outcome_of
from deqpipe.foreign.description import Description
from deqpipe.foreign.evaluation import CARD, PAGE, ROWS, STATE, Evaluated, Options
from deqpipe.foreign.loading import read_description
from deqpipe.foreign.plan import Entry
from deqpipe.foreign.running import Evaluation
from deqpipe.foreign.subject import subject_of
from deqpipe.machine.stopping import Interrupted
from deqpipe.results import document, lock, records
from deqpipe.threat_model import LinfBall
from deqpipe.workflow.suite_attacks import SuiteAttack
from tests.foreign.effort import TINY
from tests.foreign.test_mistakes import Network, States

FOREIGN = Path(__file__).parent
COUNT, BATCH, EPSILON_255 = 10, 6, 20.0
X = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(1))
SOLVER = {"name": "fixed_point", "steps": 2}


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
    count = given.pop("count", COUNT)
    return deqpipe.evaluate(model, X[:count], labels(model, **own)[:count], **given)


@dataclass(frozen=True)
class Finished:
    """An evaluation of `Sharp` that came to its end.

    Attributes:
        outcome: what it gave back.
        folder: what it left.
        labels: of its images.
    """

    outcome: Evaluated
    folder: Path
    labels: Tensor

    def copy(self, to: Path) -> Path:
        """Its folder, to be changed."""
        return Path(shutil.copytree(self.folder, to))

    def is_equal(self, other: Evaluated) -> bool:
        """Whether another one came to the same, but for times."""
        return {**self.outcome.card, "provenance": 0} == {**other.card, "provenance": 0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished") / "out"
    return Finished(evaluated(Sharp(), output=folder), folder, labels(Sharp()))


DEFENCE = {"solver_steps": 2, "input_steps": 1}
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "network": (Sharp, {}),
    "plain": (States, {"solver": SOLVER, "count": 5}),
    "defended": (States, {"solver": SOLVER, "defence": DEFENCE}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "defended" else ()) for name in CASES]
)
def test_an_evaluation_counts_every_image_and_attack(name: str, tmp_path: Path) -> None:
    make, said = CASES[name]
    count = said.get("count", COUNT)
    outcome = evaluated(make(), output=tmp_path / "out", **said)
    card, columns = outcome.card, outcome.columns
    assert card["kind"] == name
    assert outcome.clean_accuracy == pytest.approx((count - 1) / count)
    inside = columns["radius"] <= EPSILON_255 / 255
    wrong = columns["predicted"][:, 0] != columns["label"]
    fallen = set(columns["image"][inside & wrong].tolist())
    assert outcome.robust_accuracy == pytest.approx(1 - len(fallen) / count)
    assert (columns["perturbation"] <= columns["radius"] + 1e-6).all()
    epsilon = EPSILON_255 / 255
    np.testing.assert_allclose(np.unique(columns["radius"]), [0, 0.5 * epsilon, epsilon, 2 * epsilon, 1], rtol=1e-6)
    spent = {one["name"]: (one["evaluations"], one["steps"]) for one in card["attacks"]}
    assert (spent["exact_margin"][0] is None) == (name == "network")
    assert name == "network" or spent["exact_margin"][0] > 2 * spent["exact_margin"][1]
    assert not card["skipped"]
    assert card == {**json.loads(json.dumps(card))}


def test_an_image_leaves_once_the_decision_errs_and_meets_all_attacks_in_individual_mode(finished: Finished) -> None:
    standard, individual = finished.outcome.card, evaluated(Sharp(), mode="individual").card
    faced = [one["faced"] for one in standard["attacks"] if one["section"] != "controls"]
    turned = [one["turned"] for one in standard["attacks"] if one["section"] != "controls"]
    left = COUNT - 1
    for met, fell in zip(faced, turned, strict=True):
        assert met == left
        left -= fell
    assert sum(turned) > 0
    assert {one["faced"] for one in individual["attacks"]} == {COUNT - 1}
    lone = {one["name"]: one["left"]["right"] for one in individual["sections"]}
    assert lone["queries"] > individual["union"]["right"]  # alone they turn fewer than all together


def test_controls_over_the_radius_meet_what_attacks_have_turned_as_well(finished: Finished) -> None:
    for times in ("0.5", "2", f"{255 / EPSILON_255:g}"):
        for name in ("noise", "exact_margin"):
            met = [np.load(file)["image"] for file in (finished.folder / STATE).glob(f"{name}_at{times}_batch*.npz")]
            assert len(np.concatenate(met)) == COUNT - 1


def test_warm_attacks_start_where_the_margin_was_lowest(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = finished.copy(tmp_path / "out") / STATE
    (state / "warm_batch0.npz").unlink()
    given: list[Batch] = []

    def watched(attack: SuiteAttack, victim: Victim, batch: Batch, **others: Any) -> Any:
        given.append(batch)
        return original(attack, victim, batch, **others)

    original = suite.run
    monkeypatch.setattr(suite, "run", watched)
    assert finished.is_equal(evaluated(Sharp(), output=tmp_path / "out"))
    (batch,) = given
    lowest = {image: np.inf for image in batch.keys}
    for name in ("autoattack_*", "exact_*"):
        for file in state.glob(f"{name}_batch*.npz"):
            if "_at" not in file.name:
                rows = np.load(file)
                for image, margin in zip(rows["image"].tolist(), rows["margin"].tolist(), strict=True):
                    lowest[image] = min(lowest.get(image, np.inf), margin)
    assert batch.warm is not None
    margins = -losses.margin(Sharp().eval()(batch.warm), batch.y)
    expected = [lowest[image] for image in batch.keys]
    np.testing.assert_allclose(margins.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_time_of_former_tries_counts(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finished.copy(tmp_path / "out") / STATE / "rays_batch0.npz").unlink()
    monkeypatch.setattr(Evaluation, "_seconds", lambda self: 61.0)
    monkeypatch.setattr(Evaluation, "_attacked", lambda *_: pytest.fail("no time is left"))
    outcome = evaluated(Sharp(), output=tmp_path / "out", budget_minutes=1.0)
    assert [one["name"] for one in outcome.card["skipped"]] == ["rays"]


def test_a_folder_in_which_another_process_evaluates_is_refused(finished: Finished) -> None:
    with lock.locked(finished.folder / STATE, waits=False), pytest.raises(UserError, match="is in use"):
        evaluated(Sharp(), output=finished.folder)


def test_the_grid_starts_at_random_and_steps_in_proportion_to_the_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "GRID_STEPS", 1)
    for epsilon_255 in (8.0, 4.0):
        described = Description(States(), solver=SOLVER, epsilon_255=epsilon_255)
        victim = subject_of(described, X, torch.zeros(COUNT, dtype=torch.int64)).victim
        assert plan._step(victim) == pytest.approx(epsilon_255 / 4 / 255)
    (entry, *_) = [one for one in plan.plan("plain", 3, 2, effort="quick", epsilon=0.1) if one.section == "states"]
    batch = Batch(X, victim.logits(X).argmax(1), range(COUNT))
    made = [entry.craft(victim, batch, seed).images for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_attacks_for_which_no_image_is_left_have_had_their_turn(tmp_path: Path) -> None:
    outcome = evaluated(Sharp(), epsilon_255=255, output=tmp_path / "out")
    assert outcome.robust_accuracy == 0
    assert not outcome.card["skipped"]
    assert {one["left"]["right"] for one in outcome.card["sections"] if one["name"] != "autoattack"} == {0}
    assert all(one["ran"] == one["attacks"] for one in outcome.card["sections"])
    page = (tmp_path / "out" / PAGE).read_text()
    assert "no image left" in page
    assert "did not run" not in page


def test_of_several_images_that_an_attack_ends_with_the_one_of_lowest_margin_counts() -> None:
    victim = subject_of(Description(Sharp()), X, torch.zeros(COUNT, dtype=torch.int64)).victim
    y = victim.logits(X).argmax(1)
    several = [(X + 0.02 * number * (X - 0.5).sign()).clamp(0, 1) for number in (-1, 0, 1)]
    made = plan.judged_at_the_end(victim, Batch(X, y, range(COUNT)), several, taken=3)
    margins = torch.stack([-losses.margin(victim.logits(images), y) for images in several])
    assert len(margins.argmin(0).unique()) > 1
    torch.testing.assert_close(made.margin, margins.amin(0))
    torch.testing.assert_close(made.images, torch.stack(several)[margins.argmin(0), torch.arange(COUNT)])


FACTS: dict[str, Any] = {"skipped": [], "findings": [], "attacks": [], "clean": {"right": 1}}


@pytest.mark.parametrize(
    ("facts", "residual", "begins"),
    [
        ({}, None, []),
        ({}, 0.05, []),
        ({}, 0.2, ["The last state is no equilibrium: its relative residual is 0.2"]),
        ({"clean": {"right": 0}}, None, ["No clean image is classified right"]),
        ({"findings": [{"check": "noise", "verdict": "failed"}]}, None, ["Sanity checks failed (noise)"]),
        ({"skipped": [{"label": "a", "attack": False}]}, None, ["Controls did not run within the budget"]),
        (
            {"skipped": [{"label": "a", "attack": True}], "attacks": [{"section": "knows"}, {"section": "controls"}]},
            None,
            ["The time budget was used up: 1 of 1 attacks did not run, or not on all images (a)"],
        ),
    ],
)
def test_what_a_reader_must_know_is_said(facts: dict[str, Any], residual: float | None, begins: list[str]) -> None:
    texts = outcome_of.warnings({**FACTS, **facts}, residual)
    assert len(texts) == len(begins)
    assert all(text.startswith(begin) for text, begin in zip(texts, begins, strict=True))


def test_controls_remove_nothing_and_a_section_that_is_empty_is_none(finished: Finished) -> None:
    outcome = finished.outcome
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
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, original = iter(range(10_000)), Evaluation._attacked

    def stopping(self: Evaluation, entry: Entry, images: Any) -> Any:
        if next(done) % 9 == 8:
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
    assert tries > 2
    assert (finished.folder / ROWS).read_bytes() == (tmp_path / "parts" / ROWS).read_bytes()
    cards = [document.read(folder / CARD)[0] for folder in (finished.folder, tmp_path / "parts")]
    assert cards[0] == cards[1]
    assert records.read(finished.folder / ROWS)["image"].tolist() == finished.outcome.columns["image"].tolist()


@pytest.mark.parametrize("left", [0, 1, 300, -40])
@pytest.mark.parametrize("piece", ["clean", "exact_margin_batch0"])
def test_a_damaged_piece_is_computed_again(piece: str, left: int, finished: Finished, tmp_path: Path) -> None:
    file = finished.copy(tmp_path / "out") / STATE / f"{piece}.npz"
    file.write_bytes(file.read_bytes()[:left])
    assert finished.is_equal(evaluated(Sharp(), output=tmp_path / "out"))
    assert file.with_name(f"{file.name}.damaged").exists()


def test_what_a_killed_writer_has_left_beside_a_whole_piece_is_removed(finished: Finished, tmp_path: Path) -> None:
    leftover = finished.copy(tmp_path / "out") / STATE / ".clean.npz.0123abcd.tmp"
    leftover.mkdir()
    evaluated(Sharp(), output=tmp_path / "out")
    assert not leftover.exists()


@pytest.mark.parametrize("text", ["", '{"budget_minutes": 60', '{"budget_minutes": 60.0}'])
def test_a_damaged_note_of_a_used_up_budget_is_not_believed(text: str, finished: Finished, tmp_path: Path) -> None:
    output = finished.copy(tmp_path / "out")
    (output / STATE / "over.json").write_text(text)
    (output / STATE / "rays_batch0.npz").unlink()
    assert finished.is_equal(evaluated(Sharp(), output=output, budget_minutes=30.0))


@pytest.mark.parametrize("left", [0, 20, -20])
def test_a_folder_whose_evaluation_is_unknown_is_refused(left: int, finished: Finished, tmp_path: Path) -> None:
    file = finished.copy(tmp_path / "out") / STATE / "spec.json"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UserError, match=r"damaged, so it is unknown which evaluation .* or delete the folder /"):
        evaluated(Sharp(), output=tmp_path / "out")
    for left_over in (file, *(file.parents[1] / name for name in (CARD, PAGE, ROWS))):
        left_over.unlink()  # its pieces must not be taken for those of whatever is asked for next
    with pytest.raises(UserError, match=r"holds pieces of an evaluation, but no state/spec.json"):
        evaluated(Sharp(), output=tmp_path / "out", seed=1)


def test_a_budget_leaves_attacks_out_and_says_so_loudly(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert outcome.card["radius"] == []
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
    assert finished.is_equal(more)


def test_another_model_or_other_images_do_not_go_on_in_the_same_folder(finished: Finished, tmp_path: Path) -> None:
    other = Sharp()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    with pytest.raises(UserError, match=r"holds an evaluation of other weights: give another folder"):
        evaluated(other, output=finished.folder)
    with pytest.raises(UserError, match="holds an evaluation of other options"):
        evaluated(Sharp(), output=finished.folder, seed=1)
    for changed in ({"mean": [0.1]}, {"std": [0.9]}, {"epsilon_255": 3.0}):
        with pytest.raises(UserError, match="holds an evaluation of other model"):
            evaluated(Sharp(), output=finished.folder, **changed)
    with pytest.raises(UserError, match="holds an evaluation of other data"):
        deqpipe.evaluate(Sharp(), X.flip(0), labels(Sharp()), output=finished.folder, effort="quick",
                         batch_size=BATCH, epsilon_255=EPSILON_255)  # fmt: skip
    with pytest.raises(UserError, match="holds an evaluation of other code"):
        evaluation.run(Description(Sharp(), epsilon_255=EPSILON_255), X, labels(Sharp()),
                       Options("quick", batch_size=BATCH), finished.folder)  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other files"):
        evaluated(Sharp(), output=tmp_path / "mine")


def test_another_decision_of_the_same_weights_and_text_does_not_go_on_in_the_same_folder(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Sharp()
    other.after = lambda logits: 1.0001 * logits
    with pytest.raises(UserError, match=r"holds an evaluation of other settings \(after\): give another folder"):
        evaluated(other, output=finished.folder)
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: torch.tanh(1.5 * x))  # what no setting shows
    with pytest.raises(UserError, match=r"holds an evaluation of other logits \(by up to .* on the first 8 images\)"):
        deqpipe.evaluate(Sharp(), X, finished.labels, output=finished.folder, effort="quick", batch_size=BATCH,
                         epsilon_255=EPSILON_255)  # fmt: skip


def test_a_card_escapes_what_others_say_and_needs_nothing_from_elsewhere(finished: Finished, tmp_path: Path) -> None:
    outcome = evaluated(Sharp(), output=finished.copy(tmp_path / "out"), name="<script>alert(1)</script>")
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


@pytest.mark.parametrize(("rounded", "verdict"), [(True, "failed"), (False, "passed")])
def test_starts_that_stand_still_fail_a_check_and_those_that_meet_in_a_corner_do_not(
    rounded: bool, verdict: str
) -> None:
    """Of a linear network the gradient's sign is the same everywhere: all starts end in one corner of the ball."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    class Rounding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x.round() if rounded else x)
            return logits

    x = torch.where(torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(3)) < 0.5, 0.2, 0.8)
    model = Rounding()
    outcome = deqpipe.evaluate(model, x, model(x).argmax(1), epsilon_255=0.1, effort="quick")
    (one,) = [one for one in outcome.card["findings"] if one["check"] == "agreeing starts"]
    assert one["verdict"] == verdict
    assert ("meet in one minimum" in one["words"]) != rounded
    assert any("agreeing starts" in text for text in outcome.warnings) == rounded


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
    grid = [name for name in names if name.startswith("grid")]
    assert grid == ([] if kind == "network" else [
        "grid_state7_steps3_damping0.5", "grid_state1_steps3_damping0.5",
        "grid_state7_steps1_damping0.5", "grid_state1_steps1_damping0.5",
    ])  # fmt: skip
    assert ("straight_through" in names) == (kind == "defended")
    assert max(entry.times for entry in entries) == pytest.approx(255 / 8)


def test_a_decision_within_another_ball_is_the_same_decision(tmp_path: Path) -> None:
    """Every field of it but the ball, whatever fields a decision has."""
    y = torch.zeros(COUNT, dtype=torch.int64)
    one = subject_of(Description(States(), solver=SOLVER), X, y)
    victim = replace(one.victim, rule=DecisionRule("mean", lambda along: along.mean(0)))
    within = Evaluation(replace(one, victim=victim), (), X, y, 0, BATCH, True, tmp_path)._within(0.25)
    assert within == replace(victim, ball=LinfBall(0.25))


def test_options_are_part_of_what_results_depend_on_but_the_budget_is_not() -> None:
    described, y = Description(Sharp()), torch.zeros(COUNT, dtype=torch.int64)
    spec = evaluation._spec(described, X, y, Options())
    assert spec == evaluation._spec(described, X, y, replace(Options(), budget_minutes=1.0))
    assert spec != evaluation._spec(described, X, y, replace(Options(), seed=1))
    for said in ({"solver": SOLVER}, {"defence": DEFENCE}, {"state": 2}):
        assert spec != evaluation._spec(replace(described, **said), X, y, Options())


def test_the_grid_begins_with_middling_unrolls() -> None:
    entries = plan.plan("plain", 10, 7, effort="standard", epsilon=8 / 255)
    grid = [entry.name for entry in entries if entry.section == "states"]
    assert grid[0] == "grid_state7_steps5_damping0.5"
    assert len(grid) == 4 * 3 * 2
