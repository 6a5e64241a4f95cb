"""What is loaded is complete, of one configuration, and of the right images; everything else is refused in one line."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deqpipe.analysis.decision import Decision, controls
from deqpipe.analysis.early_states import early_states
from deqpipe.analysis.evaluation import AttackChecks, Evaluation, evaluate, evaluate_all
from deqpipe.analysis.layout import Tree
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
    columns["predicted"][plain[:3]] = -1
    records.write(path, columns, provenance=found.provenance[0])
    checked, *others = (one.checks for one in evaluate(here, MODEL))
    assert (checked.perturbation, checked.nonfinite) == (0.25, 2)
    assert checked.undecided == 3
    assert {(other.nonfinite, other.undecided) for other in others} == {(0, 0)}
    rows = sum((records.read(shard, ("model",))["model"] == MODEL).sum() for shard in here.attacked(MODEL)) / 5
    assert checked.lost_gradient == pytest.approx(1 / rows)
    assert checked.judged == rows
