"""Signs that an attack failed, and not that a decision is robust: pure functions of records, each with its threshold.

The list is that of Carlini et al. (2019, "On evaluating adversarial robustness") and of AutoAttack's own checks: what a
masked gradient, a randomised output or a leaked label does to attacks. A check fails loudly where its sign is beyond
chance; where a run is too small to tell, it says that instead. Comparisons are paired by image, with an exact one-sided
sign test at LEVEL, which a run of a hundred comparisons passes by chance nine times out of ten.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis.radius import ATTACK, NOISE, RadiusCurve
from deqpipe.analysis.suite import WITHSTOOD, AttackRun, SuiteOutcome
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Correct
from deqpipe.statistics.racing import sign_test
from deqpipe.workflow.suite_attacks import LONG, QUERIES

Verdict: TypeAlias = Literal["failed", "passed", "too few"]

LEVEL = 1e-3
"""Chance of one comparison to fail where there is nothing."""
LEAST = 20
"""Fewer images tell nothing: of twenty, even a share of a third can be missing by chance once in three thousand."""
LOST = 0.1
"""Share of steps without a gradient from which an attack is blind: honest float32 losses lose single steps."""
AGREEING = 0.5
"""Share of withstanding images whose starts end with equal margins, bit for bit, and with next to the clean one's."""
STILL = 1e-4
"""Share of the clean margin by which an attack that moves must have lowered it: where it has, starts with equal margins
have met in one minimum, such as a corner of the ball, where a nearly linear decision sends all of them."""
FAINT = 500
"""Queries below which a black-box attack may find nothing at all."""
SHORT = 10
"""Steps below which a gradient attack may find nothing at all."""
BY_LUCK = 10
"""Images that noise must turn before its strength is judged."""
_DETERMINISTIC = "decision is not deterministic"


@dataclass(frozen=True)
class Finding:
    """What one check says of one decision.

    Attributes:
        check: its name.
        row: the decision, as tables call it.
        verdict: failed, passed, or too few images to tell.
        words: what was seen, as a sentence.
    """

    check: str
    row: str
    verdict: Verdict
    words: str


def findings(outcomes: Iterable[SuiteOutcome], curves: Iterable[RadiusCurve]) -> tuple[Finding, ...]:
    """All checks on all decisions, in the order of the decisions."""
    curves = tuple(curves)
    at_radii = {one.decision: one for one in curves}
    of_suite = [finding for one in outcomes for finding in _of_suite(one, at_radii.get(one.decision))]
    return (*of_suite, *(finding for one in curves for check in _OF_RADIUS for finding in check(one)))


def _of_suite(one: SuiteOutcome, at_radii: RadiusCurve | None) -> list[Finding]:
    return [*(finding for check in _OF_SUITE for finding in check(one)), *never_succeeds(one, at_radii)]


def failed(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that say that an attack failed."""
    return tuple(one for one in found if one.verdict == "failed")


def _beyond_chance(more: int, less: int) -> bool:
    """Whether so many discordant pairs are more than the others by an exact one-sided sign test at LEVEL."""
    return sign_test(more, less) < LEVEL


# Of the suite


def _gradients(one: SuiteOutcome) -> list[AttackRun]:
    return [run for run in one.runs.values() if run.attack.search in ("apgd", "pgd")]


def more_steps(one: SuiteOutcome) -> list[Finding]:
    """More steps are no weaker: PGD of two lengths on the images that both faced, by the lowest margin that each met.

    Margins and not falls are compared, as in standard mode the longer attack meets only what the shorter one left.
    """
    runs = sorted((run for run in one.runs.values() if run.attack.group == LONG), key=_length)
    return [_longer(one, short, long) for short, long in pairwise(runs)]


def _length(run: AttackRun) -> int:
    return int(run.attack.name.rpartition("_")[2])


def _longer(one: SuiteOutcome, short: AttackRun, long: AttackRun) -> Finding:
    both, at_short, at_long = np.intersect1d(short.images, long.images, return_indices=True)
    difference = long.margin[at_long] - short.margin[at_short]
    weaker, stronger = int((difference > 0).sum()), int((difference < 0).sum())
    name = f"{long.attack.label} after {short.attack.label}"
    if len(both) < LEAST:
        return _few(one, "more steps", f"{name}: both met {len(both)} images")
    bad = _beyond_chance(weaker, stronger)
    words = f"{name}: the longer attack ends with the higher margin on {weaker} and with the lower on {stronger} images"
    return _found(one, "more steps", bad=bad, words=words)


def black_box(one: SuiteOutcome) -> list[Finding]:
    """Attacks with gradients are no weaker than queries: which images each turns that the other does not.

    In standard mode queries meet what gradients left. What these turned counts as missed by queries, so that a failure
    is one whatever queries would have done there.
    """
    gradients = _gradients(one)
    if not gradients or not any(run.attack.group == QUERIES for run in one.runs.values()):
        return []
    queries = one.turned_by((QUERIES,))
    by_group = {run.attack.group: one.turned_by((run.attack.group,)) for run in gradients}
    name = "black box"
    if one.clean.sum() < LEAST:
        return [_few(one, name, f"{one.clean.sum()} images are right when clean")]
    every = np.logical_or.reduce(list(by_group.values()))
    bad = _beyond_chance(*_discordant(queries, every))
    words = f"queries alone turn {queries.sum()} images, all attacks with gradients {every.sum()}"
    return [_found(one, name, bad=bad, words=words)]


def _discordant(one: Correct, other: Correct) -> tuple[int, int]:
    return int((one & ~other).sum()), int((other & ~one).sum())


def lost_gradients(one: SuiteOutcome) -> list[Finding]:
    """Gradients are there: the share of an attack's steps, over its images, whose gradient was zero or no number."""
    shares = {run.attack.label: _lost(run) for run in _gradients(one) if _tells_gradients(run)}
    bad = {name: share for name, share in shares.items() if share > LOST}
    if not shares:
        return []
    worst = max(shares, key=lambda name: shares[name])
    more = f", and of {len(bad) - 1} more attacks over {LOST:.0%}" if len(bad) > 1 else ""
    words = f"{shares[worst]:.0%} of the steps of {worst} had no gradient{more}"
    return [_found(one, "lost gradients", bad=bool(bad), words=words)]


def _tells_gradients(run: AttackRun) -> bool:
    """Whether an attack took steps and says of them whether there was a gradient: a library's own does not."""
    stepped = run.taken > 0
    return bool(stepped.any() and not np.isnan(run.lost_gradient[stepped]).any())


def _lost(run: AttackRun) -> float:
    stepped = run.taken > 0
    return float(np.average(run.lost_gradient[stepped], weights=run.taken[stepped]))


def agreeing_starts(one: SuiteOutcome) -> list[Finding]:
    """Attacks move: how many withstanding images have one margin, to the last bit, from every start, the clean one's.

    Random starts of an attack that moves differ, or meet in one minimum far below the clean image. Those of an attack
    that stands still on a decision which is flat around the image (quantised, saturated) agree, and gain nothing.
    """
    several_starts = [run for run in _gradients(one) if not run.attack.warm]  # warm ones start where others ended
    runs = [run for run in several_starts if len(_by_starts(run)) >= LEAST]
    if not runs:
        several = any(np.isfinite(run.spread).any() for run in several_starts)
        return [_few(one, "agreeing starts", f"fewer than {LEAST} images withstand")] if several else []
    agree = {run.attack.label: run.spread[_by_starts(run)] == 0 for run in runs}
    still = {run.attack.label: agree[run.attack.label] & _stands_still(one, run)[_by_starts(run)] for run in runs}
    bad = [f"{name} on {images.mean():.0%}" for name, images in still.items() if images.mean() > AGREEING]
    met = {name: images.mean() for name, images in agree.items() if images.mean() > AGREEING}
    if bad:
        words = f"all starts end with the clean image's margin: {', '.join(bad)} of what withstands"
    elif met:
        name = max(met, key=lambda name: met[name])
        words = f"starts of {name} meet in one minimum on {met[name]:.0%} of what withstands, below the clean margin"
    else:
        words = "starts differ"
    return [_found(one, "agreeing starts", bad=bool(bad), words=words)]


def _by_starts(run: AttackRun) -> NDArray[np.int64]:
    """Rows of the images that withstand from several starts."""
    return np.flatnonzero((run.broken_at == WITHSTOOD) & np.isfinite(run.spread))


def _stands_still(one: SuiteOutcome, run: AttackRun) -> Correct:
    """(faced,) whether an attack has hardly lowered the margin of the clean image."""
    clean = one.clean_margin[run.images]
    still: Correct = run.margin >= clean - STILL * np.abs(clean)
    return still


def never_succeeds(one: SuiteOutcome, at_radii: RadiusCurve | None) -> list[Finding]:
    """Every attack turns something, where all together turn a quarter; in standard mode only all of them can be asked.

    A quarter, so that an attack that turns nothing of LEAST images is beyond chance far weaker than the others.
    Where all turn nothing, the decision may honestly be robust: then an attack turns images in larger balls.

    Args:
        one: the suite.
        at_radii: the same decision at other radii, if it was attacked there.
    """
    name, right = "never succeeds", int(one.clean.sum())
    attacks = [run for run in one.runs.values() if run.attack.search != "noise"]
    if right < LEAST:
        return [_few(one, name, f"{right} images are right when clean")]
    turned = right - int(one.right_under(attacks).sum())
    if not turned:
        there = None if at_radii is None else _succeeds_at(at_radii)
        words = f"no attack turns any of {right} images" + (f"; at another radius one does: {there}" if there else "")
        return [_found(one, name, bad=there is None, words=words)]
    if one.mode == "standard" or turned < right / 4:
        return [_found(one, name, bad=False, words=f"all attacks together turn {turned} of {right} images")]
    idle = [run.attack.label for run in attacks if run.right.all() and _has_budget(run)]
    words = f"{', '.join(idle) or 'no attack'} turns none of {right} images, all together turn {turned}"
    return [_found(one, name, bad=bool(idle), words=words)]


def _succeeds_at(curve: RadiusCurve) -> str | None:
    """The smallest radius at which an attack turns more than noise does, beyond chance; None: there is none."""
    for radius, left, lucky in zip(curve.radii, curve.right[ATTACK], curve.right[NOISE], strict=True):
        if _beyond_chance(*_discordant(lucky, left)):
            return f"{int((curve.clean & ~left).sum())} of {int(curve.clean.sum())} at {255 * radius:.4g}/255"
    return None


def _has_budget(run: AttackRun) -> bool:
    """Whether an attack took as many steps or queries as it takes to judge it."""
    least = SHORT if run.attack.search in ("apgd", "pgd") else FAINT
    return len(run.images) >= LEAST and float(np.median(run.taken)) >= least


def deterministic(one: SuiteOutcome) -> list[Finding]:
    """The decision answers the same when asked again: clean images by its jobs' word, attacked ones by their records.

    An image that fell, and about which the decision is right when its row is made, was judged twice with two answers.
    One in a hundred may be a margin of rounding errors, in a batch of another size.
    """
    said = [flag for flag in one.flags if flag.startswith(_DETERMINISTIC)]
    fallen = sum(int((run.broken_at != WITHSTOOD).sum()) for run in one.runs.values())
    twice = sum(int(((run.broken_at != WITHSTOOD) & run.right).sum()) for run in one.runs.values())
    seen = [f"{flag} ({one.flags[flag]} of {one.jobs} jobs)" for flag in said]
    seen += [f"{twice} of {fallen} attacked images on which it erred were right when asked again"] if twice else []
    words = "; ".join(seen) or "every answer came out the same twice"
    return [_found(one, "deterministic", bad=bool(said) or twice > fallen / 100, words=words)]


def noise(one: SuiteOutcome) -> list[Finding]:
    """Attacks are stronger than noise: they turn more than a tenth as many again as noise alone does."""
    by_noise = [run for run in one.runs.values() if run.attack.search == "noise"]
    gradients = _gradients(one)
    if not by_noise or not gradients:
        return []
    turned = one.clean & ~by_noise[0].left(one.clean)
    more = int((one.turned_by([run.attack.group for run in gradients]) & ~turned).sum())
    lucky = int(turned.sum())
    bad = lucky >= BY_LUCK and more <= lucky / 10
    return [_found(one, "noise", bad=bad, words=f"noise turns {lucky} images, attacks with gradients {more} more")]


# Over the radius


def reaches_zero(one: RadiusCurve) -> list[Finding]:
    """A large enough ball leaves nothing: at the last radius no more than chance is right.

    In a ball that covers all images an attack can show any of them, so what stays right is what the decision always
    answers: one class at most, which a decision that has lost all information keeps as well. So a lower end of the
    accuracy (at LEVEL) above one in the number of classes means an attack that fails. Between that and 0, few images
    tell nothing.
    """
    name, radius = "reaches zero", one.radii[-1]
    classes = max(2, len(np.unique(one.labels)))
    share = intervals.wilson(int(one.last.sum()), one.images, confidence=1 - 2 * LEVEL)
    kept = f"at radius {255 * radius:.4g}/255 the attack leaves {share.value:.0%} of {one.images} images"
    if share.low > 1 / classes:
        alone = np.unique(one.labels[one.last])
        constant = ", all of one class: the decision may answer it always" if len(alone) == 1 else ""
        larger = "" if radius >= 1 else "; suite.radii may end too early"
        return [_found_at(one, name, bad=True, words=f"{kept}, more than chance{constant}{larger}")]
    if share.value > 0 and share.high > 1 / classes:
        return [Finding(name, one.decision.row, "too few", f"{kept}: too few to tell it from 0")]
    return [_found_at(one, name, bad=False, words=kept)]


def larger_ball(one: RadiusCurve) -> list[Finding]:
    """A larger ball leaves no more: each radius against the one before, paired by image."""
    right = one.right[ATTACK]
    pairs = zip(one.radii[1:], right, right[1:], strict=False)
    bad = [f"{255 * radius:.4g}/255" for radius, small, large in pairs if _beyond_chance(*_discordant(large, small))]
    if one.images < LEAST:
        return [Finding("larger ball", one.decision.row, "too few", f"{one.images} images")]
    words = f"more is right at radius {', '.join(bad)} than at the one before" if bad else "larger balls leave less"
    return [_found_at(one, "larger ball", bad=bool(bad), words=words)]


def noise_over_radius(one: RadiusCurve) -> list[Finding]:
    """Noise of no radius is stronger than the attack of that radius, paired by image."""
    pairs = zip(one.radii, one.right[NOISE], one.right[ATTACK], strict=True)
    bad = [f"{255 * radius:.4g}/255" for radius, lucky, left in pairs if _beyond_chance(*_discordant(left, lucky))]
    words = f"noise turns more than the attack at radius {', '.join(bad)}" if bad else "noise is weaker at every radius"
    return [_found_at(one, "noise over the radius", bad=bool(bad), words=words)]


def _found(one: SuiteOutcome, check: str, *, bad: bool, words: str) -> Finding:
    return Finding(check, one.decision.row, "failed" if bad else "passed", words)


def _found_at(one: RadiusCurve, check: str, *, bad: bool, words: str) -> Finding:
    return Finding(check, one.decision.row, "failed" if bad else "passed", words)


def _few(one: SuiteOutcome, check: str, words: str) -> Finding:
    return Finding(check, one.decision.row, "too few", f"{words}: too few to tell")


_OF_SUITE: Sequence[Callable[[SuiteOutcome], list[Finding]]] = (
    deterministic, lost_gradients, agreeing_starts, more_steps, black_box, noise,
)  # fmt: skip
_OF_RADIUS: Sequence[Callable[[RadiusCurve], list[Finding]]] = (reaches_zero, larger_ball, noise_over_radius)
