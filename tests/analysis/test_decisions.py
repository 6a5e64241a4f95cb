"""What is loaded is complete, of one configuration, and of the right images; everything else is refused in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deqpipe.analysis.decisions import (
    AttackChecks,
    Decision,
    Evaluation,
    Tree,
    controls,
    early_states,
    evaluate,
    evaluate_all,
    paper_decisions,
)
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.workflow import vocabulary
from deqpipe.workflow.gridpoints import GridPoint
from tests.reference import reporting as slow
from tests.reporting import fabricate

MODEL = "deq_trades_base"
CHECKS = AttackChecks(perturbation=0.1, lost_gradient=0.0, nonfinite=0)
Columns = dict[str, np.ndarray]


def tree(results: Path, config: Config) -> Tree:
    return Tree(results, config, 0)


def rewrite(results: Path, config: Config, change: Callable[[Columns], Columns]) -> None:
    """Change the rows of one shard."""
    path = tree(results, config).attacked(MODEL)[0]
    found = records.read(path)
    fabricate.write(path, change({name: found[name] for name in records.COLUMNS}), config, "attack_grid", MODEL, 0)


def changed(columns: Columns, **values: object) -> Columns:
    """The columns with some values of the first row replaced."""
    copies = {name: np.array(column) for name, column in columns.items()}
    for name, value in values.items():
        copies[name][0] = value
    return copies


def without(columns: Columns, mask: np.ndarray) -> Columns:
    return {name: column[~mask] for name, column in columns.items()}


def test_rows_are_named_as_in_the_paper() -> None:
    assert [decision.row for decision in paper_decisions("trades")] == [
        "TRADES baseline", "TRADES + Sec. 3.2", "TRADES + Sec. 3.3", "TRADES + Secs. 3.2 & 3.3",
    ]  # fmt: skip
    assert len(paper_decisions("pgd_at", "trades")) == 8
    assert Decision("resnet18_pgd_at", "plain").row == "PGD-AT ResNet"
    assert Decision(vocabulary.TRUNK, "plain").row == "pretrained trunk"


def test_controls_are_named_after_the_method_that_they_control(config: Config) -> None:
    kinds = ("R = 0", "restart only", "T_f = N")
    assert [decision.row for decision in controls(config)] == [
        f"{framework} {method}, control: {kind}"
        for framework in ("PGD-AT", "TRADES")
        for method in ("+ Sec. 3.2", "+ Secs. 3.2 & 3.3")
        for kind in kinds
    ]
    assert not set(controls(config)) & set(paper_decisions("pgd_at", "trades"))


def test_answers_equal_a_slow_reading_of_the_files(finished: Path, config: Config) -> None:
    for decision, evaluation in evaluate_all(tree(finished, config), vocabulary.DEQS).items():
        clean, attacks = slow.deq(finished, decision.model, decision.defence, seed=0)
        assert evaluation.right_when_clean.tolist() == clean
        for point, right in zip(evaluation.points, evaluation.right, strict=True):
            assert right.tolist() == attacks[point.damping, point.state, point.steps]


def test_resnet_and_trunk_answer_at_the_final_state(finished: Path, config: Config) -> None:
    for model in (vocabulary.TRUNK, *vocabulary.FEEDFORWARD):
        (evaluation,) = evaluate(tree(finished, config), model)
        shares = 100 * evaluation.right_when_clean.mean(), 100 * evaluation.right[0].mean()
        assert shares == pytest.approx(slow.single(finished, model, seed=0))


def test_a_damping_that_single_precision_cannot_hold_is_found_again(tmp_path: Path) -> None:
    config = fabricate.small({"attack": {"grid": {"damping": [0.1, 0.7]}}})
    results = fabricate.tree(tmp_path, config)
    plain, *_ = evaluate(tree(results, config), MODEL)
    assert {point.damping for point in plain.points} == {0.1, 0.5, 0.7}  # 0.5 is the ready-made attack's


def test_order_of_rows_and_shards_does_not_matter(results: Path, config: Config) -> None:
    before = evaluate(tree(results, config), MODEL)
    rewrite(results, config, lambda rows: {name: column[::-1] for name, column in rows.items()})
    for one, other in zip(before, evaluate(tree(results, config), MODEL), strict=True):
        assert (one.right == other.right).all()


def test_strongest_attack_has_the_lowest_accuracy_and_ties_go_by_lambda_state_and_steps() -> None:
    points = (GridPoint(0.5, 1, 3), GridPoint(0.5, 2, 1), GridPoint(1.0, 1, 1))
    right = np.zeros((3, 4), dtype=bool)
    right[0, :2] = right[1, 1:2] = right[2, 3:4] = True
    evaluation = Evaluation(Decision(MODEL, "plain"), 1, points, np.ones(4, dtype=bool), right, CHECKS, ())
    assert list(points) == sorted(points)
    assert points[evaluation.strongest] == GridPoint(0.5, 2, 1)


def test_early_states_are_read_for_each_defence(finished: Path, config: Config) -> None:
    chosen = early_states(tree(finished, config), MODEL)
    assert {defence: early.state for defence, early in chosen.items()} == {
        "plain": 4, "entropy": 3, "entropy_zero_steps": 3, "entropy_restart_only": 3, "entropy_one_round": 3,
    }  # fmt: skip
    assert [evaluation.state for evaluation in evaluate(tree(finished, config), MODEL)] == [4, 3, 3, 3, 3]


def test_models_without_a_defence_have_no_controls(finished: Path, config: Config) -> None:
    for model in (vocabulary.TRUNK, *vocabulary.FEEDFORWARD):
        assert [one.decision.defence for one in evaluate(tree(finished, config), model)] == ["plain"]


def test_controls_are_read_only_where_they_were_asked_for(tmp_path: Path, finished: Path) -> None:
    without = fabricate.small({"entropy": {"controls": False}})
    with pytest.raises(UserError, match="was made by spec"):
        evaluate(tree(finished, without), MODEL)
    results = fabricate.tree(tmp_path, without)
    found = evaluate(tree(results, without), MODEL)
    assert [one.decision.defence for one in found] == ["plain", "entropy"]
    assert set(early_states(tree(results, without), MODEL)) == {"plain", "entropy"}
    assert controls(without) == ()


def test_a_missing_row_is_named(results: Path, config: Config) -> None:
    rewrite(results, config, lambda rows: without(rows, (rows["image"] == 3) & (rows["steps"] == 1)))
    first = "the first of them attack state1_steps1_damping0.5, image 3"
    with pytest.raises(UserError, match=rf"TRADES baseline lack \d+ of 340 rows, {first}"):
        evaluate(tree(results, config), MODEL)


@pytest.mark.parametrize(
    ("defence", "row"),
    [("entropy", "TRADES + Sec. 3.2"), ("entropy_one_round", "TRADES + Sec. 3.2, control: T_f = N")],
)
def test_a_row_of_one_defence_cannot_stand_in_for_the_other(
    results: Path, config: Config, defence: str, row: str
) -> None:
    rewrite(results, config, lambda rows: without(rows, rows["defence"] == defence))
    with pytest.raises(UserError, match=rf"{re.escape(row)} lack"):
        evaluate(tree(results, config), MODEL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 2}, "hold the attack state1_steps2_damping0.5, which the configuration does not ask for"),
        ({"image": 20}, "hold image 20, but images 0 to 19 are evaluated"),
        ({"image": -1}, "hold image -1, but images 0 to 19 are evaluated"),
        ({"image": 1}, "1 images stand twice"),
        ({"label": 11}, "one image different labels"),
    ],
)
def test_rows_that_do_not_belong_are_refused(
    results: Path, config: Config, values: dict[str, object], message: str
) -> None:
    rewrite(results, config, lambda rows: changed(rows, **values))
    with pytest.raises(UserError, match=message):
        evaluate(tree(results, config), MODEL)


def test_clean_and_attacked_images_must_be_the_same(results: Path, config: Config) -> None:
    rows = fabricate.clean(config, MODEL, 0)
    path = tree(results, config).clean(MODEL)
    fabricate.write(path, {**rows, "label": (rows["label"] + 1) % 10}, config, "clean", MODEL, 0)
    with pytest.raises(UserError, match="different labels: not the same images"):
        evaluate(tree(results, config), MODEL)


def test_a_missing_shard_is_named(results: Path, config: Config) -> None:
    path = tree(results, config).attacked(MODEL)[-1]
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} do not exist"):
        evaluate(tree(results, config), MODEL)


def test_records_of_another_configuration_are_refused(results: Path) -> None:
    other = fabricate.small({"threat_model": {"epsilon_255": 7}})
    with pytest.raises(UserError, match=r"was made by spec \w{16}, but the configuration asks for \w{16}"):
        evaluate(tree(results, other), MODEL)


def test_records_of_another_model_are_refused(results: Path, config: Config) -> None:
    here = tree(results, config)
    here.clean("deq_pgd_at_base").replace(here.clean(MODEL))
    with pytest.raises(UserError, match="was made by spec"):
        evaluate(here, MODEL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ("{}", "carries no provenance"),
    ],
)
def test_broken_early_states_are_refused(results: Path, config: Config, text: str, message: str) -> None:
    tree(results, config).select(MODEL).write_text(text)
    with pytest.raises(UserError, match=message):
        early_states(tree(results, config), MODEL)


@pytest.mark.parametrize(("state", "message"), [(0, "choose state 0"), (5, "has states 1 to 4"), (None, "lack")])
def test_an_early_state_that_does_not_exist_is_refused(
    results: Path, config: Config, state: int | None, message: str
) -> None:
    path = tree(results, config).select(MODEL)
    raw = json.loads(path.read_text())
    raw["plain"]["state"] = state
    if state is None:
        del raw["plain"]["state"]
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=message):
        early_states(tree(results, config), MODEL)


def test_missing_early_states_are_named(results: Path, config: Config) -> None:
    tree(results, config).select(MODEL).unlink()
    with pytest.raises(UserError, match=r"seed0\.json does not exist"):
        evaluate(tree(results, config), MODEL)


def test_attack_checks_are_taken_over_all_rows_of_a_decision(results: Path, config: Config) -> None:
    here = tree(results, config)
    path = here.attacked(MODEL)[0]
    found = records.read(path)
    columns = {name: np.array(found[name]) for name in records.COLUMNS}
    plain = np.flatnonzero((columns["defence"] == "plain") & (columns["model"] == MODEL))
    columns["status"][plain[:2]] = 3
    columns["lost_gradient"][plain] = 0.0
    columns["lost_gradient"][plain[0]] = 1.0
    columns["perturbation"][plain[5]] = 0.25
    records.write(path, columns, provenance=found.provenance[0])
    checked, *others = (one.checks for one in evaluate(here, MODEL))
    assert (checked.perturbation, checked.nonfinite) == (0.25, 2)
    assert {other.nonfinite for other in others} == {0}
    rows = sum((records.read(shard, ("model",))["model"] == MODEL).sum() for shard in here.attacked(MODEL)) / 5
    assert checked.lost_gradient == pytest.approx(1 / rows)
