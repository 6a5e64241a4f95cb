"""How much of a scheduler's time limit a job computes in: the rest is for saving and for leaving. No torch."""

MARGIN_MINUTES = 5.0
"""What is left of a time limit for the start of the job, and for saving what is under way, at most."""
SHARE = 1 / 3
"""The margin of short time limits, as a part of them."""


def budget_minutes(runtime: int | float) -> float:
    """The time budget of a job whose scheduler ends it after `runtime` minutes."""
    return runtime - min(MARGIN_MINUTES, SHARE * runtime)
