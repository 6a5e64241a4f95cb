"""Short phrases about evaluations that several tables and figures use."""

from collections.abc import Mapping, Sequence

import numpy as np

from deqpipe.analysis import autoattack_outcomes
from deqpipe.analysis.autoattack_outcomes import AutoAttackOutcome
from deqpipe.analysis.evaluation import Evaluation
from deqpipe.config import AttackName, Config
from deqpipe.reporting import cells
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Estimate
from deqpipe.workflow import shards
from deqpipe.workflow.library_attacks import APGD_CE, LIBRARY_ATTACKS, SQUARE


def strongest(evaluation: Evaluation) -> str:
    """The attack with the lowest accuracy, as (i, K_a, lambda)."""
    return evaluation.points[evaluation.strongest].triple


def early_states(evaluations: Sequence[Evaluation]) -> str:
    """Which state decides, per decision."""
    listed = "; ".join(f"{evaluation.decision.row} {evaluation.state}" for evaluation in evaluations)
    return f"Early states, counted from 1: {listed}."


def strongest_attacks(evaluations: Sequence[Evaluation]) -> str:
    """The strongest attack, per decision."""
    listed = "; ".join(f"{one.decision.row} {strongest(one)}" for one in evaluations)
    return f"Strongest attacks (i, K_a, lambda): {listed}."


def attack_checks(evaluations: Sequence[Evaluation]) -> str:
    """Whether the attacks were attacks: size, gradients, and how the solves ended."""
    checks = [one.checks for one in evaluations]
    largest, lost = max(one.perturbation for one in checks), max(one.lost_gradient for one in checks)
    broken = sum(one.nonfinite for one in checks)
    return (
        f"Attack checks: no pixel changed by more than {255 * largest:.4g}/255; at most {lost:.2%} of the attack steps "
        f"on a model had no gradient; {broken:,} judged images ended in a state that is not finite."
        f"{_undecided(evaluations)}"
    )


def _undecided(evaluations: Sequence[Evaluation]) -> str:
    """Which accuracies count images that the model had no answer to; nothing where all had one."""
    listed = [
        f"{one.decision.row} {one.checks.undecided:,} of {one.checks.judged:,}"
        for one in evaluations
        if one.checks.undecided
    ]
    if not listed:
        return ""
    return f" Counted as wrong for want of a class, as their logits are not finite: {'; '.join(listed)} judged images."


def blind() -> str:
    """What rows with Sec. 3.2 are worth."""
    return (
        "Rows with Sec. 3.2 face images that were crafted without it: any finite set of attacks bounds robustness from "
        "above, and attacks blind to a defence bound it more loosely."
    )


def made_of(config: Config) -> str:
    """What the parts of a gain are."""
    restarts = {
        "alg1": "Algorithm 1 restarts nothing, so what is left is the descent's",
        "quasi_newton": "restarts of the solver (R = 0 over undefended, at that state; in the descent where no control "
        "was scored); the descent's is the rest",
    }[config.entropy.resolve]
    return (
        "Early states are chosen anew for every decision, and another state alone can be a gain. State: the undefended "
        f"weights (of Sec. 3.3: the weights without it) read at the other's early state. Then: {restarts}."
    )


def pooled(column: str) -> str:
    """The name of a column that is pooled over seeds."""
    return f"{column}, seeds pooled"


def controls(config: Config) -> str:
    """What the control rows are, and what they are for."""
    kind = {"alg1": ", which is the undefended solve", "quasi_newton": ", so its restarts alone"}[
        config.entropy.resolve
    ]
    return (
        "Control rows show what of Sec. 3.2 is not its entropy descent; they decide at its early state. R = 0: the "
        f"defence as it runs here without descent steps{kind}. The other "
        "two have the entropy keys of the authors' code, whatever runs here. Restart only: its restarts of the solver "
        "without descent steps. T_f = N: its descent after the last state, which no state sees. Method's gain: points "
        "of PGD that the method has over its control, at the same state, paired by image."
    )


def left_in_the_race(config: Config) -> tuple[str, ...]:
    """What racing does to a list of the strongest points."""
    if not shards.races(config):
        return ()
    return (
        "Racing keeps the strongest point of a decision; the others in the list are the strongest of those that were "
        "left in the race, which may be fewer than asked for.",
    )


def every_attack_on_every_image(config: Config) -> bool:
    """Whether the grid says what an image does under every attack: racing leaves that open."""
    return not shards.races(config)


def budget(attacks: Sequence[AttackName], config: Config) -> str:
    """What each of AutoAttack's attacks may spend."""
    images = autoattack_outcomes.square_images(config)
    on = "every image" if images == config.evaluation.images else f"the first {images:,} images only"
    return "; ".join(
        f"{one.label} {one.budget(config.autoattack)}{f', on {on}' if one.first_images_only else ''}"
        for one in (LIBRARY_ATTACKS[name] for name in attacks)
    )


def mode(config: Config) -> str:
    """What AA is made of."""
    named = SQUARE.name in config.autoattack.attacks
    left_out = named and autoattack_outcomes.square_images(config) < config.evaluation.images
    if config.autoattack.mode == "standard":
        lenient = " Images beyond Square's pass it, so that AA is rather too high." if left_out else ""
        return (
            "Mode standard: one after the other, and an image leaves once the decision itself errs; AA counts what is "
            f"right when clean and under every attack that it met.{lenient}"
        )
    without = "; Square is left out of it, as it did not meet every image" if left_out else ""
    return f"Mode individual: every attack on every image; AA is the lowest of their accuracies{without}."


def kept(config: Config) -> str:
    """By which image an attack is judged."""
    if config.autoattack.keep == "success":
        return (
            "An attack of AutoAttack is judged by an image that fooled the surrogate; where there is none, by the "
            "clean image, which flatters the decision."
        )
    return (
        "An attack of AutoAttack is judged by its image of highest loss and, where the decision withstands that, by "
        "one that fooled the surrogate, if there is one. FAB-T seeks the smallest change: it has the latter alone."
    )


def met(outcomes: Sequence[AutoAttackOutcome], config: Config) -> str:
    """What every attack left, of the images that it met, and how many it handed back as they were."""
    success = config.autoattack.keep == "success"
    clean = tuple(name for name, one in LIBRARY_ATTACKS.items() if success or one.smallest_change)
    listed = [f"{one.decision.row} {_counts(one, clean)}" for one in outcomes]
    return (
        "Right under each attack alone, of the images that it met (unchanged: it found nothing, and the clean image "
        f"counts): {'; '.join(listed)}."
    )


def _counts(outcome: AutoAttackOutcome, clean: Sequence[str]) -> str:
    counts = []
    for name, one in outcome.alone.items():
        unchanged = f" ({one.untouched:,} unchanged)" if name in clean else ""
        counts.append(f"{LIBRARY_ATTACKS[name].label} {one.right.sum():,} of {len(one.images):,}{unchanged}")
    return ", ".join(counts) or "met none"


def against_pgd(outcomes: Sequence[AutoAttackOutcome], bootstrap: Bootstrap) -> list[str]:
    """APGD-CE against PGD at the same point, on the images that APGD-CE met; nothing where it met none."""
    pairs = {}
    for one in outcomes:
        apgd = one.alone.get(APGD_CE.name)
        if apgd is not None:
            pgd = one.evaluation.right[one.evaluation.strongest, apgd.images]
            pairs[one.decision.row] = apgd.right[None], pgd[None]
    if not pairs:
        return []
    estimates = intervals.minimum_differences(pairs, bootstrap)
    return [
        f"APGD-CE minus PGD at the same point, on the images that APGD-CE met, in points: {differences(estimates)}. "
        "The point is the one where PGD is at its lowest, which favours PGD a little."
    ]


def square_against_apgd(outcomes: Sequence[AutoAttackOutcome], bootstrap: Bootstrap) -> str:
    """Square against APGD-CE on the images that Square met, where both met these."""
    by_decision = {
        one.decision.row: intervals.minimum_difference(
            square.right[None], apgd.right[np.isin(apgd.images, square.images)][None], bootstrap
        )
        for one in outcomes
        if (square := one.alone.get(SQUARE.name)) is not None and (apgd := one.alone.get(APGD_CE.name)) is not None
    }
    return f"Square minus APGD-CE on Square's images, in points: {differences(by_decision)}."


def differences(estimates: Mapping[str, Estimate]) -> str:
    """Paired differences with their intervals, in points."""
    return "; ".join(f"{name} {difference(one)}" for name, one in estimates.items())


def difference(estimate: Estimate) -> str:
    """A difference with its interval, in points."""
    shown = cells.show(cells.percent("", "", estimate), signed=True)
    return f"{shown.value} [{shown.interval}]"


def flags(outcomes: Sequence[AutoAttackOutcome]) -> str:
    """What the library's checks said, and of which decisions."""
    said: dict[str, list[str]] = {}
    for one in outcomes:
        for flag, jobs in one.flags.items():
            said.setdefault(flag, []).append(f"{one.decision.row} ({jobs} of {one.jobs} jobs)")
    if not said:
        return "The library's checks of its attacks and their targets said nothing."
    listed = " ".join(f'"{flag}": {", ".join(rows)}.' for flag, rows in said.items())
    return f"The library's checks of its attacks and their targets said: {listed}"
