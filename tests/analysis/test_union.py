"""The union: right when clean and under all that a decision faced."""

import numpy as np

from deqpipe.analysis import union
from deqpipe.analysis.own_attacks import OwnOutcome
from deqpipe.analysis.union import Faced
from deqpipe.extending import Attack
from tests.analysis.suites import Did, Made


def craft(target: object, x: object, y: object) -> object:
    """Not called here."""
    return x


def own(wrong: range, *, images: int) -> OwnOutcome:
    """An attack from a user's file that turns some images; it may have met more than the suite."""
    right = ~np.isin(np.arange(images), wrong)
    return OwnOutcome(Attack("mine", "mine", craft=craft, gradients=1), Made().outcome().decision, right, ())


def test_an_attack_of_ones_own_counts_in_the_union_on_the_suites_images() -> None:
    outcome = Made(did={"exact_margin": Did(turned=range(30))}).outcome()
    alone = Faced(outcome, None, None)
    faced = Faced(outcome, None, None, (own(range(20, 40), images=120), own(range(90, 110), images=120)))
    assert alone.union().sum() == 70
    assert faced.union().sum() == 100 - 40 - 10
    assert (faced.union() <= alone.union()).all()


def test_a_difference_leaves_out_what_one_of_the_two_did_not_face() -> None:
    outcome = Made().outcome()
    faced, without = Faced(outcome, None, None, (own(range(50), images=100),)), Faced(outcome, None, None)
    here, there, lacking = union.shared_difference(faced, without)
    assert lacking == {"own attacks"}
    assert here.all()
    assert there.all()
