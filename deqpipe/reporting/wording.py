"""Short phrases about evaluations that several tables and figures use."""

from collections.abc import Sequence

from deqpipe.config import Config
from deqpipe.reporting.decisions import Evaluation
from deqpipe.specs import GridPoint


def strongest(evaluation: Evaluation) -> str:
    """The attack with the lowest accuracy, as (i, K_a, lambda)."""
    return triple(evaluation.points[evaluation.strongest])


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
    )


def blind() -> str:
    """What rows with Sec. 3.2 are worth."""
    return (
        "Rows with Sec. 3.2 face images that were crafted without it: any finite set of attacks bounds robustness from "
        "above, and attacks blind to a defence bound it more loosely."
    )


def controls(config: Config) -> str:
    """What the control rows are, and what they are for."""
    kind = {"alg1": ", which is the undefended solve", "quasi_newton": ", so its restarts alone"}[
        config.entropy.resolve
    ]
    return (
        "Control rows show what of Sec. 3.2 is not its entropy descent; they decide at its early state. R = 0: the "
        f"defence as it runs here without descent steps{kind}. The other "
        "two have the entropy keys of the authors' code, whatever runs here. Restart only: its restarts of the solver "
        "without descent steps. T_f = N: its descent after the last state, which no state sees."
    )


def triple(point: GridPoint) -> str:
    """An attack of the grid as (i, K_a, lambda)."""
    return f"({point.state}, {point.steps}, {point.damping:g})"
