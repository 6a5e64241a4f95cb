"""The verdict on a profile in words and a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf
from textwrap import wrap

from deqpipe.cluster.profile import Profile
from deqpipe.planning.cluster.groups import Shared
from deqpipe.planning.cluster.judged import Verdict
from deqpipe.planning.printed import WIDTH, duration
from deqpipe.planning.schedule import Run


@dataclass(frozen=True)
class ProfilePlan:
    """All that is said of a profile.

    Attributes:
        profile: which.
        speed: of jobs, in words.
        verdicts: per submitted rule.
        groups: what of it is submitted together.
        assumed: what the hours rest on.
        at_once: the run with as many jobs at once as the profile has in the queue.
        unbounded: the run with as many GPUs as there are jobs.
        chain: the jobs that bound it, in words.
    """

    profile: Profile
    speed: str
    verdicts: Sequence[Verdict]
    groups: Sequence[Shared]
    assumed: str
    at_once: Run
    unbounded: Run
    chain: str

    @property
    def objections(self) -> list[str]:
        """Why it would not finish."""
        return [line for verdict in self.verdicts for line in verdict.objections()]


def text(plan: ProfilePlan) -> str:
    """As it is printed."""
    tries = f"{plan.profile.tries} tries each" if plan.profile.tries > 1 else "one try each"
    head = _wrapped(f"{plan.profile.path} at {plan.speed}: {_at_once(plan)}, {tries}.")
    rows = [_row(verdict) for verdict in plan.verdicts]
    table = [_TITLE, "-" * WIDTH, *rows]
    units = [f"  {verdict.need.rule}: {verdict.need.unit}" for verdict in plan.verdicts]
    kept = [f"unit: minutes of the largest piece of work that is kept or lost whole{_again(plan)}:", *units]
    sections = (head, table, kept, _groups(plan), _remarks(plan), _days(plan), _end(plan))
    return "\n\n".join("\n".join(section) for section in sections if section)


_TITLE = (
    f"{'':<19}{'':>5}{'longest':>10}{'in sum':>11}{'':>9}{'':>10}{'needed':>8}{'allowed':>9}\n"
    f"{'rule':<19}{'jobs':>5}{'bound':>10}{'expected':>11}{'runtime':>9}{'memory':>10}{'tries':>8}{'tries':>9}{'unit':>9}"
)


def _at_once(plan: ProfilePlan) -> str:
    jobs = plan.profile.jobs
    return "any number of jobs at once" if jobs is None else f"{jobs} job{'s' if jobs > 1 else ''} at once"


def _row(verdict: Verdict) -> str:
    need, asked = verdict.need, verdict.asked
    runtime = "-" if isinf(verdict.runtime) else f"{verdict.runtime:g} min"
    memory = "-" if asked.mem_mb is None else f"{asked.mem_mb / 1000:g} GB"
    needed = "never" if verdict.needed is None else str(verdict.needed)
    longest, total = (duration(60 * minutes) for minutes in (need.longest.minutes, need.minutes))
    unit = f"{need.longest.unit:.1f} min"
    return (
        f"{need.rule:<19}{need.jobs:>5}{longest:>10}{total:>11}{runtime:>9}{memory:>10}{needed:>8}{verdict.allowed:>9}"
        f"{unit:>9}"
    )


def _again(plan: ProfilePlan) -> str:
    return ", which every try is reckoned to lose" if plan.verdicts else ""


def _groups(plan: ProfilePlan) -> list[str]:
    return [row for group in plan.groups for row in _wrapped(f"{group.words}, if they run one after the other.")]


def _remarks(plan: ProfilePlan) -> list[str]:
    remarks = [line for verdict in plan.verdicts for line in verdict.remarks()]
    return [row for line in (*remarks, f"Assumed: {plan.assumed}.") for row in _wrapped(line)]


def _days(plan: ProfilePlan) -> list[str]:
    lines = [
        f"{_at_once(plan).capitalize()}: {duration(plan.at_once.seconds)}, without what jobs wait in the queue.",
        f"No number of GPUs is faster than {duration(plan.unbounded.seconds)}: {plan.chain}.",
    ]
    return [row for line in lines for row in _wrapped(line)]


def _end(plan: ProfilePlan) -> list[str]:
    objections = plan.objections
    if not objections:
        return ["Every job comes to its end."]
    return ["Would not come to its end:", *(row for line in objections for row in _wrapped(f"  {line}"))]


def _wrapped(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
