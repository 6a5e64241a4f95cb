"""Whether what a profile asks for carries every job of a run to its end."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

from deqpipe.counts import Number
from deqpipe.errors import UserError
from deqpipe.planning.cluster import limits
from deqpipe.planning.cluster.limits import POLICY, Limits
from deqpipe.planning.cluster.needs import Need
from deqpipe.workflow import dry_run
from deqpipe.workflow.dry_run import PlannedJob

_PIECES: Mapping[str, str] = {
    "attack_grid": "attack.images_per_job",
    "attack_sweep": "attack.images_per_job",
    "attack_in_loop": "attack.images_per_job",
    "autoattack": "autoattack.images_per_job",
    "time_training": "timing.batch_size",
    "time_inference": "timing.batch_size",
}
"""The key of the configuration that makes a rule's units of work smaller."""


@dataclass(frozen=True)
class Asked:
    """What a job asks a scheduler for.

    Attributes:
        runtime: minutes; None: no limit.
        mem_mb: None: whatever a node gives.
    """

    runtime: Number | None
    mem_mb: Number | None

    @property
    def minutes(self) -> Number:
        """Its runtime; without a limit infinite."""
        return inf if self.runtime is None else self.runtime


def asked(job: PlannedJob) -> Asked:
    """What a job of a dry run asks for.

    Raises:
        UserError: its runtime or memory is no number that Snakemake could tell.
    """
    return Asked(_resource(job, "runtime"), _resource(job, "mem_mb"))


def _resource(job: PlannedJob, name: str) -> float | None:
    text = job.resources.get(name)
    if text is None or text == dry_run.TO_BE_DETERMINED:
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"rule {job.rule}: {name} is {text!r}, but must be a number") from None


@dataclass(frozen=True)
class Verdict:
    """What a profile's limits mean for a rule.

    Attributes:
        need: of its jobs.
        asked: for each of them.
        allowed: tries.
    """

    need: Need
    asked: Asked
    allowed: int

    @property
    def runtime(self) -> Number:
        """Minutes; without a limit infinitely many."""
        return self.asked.minutes

    @property
    def needed(self) -> int | None:
        """Tries; None: no number of them is enough."""
        return 1 if self.asked.runtime is None else limits.tries_needed(self.need.longest, self.asked.runtime)

    @property
    def proposed(self) -> Limits:
        """What to ask for in its place."""
        return limits.limits(self.need.longest)

    def objections(self) -> Iterator[str]:
        """Why some of its jobs would not come to their end, one sentence each."""
        rule, longest = self.need.rule, self.need.longest
        if not limits.fits(longest, self.runtime):
            key = _PIECES.get(rule)
            smaller = f", or lower {key}" if key else ""
            yield (
                f"{rule}: {self.need.unit} takes {longest.unit:.0f} minutes and is kept whole or not at all, but may "
                f"take {POLICY.share * self.runtime:.0f}, a quarter of the runtime: "
                f"ask for {ceil(longest.unit / POLICY.share)} minutes{smaller}"
            )
        if self.needed is None:
            yield f"{rule}: no try of {self.runtime:g} minutes comes to keep anything"
        elif self.needed > self.allowed:
            yield (
                f"{rule}: its longest job needs {self.needed} tries of {self.runtime:g} minutes, but has "
                f"{self.allowed}: set retries to {limits.tries_allowed(self.needed) - 1}"
            )

    def remarks(self) -> Iterator[str]:
        """What may go wrong, as far as estimates tell."""
        if self.asked.mem_mb is not None and self.asked.mem_mb < self.need.mem_mb:
            yield (
                f"{self.need.rule}: asks for {self.asked.mem_mb:,.0f} MB of memory, but may need up to "
                f"{self.need.mem_mb:,} (an upper estimate)"
            )


def judged(needs: Sequence[Need], asked: Mapping[str, Asked], *, tries: int) -> list[Verdict]:
    """A verdict on every rule.

    Args:
        needs: of the rules.
        asked: by a job of each rule.
        tries: of every job, the first one included.
    """
    return [Verdict(need, asked[need.rule], tries) for need in needs]
