"""Intervals of accuracies, of minima over attacks, and of paired differences. No torch.

What is resampled are images: one table of right and wrong answers, attacks x images, and every comparison inside it is
paired. Accuracies are shares in [0, 1].
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Correct: TypeAlias = NDArray[np.bool_]
"""Right (True) or wrong; of shape (images,) or (attacks, images)."""

Values: TypeAlias = NDArray[np.float64]
"""Real numbers of shape (attacks, images); NaN: left out."""

_Means: TypeAlias = NDArray[np.float64]
_ROUNDING = 1e-9  # what numbers that are equal may differ by
_CHUNK = 256  # resamples at once: bounds the memory at 10,000 images
_AT_ONCE = 2  # numbers of images that are drawn for at once: each holds 80 MB at 10,000 images


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, and how many images it rests on.

    Attributes:
        value: itself.
        low, high: the ends of its interval.
        n: images.
        answers: what it was counted from; none where it is no accuracy, and no difference of accuracies.
    """

    value: float
    low: float
    high: float
    n: int
    answers: "Answers" = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class Term:
    """The lowest accuracy over some attacks, as a part of a sum.

    Attributes:
        correct: (attacks, images).
        sign: 1, or -1 where it is taken off.
    """

    correct: Correct
    sign: int = 1


Answers: TypeAlias = tuple[Term, ...]
"""What a number was counted from: it is the sum of these terms."""


@dataclass(frozen=True)
class Bootstrap:
    """Resampling of images.

    Attributes:
        resamples: how many.
        confidence: of the intervals, such as 0.95.
        seed: of the resamples; equal seeds give equal intervals.
    """

    resamples: int
    confidence: float
    seed: int


def wilson(correct: int, n: int, *, confidence: float) -> Estimate:
    """Share `correct / n` with Wilson's score interval.

    Raises:
        ValueError: there are no images, or more right ones than images.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} images is no share")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = correct / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return Estimate(share, low, high, n)


def accuracy(correct: Correct, *, confidence: float) -> Estimate:
    """Accuracy of one decision under one attack; `correct` has shape (images,)."""
    if correct.ndim != 1:
        raise ValueError(f"one decision has shape (images,), not {correct.shape}")
    share = wilson(int(correct.sum()), len(correct), confidence=confidence)
    return replace(share, answers=(Term(correct[None]),))


def worst_case(correct: Correct) -> Correct:
    """Per image, whether every attack failed: shape (attacks, images) to (images,)."""
    survived: Correct = np.logical_and.reduce(_checked(correct), axis=0)
    return survived


def strongest(correct: Correct) -> int:
    """Index of the attack with the lowest accuracy; of equal ones the first."""
    return int(_checked(correct).sum(axis=1).argmin())


def minimum(correct: Correct, bootstrap: Bootstrap) -> Estimate:
    """Lowest accuracy over attacks, the attack chosen anew in each resample.

    A minimum of noisy means lies too low, and resampling lowers it once more by about as much. The interval is
    therefore reflected at the value (the basic bootstrap), which takes the excess out on the other side; on the scale
    of arcsin(sqrt(accuracy)), where the spread of an accuracy does not depend on the accuracy, so that intervals near 0
    and 1 are not too short.
    """
    value, draws = _lowest(correct, bootstrap)
    lowest = _interval(_quantiles(value, draws, correct.shape[1], bootstrap), _Share(), bootstrap)
    return replace(lowest, answers=(Term(correct),))


def minimum_difference(first: Correct, second: Correct, bootstrap: Bootstrap) -> Estimate:
    """Lowest accuracy over the attacks of `first` minus that of `second`, on the same images.

    With one row each this is the paired difference of two accuracies.

    Raises:
        ValueError: the two differ in their number of images.
    """
    return paired_difference((Term(first),), (Term(second),), bootstrap)


def paired_difference(first: Answers, second: Answers, bootstrap: Bootstrap) -> Estimate:
    """A number that was counted from answers, minus another one, on the same images.

    Raises:
        ValueError: answers differ in their number of images, or there are none.
    """
    terms = (*first, *(Term(term.correct, -term.sign) for term in second))
    n = _paired(terms)
    parts = [(term.sign, *_lowest(term.correct, bootstrap)) for term in terms]
    value = sum(sign * lowest for sign, lowest, _ in parts)
    draws: _Means = np.add.reduce([sign * drawn for sign, _, drawn in parts])
    most = max(1.0, len(terms) / 2)  # the sum of as many shares as are taken off
    resampled = _interval(_quantiles(value, draws, n, bootstrap), _Difference(-most, most), bootstrap)
    return replace(resampled, answers=terms)


def pooled_difference(by_seed: Sequence[Answers], bootstrap: Bootstrap) -> Estimate:
    """The mean over trainings of a number that was counted from answers, on the same images in each.

    Resampled are images, the same ones in every training, as they face the same images, and the trainings themselves
    (the pigeonhole bootstrap of Owen 2007, for data crossed by two factors): the interval says what other images and
    other trainings could give. Resamples of k trainings put the variance between them at (k - 1) / k of what it is, so
    that their part is stretched by the root of k / (k - 1).

    Args:
        by_seed: what the number of each training was counted from, at least two.
        bootstrap: how intervals are made.

    Raises:
        ValueError: there is one training, or they differ in their images.
    """
    if len(by_seed) < 2:
        raise ValueError("one training is no sample of trainings: pooling needs two")
    n, count = _paired(tuple(term for answers in by_seed for term in answers)), len(by_seed)
    values = np.array([total(answers) for answers in by_seed])
    draws = np.stack([_total_resampled(answers, bootstrap) for answers in by_seed])
    drawn = np.random.default_rng([bootstrap.seed, count]).multinomial(
        count, np.full(count, 1 / count), size=bootstrap.resamples
    )
    weights = 1 / count + (drawn / count - 1 / count) * math.sqrt(count / (count - 1))
    resampled: _Means = (weights * draws.T).sum(axis=1)
    scale = _quantiles(float(values.mean()), resampled, n, bootstrap)
    return _interval(scale, _Difference(), bootstrap)


def _total_resampled(answers: Answers, bootstrap: Bootstrap) -> _Means:
    """The number that was counted from answers, in each resample (resamples,)."""
    drawn: _Means = np.add.reduce([term.sign * _lowest(term.correct, bootstrap)[1] for term in answers])
    return drawn


def total(answers: Answers) -> float:
    """The number that was counted from answers."""
    return float(sum(term.sign * _checked(term.correct).mean(axis=1, dtype=np.float64).min() for term in answers))


def independent_difference(first: Estimate, second: Estimate) -> Estimate:
    """A number minus another one of other images, from their values and intervals alone.

    The interval recovers the variances of the two from their intervals, end by end (Newcombe 1998, method 10; Zou and
    Donner 2008). Where the images are the same after all, it is as a rule too wide.
    """
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, min(first.n, second.n))


def minimum_differences(pairs: Mapping[str, tuple[Correct, Correct]], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """`minimum_difference` of several pairs that differ in their images, by name: draws for each of them take long.

    Raises:
        ValueError: as `minimum_difference`.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = {name: pool.submit(minimum_difference, *pair, bootstrap) for name, pair in pairs.items()}
    return {name: one.result() for name, one in running.items()}


def difference_of_means(first: Sequence[float], second: Sequence[float], *, confidence: float) -> Estimate | None:
    """Mean of some numbers minus that of others, with Welch's interval; None where neither varies.

    Raises:
        ValueError: there are fewer than two of either.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"means of {len(first)} and {len(second)} numbers have no interval: each needs two")
    sizes = len(first), len(second)
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    if sum(parts) < _ROUNDING**2:
        return None
    from scipy.special import stdtrit  # takes a moment to import, and tables do not need it

    freedom = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt(sum(parts))
    value = float(np.mean(first) - np.mean(second))
    return Estimate(value, value - half, value + half, sum(sizes))


def excess(correct: Correct, attack: int, bootstrap: Bootstrap) -> Estimate:
    """Accuracy under one of the attacks minus the lowest accuracy over all of them: never below zero.

    Below, the interval is reflected as in `minimum`. Above, it is not: resamples cannot fall below zero, so a reflected
    upper end would be squeezed to the value, and at zero to zero. The interval is at least Wilson's for the same share
    of the images, as differences of answers (-1, 0 or 1) with mean v have at least the variance v (1 - v) of a share.
    """
    (value, draws), (less, fewer) = _lowest(correct[[attack]], bootstrap), _lowest(correct, bootstrap)
    bounds = _quantiles(value - less, draws - fewer, correct.shape[1], bootstrap)
    least = wilson(round(bounds.value * bounds.n), bounds.n, confidence=bootstrap.confidence)
    low = max(0.0, min(2 * bounds.value - bounds.upper, least.low))
    behind = (Term(correct[[attack]]), Term(correct, -1))
    return Estimate(bounds.value, low, max(bounds.upper, least.high), bounds.n, behind)


@dataclass(frozen=True)
class OverAttacks:
    """What a mean over images is on average over attacks, at least, and at most."""

    average: Estimate
    lowest: Estimate
    highest: Estimate


def over_attacks(values: Values, bootstrap: Bootstrap, *, shares: bool = False) -> OverAttacks:
    """Mean over the images of each attack; then average, lowest and highest over attacks, anew in each resample.

    Intervals are reflected as in `minimum`: for shares (values 0 and 1) on the scale of accuracies, else as they are.
    The number of images is that of the attack with the fewest.

    Args:
        values: (attacks, images); images that are NaN under an attack are left out of its mean.
        bootstrap: how resamples are drawn.
        shares: whether values are 0 and 1.

    Raises:
        ValueError: an attack has no image.
    """
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).any(axis=1).all():
        raise ValueError(f"a table of attacks x images with an image for every attack is needed, not {values.shape}")
    whole, draws = _means_of(values, np.ones((1, values.shape[1]))), _means_of_resamples(values, bootstrap)
    n = int(np.isfinite(values).sum(axis=1).min())
    scale = _Share() if shares else _Unbounded()
    estimates = (
        _interval(_quantiles(float(over(whole, axis=0)[0]), over(draws, axis=0), n, bootstrap), scale, bootstrap)
        for over in (np.mean, np.min, np.max)
    )
    return OverAttacks(*estimates)


def _means_of_resamples(values: Values, bootstrap: Bootstrap) -> _Means:
    drawn = resample_weights(values.shape[1], bootstrap)
    return np.concatenate([_means_of(values, weights) for weights in drawn], axis=1)


def _means_of(values: Values, weights: _Means) -> _Means:
    """Means (attacks, resamples) of images that weights (resamples, images) count; NaN counts nowhere."""
    known = np.isfinite(values)
    sums, counts = np.where(known, values, 0.0) @ weights.T, known.astype(np.float64) @ weights.T
    # An attack none of whose images a resample drew keeps its mean.
    means: _Means = np.broadcast_to(np.nanmean(values, axis=1)[:, None], sums.shape).copy()
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


@dataclass(frozen=True)
class _Share:
    """The scale of accuracies."""

    least: float = 0.0
    most: float = 1.0

    def reflect(self, quantile: float, value: float) -> float:
        """The quantile mirrored at the value."""
        angle = 2 * math.asin(math.sqrt(value)) - math.asin(math.sqrt(quantile))
        return math.sin(min(max(angle, 0.0), math.pi / 2)) ** 2


@dataclass(frozen=True)
class _Difference:
    """The scale of differences."""

    least: float = -1.0
    most: float = 1.0

    def reflect(self, quantile: float, value: float) -> float:
        """The quantile mirrored at the value; 0 where only a rounding error is left of it."""
        mirrored = 2 * value - quantile
        return 0.0 if abs(mirrored) < _ROUNDING else mirrored


@dataclass(frozen=True)
class _Unbounded(_Difference):
    """The scale of real numbers."""

    least: float = -math.inf
    most: float = math.inf


def _paired(terms: Answers) -> int:
    """The number of images that all have."""
    images: dict[int, None] = dict.fromkeys(len(_checked(term.correct)[0]) for term in terms)
    if len(images) != 1:
        raise ValueError(f"{' images cannot be paired with '.join(map(str, images)) or 'no answers'}")
    return next(iter(images))


def _checked(correct: Correct) -> Correct:
    if correct.ndim != 2 or 0 in correct.shape:
        raise ValueError(f"a table of attacks x images is needed, not shape {correct.shape}")
    return correct


def _interval(resampled: "_Resampled", scale: _Share | _Difference, bootstrap: Bootstrap) -> Estimate:
    value = resampled.value
    low, high = scale.reflect(resampled.upper, value), scale.reflect(resampled.lower, value)
    if resampled.equal:  # Images that all agree say nothing of the spread; but n of them bound how many disagree.
        unseen = wilson(0, resampled.n, confidence=bootstrap.confidence).high
        low, high = value - unseen, value + unseen
    return Estimate(value, max(scale.least, min(low, value)), min(scale.most, max(high, value)), resampled.n)


@dataclass(frozen=True)
class _Resampled:
    """A statistic of n images, the quantiles of its resamples, and whether these are all equal."""

    value: float
    lower: float
    upper: float
    equal: bool
    n: int


def _quantiles(value: float, draws: _Means, n: int, bootstrap: Bootstrap) -> _Resampled:
    tail = (1 - bootstrap.confidence) / 2
    lower, upper = (float(quantile) for quantile in np.quantile(draws, [tail, 1 - tail]))
    return _Resampled(value, lower, upper, bool(np.ptp(draws) < 1e-12), n)


@dataclass(frozen=True)
class _Table:
    """Answers that equal others by their bits."""

    digest: bytes
    correct: Correct = field(compare=False)


def _lowest(correct: Correct, bootstrap: Bootstrap) -> tuple[float, _Means]:
    """Lowest accuracy over attacks: of the images, and of each resample of them (resamples,)."""
    digest = hashlib.sha256(repr(correct.shape).encode() + np.packbits(_checked(correct)).tobytes()).digest()
    return float(correct.mean(axis=1, dtype=np.float64).min()), _lowest_resampled(_Table(digest, correct), bootstrap)


@lru_cache(maxsize=32)  # a minimum, its differences from others, and the excess over it ask for the same
def _lowest_resampled(table: _Table, bootstrap: Bootstrap) -> _Means:
    n = table.correct.shape[1]
    correct, drawn = table.correct.astype(np.float32), _draws(n, bootstrap)  # counts stay exact below 2^24
    starts = range(0, bootstrap.resamples, _CHUNK)
    counts = np.concatenate([(correct @ drawn[start : start + _CHUNK].T).min(axis=0) for start in starts])
    lowest: _Means = counts.astype(np.float64) / n
    return lowest


def resample_weights(n: int, bootstrap: Bootstrap) -> Iterator[_Means]:
    """How often each of n images is drawn (resamples, n), in chunks."""
    drawn = _draws(n, bootstrap)
    for start in range(0, bootstrap.resamples, _CHUNK):
        yield drawn[start : start + _CHUNK].astype(np.float64)


@lru_cache(maxsize=2)  # every number of a table is resampled alike, and drawing takes longer than the rest
def _draws(n: int, bootstrap: Bootstrap) -> NDArray[np.float32]:
    generator, chances = np.random.default_rng(bootstrap.seed), np.full(n, 1 / n)
    drawn = np.empty((bootstrap.resamples, n), np.float32)  # holds counts exactly
    for start in range(0, bootstrap.resamples, _CHUNK):
        size = min(_CHUNK, bootstrap.resamples - start)
        drawn[start : start + size] = generator.multinomial(n, chances, size=size)
    return drawn
