"""Time limits and tries of a rule's jobs, from the minutes that its longest job computes. Pure arithmetic, no torch.

    useful minutes of a try = budget_minutes(runtime) - minutes done again by every try - minutes of one unit
    whole job               = minutes done again by every try + minutes of the job but for its start
    tries needed            = 1 where the whole job fits into a budget; else ceil(minutes but for the start / useful)
    tries allowed           = ceil(1.5 x tries needed) + 5
    runtime                 = the shortest one, in tens of minutes from 20 on, in which the whole job ends in one try
                              though it takes half as long again, and in a quarter of which a unit fits; at most 240

A grid's clean states and a timing's warm-up, which every try does again, are part of its job, too: so they are reckoned
once more than they are computed, on the safe side.

A unit is the smallest work that is kept. A try that is stopped loses the one under way, so each one is reckoned to.
"""

from dataclasses import dataclass
from math import ceil

from deqpipe.counts import Number
from deqpipe.workflow.budgets import budget_minutes


@dataclass(frozen=True)
class Policy:
    """What limits are chosen by.

    Attributes:
        longest: no runtime is longer, in minutes: what partitions commonly allow, and what a scheduler can place.
        shortest: no runtime is shorter.
        step: runtimes are multiples of it.
        share: of a runtime that a unit of kept work may take.
        safety: how much longer jobs may take than reckoned.
        spare: tries for what has nothing to do with time: pre-emption, lost nodes.
    """

    longest: int = 240
    shortest: int = 20
    step: int = 10
    share: float = 0.25
    safety: float = 1.5
    spare: int = 5


POLICY = Policy()


@dataclass(frozen=True)
class Longest:
    """The longest job of a rule, in minutes.

    Attributes:
        minutes: that it computes, in all but its start.
        unit: of the largest unit of work that it keeps or loses whole.
        again: what every try does anew, its start included; the rest of it is part of `minutes`, too.
    """

    minutes: Number
    unit: Number
    again: Number


@dataclass(frozen=True)
class Limits:
    """What a rule's jobs ask a scheduler for.

    Attributes:
        runtime: in minutes.
        needed: tries that the longest job needs; None: no number of tries is enough.
        allowed: tries that it should have.
    """

    runtime: int
    needed: int | None
    allowed: int


def useful_minutes(job: Longest, runtime: Number) -> float:
    """What one try surely adds to what is kept; none, where it is not above 0."""
    return budget_minutes(float(runtime)) - job.again - job.unit


def tries_needed(job: Longest, runtime: Number) -> int | None:
    """Tries until the end, each stopped when its time is over; None: it never comes."""
    if job.again + job.minutes <= budget_minutes(float(runtime)):
        return 1
    useful = useful_minutes(job, runtime)
    return ceil(job.minutes / useful) if useful > 0 else None


def tries_allowed(needed: int, policy: Policy = POLICY) -> int:
    """Tries that a profile should allow."""
    return ceil(policy.safety * needed) + policy.spare


def fits(job: Longest, runtime: Number, policy: Policy = POLICY) -> bool:
    """Whether a unit of kept work fits its share of a runtime."""
    return job.unit <= policy.share * runtime


def runtime(job: Longest, policy: Policy = POLICY) -> int:
    """The runtime to ask for, in minutes."""
    whole = policy.safety * (job.again + job.minutes)
    for minutes in range(policy.shortest, policy.longest, policy.step):
        if whole <= budget_minutes(float(minutes)) and fits(job, minutes, policy):
            return minutes
    return policy.longest


def limits(job: Longest, policy: Policy = POLICY) -> Limits:
    """What to ask for a rule whose longest job is this one."""
    asked = runtime(job, policy)
    needed = tries_needed(job, asked)
    return Limits(asked, needed, tries_allowed(needed or 1, policy))
