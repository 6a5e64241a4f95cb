"""Short phrases about evaluations that several tables and figures use."""

from collections.abc import Sequence

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


def triple(point: GridPoint) -> str:
    """An attack of the grid as (i, K_a, lambda)."""
    return f"({point.state}, {point.steps}, {point.damping:g})"
