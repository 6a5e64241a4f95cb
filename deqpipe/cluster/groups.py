"""What is submitted where jobs share a submission (`groups` and `group-components` of a profile)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from deqpipe.cluster.profile import Profile
from deqpipe.cluster.submission import Request
from deqpipe.errors import UserError
from deqpipe.lazy import named


def submitted(profile: Profile, requests: Sequence[Request]) -> list[Request]:
    """The requests of submissions: of the jobs that have one of their own, and of groups, the longest together.

    Which jobs meet in a group Snakemake decides when it runs; no group asks for more than the first one here.

    Args:
        profile: that says which rules share submissions, and how many jobs do.
        requests: of all jobs.

    Raises:
        UserError: jobs of a group ask for what no submission can give to all of them.
    """
    groups, sizes = profile.groups, profile.group_components
    alone = [one for one in requests if one.rule not in groups]
    members: dict[str, list[Request]] = defaultdict(list)
    for one in sorted(requests, key=lambda one: -one.runtime):
        if one.rule in groups:
            members[groups[one.rule]].append(one)
    limits = _Limits(profile.limits)
    for name, jobs in members.items():
        size = max(sizes.get(name, 1), 1)
        alone += [_together(name, jobs[at : at + size], limits) for at in range(0, len(jobs), size)]
    return alone


class _Limits:
    """Of all that runs at once, as Snakemake reads them: what is not limited has the value None."""

    def __init__(self, most: Mapping[str, int]) -> None:
        self._most = most

    def get(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(value=self._most.get(name))


def _together(group: str, jobs: Sequence[Request], limits: _Limits) -> Request:
    """The request of some jobs in one submission, by Snakemake's own rules: runtimes of jobs that wait add up."""
    if len(jobs) == 1:
        return jobs[0]
    told = [SimpleNamespace(resources={**job.resources, "_cores": job.threads}, pipe_group=None) for job in jobs]
    merge = named("snakemake.resources:GroupResources").basic_layered
    try:
        asked: dict[str, Any] = dict(merge([told], limits, run_local=False))
    except named("snakemake_interface_common.exceptions:WorkflowError") as error:
        raise UserError(f"group {group}: {' '.join(str(error).split())}") from None
    threads = int(asked.pop("_cores"))
    kept = {name: value for name, value in asked.items() if name in jobs[0].resources}  # not those in other words
    return replace(jobs[0], rule=f"group {group}", resources=kept, threads=threads)
