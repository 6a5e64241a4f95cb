"""Intervals against slow versions, known values and their coverage."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap

BOOTSTRAP = Bootstrap(resamples=300, confidence=0.95, seed=7)


def table(attacks: int, images: int, *, share: float = 0.6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((attacks, images)) < share


def hard_images(generator: np.random.Generator, attacks: int, images: int, *, noise: float) -> np.ndarray:
    """Answers of attacks that agree on which images are hard; each attack is right on half of all images."""
    hardness = generator.normal(size=images)
    return hardness + noise * generator.normal(size=(attacks, images)) > 0


def slow_quantiles(
    statistic: Callable[[list[float]], float], correct: np.ndarray, bootstrap: Bootstrap
) -> tuple[float, float, float]:
    """Value and quantiles of the resamples, one after another, image by image."""
    generator = np.random.default_rng(bootstrap.seed)
    n = correct.shape[1]
    draws = []
    for _ in range(bootstrap.resamples):
        counts = generator.multinomial(n, np.full(n, 1 / n))
        images = [image for image in range(n) for _ in range(counts[image])]
        draws.append(statistic([np.mean([row[image] for image in images]) for row in correct]))
    lower, upper = np.quantile(draws, [0.025, 0.975])
    return statistic([float(np.mean(row)) for row in correct]), float(lower), float(upper)


def angle(accuracy: float) -> float:
    return float(np.arcsin(np.sqrt(accuracy)))


def test_wilson_interval_is_the_textbook_one() -> None:
    estimate = intervals.wilson(15, 20, confidence=0.95)
    assert (estimate.value, estimate.n) == (0.75, 20)
    assert (estimate.low, estimate.high) == pytest.approx((0.531299, 0.888138), abs=1e-6)


@given(n=st.integers(1, 400), data=st.data())
def test_wilson_bounds_solve_the_score_equation(n: int, data: st.DataObject) -> None:
    estimate = intervals.wilson(data.draw(st.integers(0, n)), n, confidence=0.95)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    for bound in (estimate.low, estimate.high):
        score = (estimate.value - bound) ** 2
        assert score <= 1.959963985**2 * bound * (1 - bound) / n + 1e-9


def test_wilson_interval_stays_open_when_all_or_none_are_right() -> None:
    assert intervals.wilson(0, 48, confidence=0.95).high == pytest.approx(0.0741, abs=1e-4)
    assert intervals.wilson(48, 48, confidence=0.95).low == pytest.approx(1 - 0.0741, abs=1e-4)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="is no share"):
        intervals.wilson(correct, n, confidence=0.95)


def test_accuracy_counts_right_answers() -> None:
    assert intervals.accuracy(np.array([True, False, True, True]), confidence=0.9).value == 0.75


def test_minimum_equals_its_slow_version() -> None:
    correct = table(4, 23)
    estimate = intervals.minimum(correct, BOOTSTRAP)
    assert estimate.value == correct.mean(axis=1).min()
    value, lower, upper = slow_quantiles(min, correct, BOOTSTRAP)
    assert angle(estimate.low) == pytest.approx(2 * angle(value) - angle(upper))
    assert angle(estimate.high) == pytest.approx(2 * angle(value) - angle(lower))


def test_difference_of_minima_equals_its_slow_version() -> None:
    first, second = table(3, 19, seed=1), table(2, 19, seed=2, share=0.4)
    estimate = intervals.minimum_difference(first, second, BOOTSTRAP)
    both = np.concatenate([first, second])
    value, lower, upper = slow_quantiles(lambda means: min(means[:3]) - min(means[3:]), both, BOOTSTRAP)
    assert estimate.value == pytest.approx(value)
    assert (estimate.low, estimate.high) == pytest.approx((2 * value - upper, 2 * value - lower))


@pytest.mark.parametrize("seed", [330, 338, 363, 376])
def test_an_end_at_zero_is_zero_and_no_rounding_error(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(20, 100))
    first = generator.random((1, n)) < 0.6
    second = first ^ (generator.random((1, n)) < 0.1)
    estimate = intervals.minimum_difference(first, second, BOOTSTRAP)
    assert 0 in (estimate.low, estimate.high)


def test_excess_equals_its_slow_version_and_is_never_negative() -> None:
    correct = table(5, 31, seed=3)
    estimate = intervals.excess(correct, 2, BOOTSTRAP)
    value, _, upper = slow_quantiles(lambda means: means[2] - min(means), correct, BOOTSTRAP)
    share = intervals.wilson(round(31 * value), 31, confidence=0.95)
    low = max(min(2 * value - upper, share.low), 0)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value, low, max(upper, share.high)))
    assert min(intervals.excess(correct, attack, BOOTSTRAP).value for attack in range(5)) == 0


def test_an_excess_of_zero_is_no_more_certain_than_its_images_allow() -> None:
    correct = table(4, 48)
    estimate = intervals.excess(correct, intervals.strongest(correct), BOOTSTRAP)
    assert (estimate.value, estimate.low) == (0, 0)
    assert estimate.high >= intervals.wilson(0, 48, confidence=0.95).high
    equal = intervals.excess(np.repeat(correct[:1], 3, axis=0), 0, BOOTSTRAP)
    assert (equal.low, equal.high) == (0, intervals.wilson(0, 48, confidence=0.95).high)


@pytest.mark.parametrize(
    ("attacks", "truth", "least"), [(1, 0.06, 0.93), (1, 0.2, 0.93), (8, 0.0, 0.95), (8, 0.1, 0.9)]
)
def test_intervals_of_an_excess_cover_the_truth(attacks: int, truth: float, least: float) -> None:
    """Attacks that turn `truth` of the images more than attack 0 does; a reflected upper end covers 0.79 at 0.06."""
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        hardness, noise = generator.random(48), 0.05 * (attacks > 1) * generator.normal(size=(attacks + 1, 48))
        correct = hardness + noise > np.array([0.4] + [0.4 + truth] * attacks)[:, None]
        estimate = intervals.excess(correct, 0, Bootstrap(resamples=200, confidence=0.95, seed=trial))
        covered += estimate.low <= truth <= estimate.high
    assert covered / 200 >= least


def test_resamples_beyond_one_chunk_are_all_used_once() -> None:
    short, long = (
        intervals.minimum(table(2, 40), Bootstrap(resamples=count, confidence=0.95, seed=0)) for count in (256, 600)
    )
    assert short != long
    assert short.low == pytest.approx(long.low, abs=0.05)


def test_pairing_narrows_a_difference_of_decisions_that_mostly_agree() -> None:
    first = table(1, 200, seed=4)
    second = first.copy()
    second[0, :6] ^= True
    paired = intervals.minimum_difference(first, second, BOOTSTRAP)
    alone = intervals.accuracy(first[0], confidence=0.95)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_worst_case_needs_every_attack_to_fail_and_lies_at_or_below_the_minimum() -> None:
    correct = table(6, 50, share=0.9)
    survived = intervals.worst_case(correct)
    assert survived.tolist() == [all(row[image] for row in correct) for image in range(50)]
    assert survived.mean() <= correct.mean(axis=1).min()


def test_strongest_attack_is_the_first_of_equal_ones() -> None:
    assert intervals.strongest(np.array([[True, True], [True, False], [False, True]])) == 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_unanimous_images_still_leave_an_interval(share: float) -> None:
    estimate = intervals.minimum(np.full((3, 48), share == 1.0), BOOTSTRAP)
    wilson = intervals.wilson(round(48 * share), 48, confidence=0.95)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((wilson.value, wilson.low, wilson.high))


def test_equal_decisions_differ_by_zero_with_an_interval_around_it() -> None:
    correct = table(3, 48)
    estimate = intervals.minimum_difference(correct, correct, BOOTSTRAP)
    assert estimate.value == 0
    assert estimate.low == -estimate.high == pytest.approx(-0.0741, abs=1e-4)


def test_one_image_gives_an_interval_too() -> None:
    estimate = intervals.minimum(np.array([[True]]), BOOTSTRAP)
    assert (estimate.value, estimate.high, estimate.n) == (1, 1, 1)
    assert estimate.low < 0.3


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    correct = table(4, 60)
    other = Bootstrap(resamples=300, confidence=0.95, seed=8)
    assert intervals.minimum(correct, BOOTSTRAP) == intervals.minimum(correct, BOOTSTRAP)
    assert intervals.minimum(correct, BOOTSTRAP) != intervals.minimum(correct, other)


@pytest.mark.parametrize("share", [0.05, 0.95])
def test_intervals_near_zero_and_one_are_as_wide_as_few_images_demand(share: float) -> None:
    """Without the arcsine scale they cover 0.77 to 0.82 here."""
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        correct = generator.random((1, 48)) < share
        estimate = intervals.minimum(correct, Bootstrap(resamples=200, confidence=0.95, seed=trial))
        covered += estimate.low <= share <= estimate.high
    assert covered / 200 >= 0.93


@pytest.mark.parametrize(("attacks", "noise", "least"), [(1, 0.3, 0.92), (10, 0.1, 0.87), (40, 0.2, 0.85)])
def test_intervals_of_minima_cover_the_truth_about_as_often_as_they_say(
    attacks: int, noise: float, least: float
) -> None:
    """All attacks are equally strong, the hardest case for a minimum; quantiles without reflection cover 0.79 at 40."""
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        bootstrap = Bootstrap(resamples=200, confidence=0.95, seed=trial)
        estimate = intervals.minimum(hard_images(generator, attacks, 300, noise=noise), bootstrap)
        covered += estimate.low <= 0.5 <= estimate.high
    assert covered / 200 >= least


@pytest.mark.parametrize("shape", [(5,), (0, 5), (5, 0), (2, 2, 2)])
def test_minimum_refuses_what_is_no_table_of_attacks_and_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="attacks x images"):
        intervals.minimum(np.zeros(shape, dtype=bool), BOOTSTRAP)


def test_accuracy_refuses_several_attacks() -> None:
    with pytest.raises(ValueError, match="one decision"):
        intervals.accuracy(table(2, 5), confidence=0.95)


def test_decisions_on_different_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="5 images cannot be paired with 6"):
        intervals.minimum_difference(table(1, 5), table(1, 6), BOOTSTRAP)


def test_what_is_kept_of_one_table_is_never_given_for_another() -> None:
    """Tables of equal bits in other shapes, and other seeds; asked for in turn, twice."""
    generator, bootstraps = np.random.default_rng(3), [Bootstrap(300, 0.95, seed) for seed in (0, 1)]
    whole = generator.random((6, 40)) < 0.6
    tables = (whole, whole.reshape(3, 80), whole[:5], whole[::-1], ~whole)
    for _ in range(2):
        for correct, bootstrap in product(tables, bootstraps):
            drawn = np.concatenate(list(intervals.resample_weights(correct.shape[1], bootstrap)))
            lowest = (correct.astype(float) @ drawn.T / correct.shape[1]).min(axis=0)
            found = intervals.excess(correct, 0, bootstrap)
            first = correct[0].astype(float) @ drawn.T / correct.shape[1]
            assert found.high >= np.quantile(first - lowest, 0.975) - 1e-12
            assert np.array_equal(intervals._lowest(correct, bootstrap)[1], lowest)


def test_several_differences_are_those_of_one_after_the_other() -> None:
    generator, bootstrap = np.random.default_rng(4), Bootstrap(100, 0.95, 0)
    pairs = {str(n): (generator.random((2, n)) < 0.5, generator.random((1, n)) < 0.5) for n in (10, 20, 30, 40, 50)}
    expected = {name: intervals.minimum_difference(*pair, bootstrap) for name, pair in pairs.items()}
    assert intervals.minimum_differences(pairs, bootstrap) == expected
