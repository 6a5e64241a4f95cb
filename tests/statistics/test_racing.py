"""The strongest attack stays in the race as often as promised; what leaves is what a slow version says."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from deqpipe.statistics import racing

Seeds = st.integers(0, 2**32 - 1)


def answers(generator: np.random.Generator, attacks: int, images: int, *, spread: float, noise: float) -> np.ndarray:
    """Answers of attacks that agree on which images are hard, and differ in strength by `spread`."""
    strength = spread * generator.normal(size=(attacks, 1))
    hardness = generator.normal(size=images)
    return strength + hardness + noise * generator.normal(size=(attacks, images)) > 0


def slow_survivors(correct: np.ndarray, confidence: float) -> list[bool]:
    """One pair after the other, with factorials."""
    attacks = len(correct)
    stay = []
    for first in correct:
        out = False
        for second in correct:
            weaker, stronger = sum(first & ~second), sum(~first & second)
            d = int(weaker + stronger)
            tail = sum(math.comb(d, heads) for heads in range(int(weaker), d + 1)) / 2**d
            out = out or tail < (1 - confidence) / max(attacks - 1, 1)
        stay.append(not out)
    return stay


@settings(max_examples=60, deadline=None)
@given(Seeds, st.integers(2, 7), st.integers(1, 60), st.sampled_from([0.0, 0.3, 1.5]), st.sampled_from([0.6, 0.9]))
def test_survivors_equal_a_slow_version(seed: int, attacks: int, images: int, spread: float, confidence: float) -> None:
    correct = answers(np.random.default_rng(seed), attacks, images, spread=spread, noise=0.4)
    assert racing.survivors(correct, confidence=confidence).tolist() == slow_survivors(correct, confidence)


@settings(max_examples=60, deadline=None)
@given(Seeds, st.integers(1, 9), st.integers(1, 200), st.floats(0.51, 0.999))
def test_the_attack_that_leads_so_far_always_stays(seed: int, attacks: int, images: int, confidence: float) -> None:
    correct = answers(np.random.default_rng(seed), attacks, images, spread=0.5, noise=0.5)
    stay = racing.survivors(correct, confidence=confidence)
    assert stay[correct.sum(1) == correct.sum(1).min()].all()


@settings(max_examples=40, deadline=None)
@given(Seeds, st.permutations(range(6)))
def test_neither_the_order_of_attacks_nor_that_of_images_matters(seed: int, order: list[int]) -> None:
    generator = np.random.default_rng(seed)
    correct = answers(generator, 6, 80, spread=0.6, noise=0.4)
    shuffled = correct[order][:, generator.permutation(80)]
    whole = racing.survivors(correct, confidence=0.9)
    assert racing.survivors(shuffled, confidence=0.9).tolist() == whole[order].tolist()


@settings(max_examples=40, deadline=None)
@given(Seeds)
def test_more_confidence_never_loses_more_attacks(seed: int) -> None:
    correct = answers(np.random.default_rng(seed), 8, 120, spread=0.8, noise=0.3)
    loose, strict = (racing.survivors(correct, confidence=confidence) for confidence in (0.8, 0.99))
    assert (strict | ~loose).all()


def test_images_on_which_two_attacks_agree_do_not_count() -> None:
    correct = answers(np.random.default_rng(3), 5, 100, spread=0.7, noise=0.3)
    agreed = np.concatenate([correct, np.ones((5, 300), dtype=bool), np.zeros((5, 300), dtype=bool)], axis=1)
    assert (racing.p_values(agreed) == racing.p_values(correct)).all()


def test_p_values_are_those_of_the_binomial_distribution() -> None:
    correct = answers(np.random.default_rng(4), 6, 500, spread=0.4, noise=0.5)
    found = racing.p_values(correct)
    for row, first in enumerate(correct):
        for column, second in enumerate(correct):
            weaker, stronger = (first & ~second).sum(), (~first & second).sum()
            expected = binom.sf(weaker - 1, weaker + stronger, 0.5) if weaker else 1.0
            assert found[row, column] == pytest.approx(expected, rel=1e-9)


def test_the_first_count_of_images_that_decides_is_that_of_the_test() -> None:
    """Two attacks at confidence 0.95: five disputed images are 1/32 of chance, four are 1/16."""
    for disputed, stays in ((4, True), (5, False)):
        correct = np.array([[True] * disputed, [False] * disputed])
        assert racing.survivors(correct, confidence=0.95).tolist() == [stays, True]


def test_one_attack_stays() -> None:
    assert racing.survivors(np.array([[True, False]]), confidence=0.99).tolist() == [True]


@pytest.mark.parametrize("right", [True, False])
def test_equal_attacks_all_stay(right: bool) -> None:
    assert racing.survivors(np.full((9, 50), right), confidence=0.99).all()


@pytest.mark.parametrize("shape", [(3, 0), (0, 3)])
def test_nothing_to_race_on_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"has {shape[0]} attacks on {shape[1]} images"):
        racing.survivors(np.ones(shape, dtype=bool), confidence=0.99)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 99.0])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=f"confidence is {confidence}"):
        racing.survivors(np.ones((2, 2), dtype=bool), confidence=confidence)


@pytest.mark.parametrize(
    ("spread", "noise"),
    [(0.0, 0.3), (0.0, 2.0), (0.02, 0.1), (0.1, 0.3), (0.5, 0.3), (1.0, 1.0)],
    ids=["ties-correlated", "ties-noisy", "near-ties", "near", "far", "far-noisy"],
)
def test_the_minimum_of_the_full_grid_is_found_as_often_as_promised(spread: float, noise: float) -> None:
    """300 races of 30 attacks per kind, on 100 of 600 images. The promise is broken by chance in 1 of 10,000 runs."""
    generator, races, confidence = np.random.default_rng([int(100 * spread), int(10 * noise)]), 300, 0.8
    found, saved = 0, []
    for _ in range(races):
        correct = answers(generator, 30, 600, spread=spread, noise=noise)
        stay = racing.survivors(correct[:, :100], confidence=confidence)
        found += correct[stay].sum(1).min() == correct.sum(1).min()
        saved.append((1 - stay.mean()) * 500 / 600)
    print(f"spread {spread}, noise {noise}: found {found} of {races}, work saved {np.mean(saved):.1%}")
    assert found >= binom.ppf(1e-4, races, confidence)
    if spread >= 0.5:
        assert np.mean(saved) > 0.3  # else nothing is raced at all


def test_the_level_of_one_test_is_used_up_where_it_should_be() -> None:
    """Two equal attacks on all images, one of them the first: it is lost almost as often as allowed, never more."""
    generator, races, lost = np.random.default_rng(9), 20_000, 0
    population = np.repeat([[True, False], [False, True]], 2000, axis=1)  # 4,000 images, all disputed
    for _ in range(races):
        part = population[:, generator.choice(4000, size=101, replace=False)]
        lost += not racing.survivors(part, confidence=0.9)[0]
    level = binom.sf(binom.isf(0.1, 101, 0.5), 101, 0.5)
    assert lost / races < 0.1
    assert lost / races == pytest.approx(level, abs=4 * math.sqrt(0.1 / races))


def test_a_grid_on_a_thousand_images_takes_well_under_a_second() -> None:
    correct = answers(np.random.default_rng(5), 145, 1000, spread=0.3, noise=0.3)
    started = time.perf_counter()
    racing.survivors(correct, confidence=0.99)
    assert time.perf_counter() - started < 1.0
