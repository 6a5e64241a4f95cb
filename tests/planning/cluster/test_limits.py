"""Time limits and tries, against the meaning of both."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deqpipe.planning.cluster import limits
from deqpipe.planning.cluster.limits import POLICY, Longest
from deqpipe.workflow.budgets import budget_minutes

minutes = st.floats(0.01, 20_000)
short = st.floats(0.0, 20.0)
few = settings(max_examples=40, deadline=None)
jobs = st.builds(Longest, minutes=minutes, unit=short, again=short)


def tries_by_trying(job: Longest, runtime: float) -> int:
    """Try after try, each with all it does again, and each stopped within a unit."""
    kept, tries = 0.0, 0
    while True:
        tries += 1
        room = budget_minutes(float(runtime)) - job.again
        if tries == 1 and job.minutes <= room:
            return 1
        kept += room - job.unit
        if kept >= job.minutes * (1 - 1e-12):
            return tries


@few
@given(jobs, st.integers(60, 240))
def test_tries_are_those_that_a_job_takes_which_loses_a_unit_whenever_it_is_stopped(job: Longest, runtime: int) -> None:
    assert limits.tries_needed(job, runtime) == tries_by_trying(job, runtime)


@few
@given(jobs)
def test_the_time_of_the_tries_needed_holds_the_job(job: Longest) -> None:
    asked = limits.limits(job)
    assert asked.needed is not None
    assert asked.needed * budget_minutes(float(asked.runtime)) >= job.minutes
    assert POLICY.shortest <= asked.runtime <= POLICY.longest
    assert asked.allowed >= POLICY.safety * asked.needed + POLICY.spare


@few
@given(jobs, st.floats(1.0, 10.0))
def test_a_longer_job_asks_for_no_less(job: Longest, factor: float) -> None:
    longer = Longest(job.minutes * factor, job.unit, job.again)
    assert limits.runtime(longer) >= limits.runtime(job)
    at = limits.tries_needed(job, 240), limits.tries_needed(longer, 240)
    assert at[0] is not None
    assert at[1] is not None
    assert at[1] >= at[0]


@few
@given(jobs)
def test_a_unit_fits_a_quarter_of_the_runtime_wherever_it_fits_a_quarter_of_the_longest_one(job: Longest) -> None:
    assert limits.fits(job, limits.runtime(job)) == (job.unit <= POLICY.longest / 4)


def test_a_short_job_asks_for_little_and_a_long_one_for_the_longest_limit() -> None:
    assert limits.limits(Longest(5, unit=1, again=1)) == limits.Limits(runtime=20, needed=1, allowed=7)
    assert limits.limits(Longest(101 * 60, unit=0.6, again=1)).runtime == 240
    assert limits.runtime(Longest(5, unit=20, again=1)) == 80  # for its unit's sake


def test_a_job_whose_unit_outlasts_every_try_never_ends() -> None:
    assert limits.tries_needed(Longest(1000, unit=235, again=0), 240) is None
    assert limits.tries_needed(Longest(1000, unit=234, again=0), 240) == 1000
    assert limits.tries_needed(Longest(1000, unit=235, again=0), inf) == 1


@pytest.mark.parametrize(("hours", "before"), [(80, 21), (61, 16), (101, 26)])
def test_the_papers_trainings_outlast_eleven_tries_of_four_hours(hours: int, before: int) -> None:
    needed = limits.tries_needed(Longest(60 * hours, unit=0, again=0), 240)
    assert needed == before > 11
