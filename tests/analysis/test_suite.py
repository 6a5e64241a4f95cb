"""What the suite's records say: per group, together, and over its cost; and what is refused."""

import numpy as np
import pytest

from deqpipe.analysis import suite
from deqpipe.analysis.suite import SuiteOutcome
from deqpipe.errors import UserError
from deqpipe.results.records import Records
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow.suite_attacks import BPDA, EXACT, NOISE, QUERIES, TRANSFERRED, UNROLLED, AttackGroup
from tests.analysis.suites import DECISION, STATE, Did, Made, asked

DID = {
    "noise": Did(turned=[9]),
    "exact_margin": Did(turned=[1, 2], at=3, per_step=10.0),
    "exact_dlr": Did(turned=[2, 3], at=4, per_step=10.0),
    "unrolled_margin": Did(turned=[1, 4], at=2, per_step=20.0),
    "square": Did(turned=[5], at=7, per_step=1.0),
}


def made(mode: str, **changes: object) -> SuiteOutcome:
    return Made(images=10, wrong=[0], did=DID, suite=asked(mode=mode), **changes).outcome()  # type: ignore[arg-type]


def left(outcome: SuiteOutcome, group: AttackGroup) -> list[int]:
    right = outcome.group(group)
    assert right is not None
    return np.flatnonzero(right).tolist()


def turned(right: Correct) -> list[int]:
    return np.flatnonzero(~right).tolist()


def test_a_group_alone_counts_what_is_right_when_clean_and_under_all_of_its_attacks() -> None:
    outcome = made("individual")
    assert left(outcome, EXACT) == [4, 5, 6, 7, 8, 9]
    assert left(outcome, UNROLLED) == [2, 3, 5, 6, 7, 8, 9]
    assert left(outcome, QUERIES) == [1, 2, 3, 4, 6, 7, 8, 9]


def test_in_standard_mode_a_group_counts_what_is_left_after_it_and_all_before() -> None:
    outcome = made("standard")
    assert left(outcome, EXACT) == [4, 5, 6, 7, 8, 9]
    assert left(outcome, UNROLLED) == [5, 6, 7, 8, 9]
    assert left(outcome, QUERIES) == [6, 7, 8, 9]


@pytest.mark.parametrize("mode", ["standard", "individual"])
def test_both_modes_agree_on_what_withstands_all_and_noise_counts_there_alone(mode: str) -> None:
    outcome = made(mode)
    assert turned(outcome.crafted) == [0, 1, 2, 3, 4, 5, 9]
    assert outcome.group(TRANSFERRED) is None
    assert NOISE not in suite.shown_groups([outcome])


def test_a_group_that_was_not_run_is_absent() -> None:
    outcome = made("individual", kind="plain")
    assert outcome.group(BPDA) is None
    assert BPDA not in suite.shown_groups([outcome])
    assert EXACT in suite.shown_groups([outcome])


@pytest.mark.parametrize("mode", ["standard", "individual"])
def test_the_cost_of_a_fall_is_that_of_all_attacks_before_and_of_the_steps_up_to_it(mode: str) -> None:
    """By hand: exact_margin takes 40 steps of 10 where it fails, then exact_targeted as many, then exact_dlr."""
    fallen = made(mode).fallen_after()
    assert fallen[0] == 0  # wrong when clean
    assert fallen[1] == 3 * 10
    assert fallen[3] == 40 * 10 + 40 * 10 + 4 * 10
    assert fallen[4] == 4 * 40 * 10 + 2 * 20  # four exact attacks in vain
    assert np.isinf(fallen[[6, 7, 8, 9]]).all()  # noise is no attack


def test_the_evaluations_of_a_standard_suite_leave_out_what_left() -> None:
    outcome, wide = made("standard"), made("individual")
    faced = sum(int((run.taken * run.per_step).sum()) for run in outcome.attacking)
    assert outcome.evaluations == pytest.approx(faced / 10)
    assert outcome.evaluations < wide.evaluations


@pytest.mark.parametrize("mode", ["standard", "individual"])
def test_after_each_attack_stands_what_those_before_left_and_what_an_image_that_withstands_has_cost(mode: str) -> None:
    outcome = made(mode)
    first, second, third, *_, last = list(outcome.after_each())
    assert (first[0].attack.name, *first[1:]) == ("exact_margin", 400.0, 0.7)
    assert (second[0].attack.name, *second[1:]) == ("exact_targeted", 800.0, 0.7)
    assert (third[0].attack.name, *third[1:]) == ("exact_dlr", 1200.0, 0.6)
    assert last[2] == 0.4  # noise is no attack: image 9 stands
    costs = [cost for _, cost, _ in outcome.after_each()]
    assert costs == sorted(costs)


def changed(rows: Records, **columns: np.ndarray) -> Records:
    return Records({**rows.columns, **columns}, rows.provenance)


def read(rows: Records, mode: str = "standard") -> SuiteOutcome:
    return suite.outcome(rows, DECISION, asked(mode=mode), state=STATE, images=10, sources=())


@pytest.mark.parametrize(
    ("attack", "image", "words"),
    [
        ("clean", 3, "clean images, lack 1 of 10 images, the first of them 3"),
        ("exact_dlr", 7, "under exact, DLR, lack 1 of 7 images, the first of them 7"),
    ],
)
def test_a_missing_row_is_refused(attack: str, image: int, words: str) -> None:
    rows = Made(images=10, wrong=[0], did=DID, suite=asked(mode="standard")).rows()
    with pytest.raises(UserError, match=words):
        read(rows.where(~((rows["attack"] == attack) & (rows["image"] == image))))


def test_an_attack_without_rows_is_refused_while_an_image_stands() -> None:
    rows = Made(images=10, wrong=[0], did=DID, suite=asked(mode="standard")).rows()
    with pytest.raises(UserError, match="under RayS, lack 4 of 4"):
        read(rows.where(rows["attack"] != "rays"))


def test_rows_of_others_twice_or_of_another_state_are_refused() -> None:
    rows = Made(images=10, suite=asked(mode="standard")).rows()
    with pytest.raises(UserError, match="of deq_trades_base with defence plain, but must be"):
        read(changed(rows, defence=np.full(len(rows), "plain")))
    with pytest.raises(UserError, match="hold the attack bend"):
        read(changed(rows, attack=np.where(rows["attack"] == "rays", "bend", rows["attack"])))
    with pytest.raises(UserError, match="twice"):
        read(changed(rows, image=np.where(rows["image"] == 1, 2, rows["image"])))
    with pytest.raises(UserError, match="say nothing of state 3"):
        read(changed(rows, predicted=np.full_like(rows["predicted"], -2)))
