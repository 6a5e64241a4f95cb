"""Jobs that share a submission, as a profile groups them: how many, and for how long."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf

from deqpipe.cluster.profile import Profile
from deqpipe.counts import Number
from deqpipe.workflow.dry_run import PlannedJob


@dataclass(frozen=True)
class Shared:
    """The largest submission of a group.

    Attributes:
        rules: whose jobs it has, of those that the run has jobs of.
        jobs: in it at most.
        minutes: that it asks for at most, one job after the other; infinite: without a limit.
    """

    rules: tuple[str, ...]
    jobs: int
    minutes: Number

    @property
    def words(self) -> str:
        """In a sentence without its full stop."""
        *others, last = self.rules
        rules = f"{', '.join(others)} and {last}" if others else last
        limit = "without a time limit" if isinf(self.minutes) else f"of up to {self.minutes:g} minutes"
        return f"{rules}: up to {self.jobs} share a submission {limit}"


def shared(profile: Profile, jobs: Sequence[PlannedJob], minutes: Sequence[Number]) -> list[Shared]:
    """The largest submissions of a profile's groups, of those of several jobs.

    Snakemake submits jobs of a group that wait for each other together, and as many such sets as `group-components`
    says. Their runtimes add up unless they run side by side.

    Args:
        profile: that groups.
        jobs: of a run.
        minutes: that each asks for.
    """
    found = []
    for group in dict.fromkeys(profile.groups.values()):
        members = [n for n, job in enumerate(jobs) if profile.groups.get(job.rule) == group]
        sets, most = _waiting_for_each_other(members, jobs), profile.group_components.get(group, 1)
        rules = tuple(dict.fromkeys(jobs[n].rule for n in members))
        many = sum(sorted((len(one) for one in sets), reverse=True)[:most])
        long = sum(sorted((sum(minutes[n] for n in one) for one in sets), reverse=True)[:most])
        found.append(Shared(rules, many, long))
    return [one for one in found if one.jobs > 1]


def _waiting_for_each_other(members: Sequence[int], jobs: Sequence[PlannedJob]) -> list[set[int]]:
    """The members of a group, those together that are connected by files of one another."""
    sets: list[set[int]] = []
    for n in members:
        near = [one for one in sets if any(_connected(jobs[n], jobs[other]) for other in one)]
        sets = [*(one for one in sets if one not in near), {n}.union(*near)]
    return sets


def _connected(one: PlannedJob, other: PlannedJob) -> bool:
    return bool({*one.inputs} & {*other.outputs} or {*other.inputs} & {*one.outputs})
