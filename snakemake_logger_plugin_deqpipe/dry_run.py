"""What a dry run would do, and why, on one screen: `snakemake -n --logger deqpipe`."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from deqpipe.workflow.dry_run import TARGETS
from deqpipe.workflow.expected import MARK

_NARROWEST = 40
"""Columns that are written to on any terminal."""

OTHER_SPEC = "made by another configuration (`deqpipe status` with its files says what differs)"
UPSTREAM = "made of what runs before them"
NOTHING = "Nothing would run: all that is asked for is there, and valid."
WORDS = {
    "Missing output files": "not there yet",
    "Params have changed since last execution": OTHER_SPEC,
    "Updated input files": "older than what they are made of",
    "Forced execution": "asked for with --force",
    "Input files updated by another job": UPSTREAM,
}
"""Snakemake's reasons in ours, the more telling first."""


@dataclass
class DryRun:
    """The jobs of a dry run, from the events that Snakemake reports."""

    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    """Jobs per rule, by why they would run."""

    def add(self, rule: str, reason: str) -> None:
        """A job that would run."""
        if rule not in TARGETS:
            self.reasons.setdefault(why(reason), Counter())[rule] += 1

    def text(self, *, columns: int) -> str:
        """How many jobs would run, and per reason which, folded; empty: none."""
        if not self.reasons:
            return ""
        total, wide = sum(rules.total() for rules in self.reasons.values()), max(columns, _NARROWEST)
        order = [*WORDS.values(), *self.reasons]
        said = [f"{total} {'job' if total == 1 else 'jobs'} would run:"]
        for reason in sorted(self.reasons, key=order.index):
            rules = ", ".join(_rules(self.reasons[reason]))
            said += textwrap.wrap(f"{reason}: {rules}", wide - 2, initial_indent="- ", subsequent_indent="  ",
                                  break_on_hyphens=False)  # fmt: skip
        return "\n".join(
            [*said, "This was a dry run: nothing has been computed. How long it would take: deqpipe plan."]
        )


def why(reason: str) -> str:
    """The most telling of the reasons that Snakemake names for a job."""
    if MARK in reason:  # the Snakefile's own input of outputs that another spec made
        return OTHER_SPEC
    told = (words for begins, words in WORDS.items() if begins in reason)
    return next(told, reason.partition(":")[0].strip() or "no reason given")


def _rules(jobs: Counter[str]) -> Iterable[str]:
    """Rules with their number of jobs; tables and figures, of which each has a rule, as one."""
    families: dict[str, list[str]] = {}
    for rule in jobs:
        family = re.fullmatch(r"(table|figure)(\d+)", rule)
        families.setdefault(family[1] if family else rule, []).append(family[2] if family else "")
    for name, numbers in families.items():
        if numbers == [""]:
            yield f"{jobs[name]} {name}" if jobs[name] > 1 else name
        else:
            yield f"{name}{'s' * (len(numbers) > 1)} {_listed(sorted(map(int, numbers)))}"


def _listed(numbers: Sequence[int]) -> str:
    """Numbers in order, three and more without a gap as a span: 1, 3 to 5."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(f"{one[0]} to {one[-1]}" if len(one) > 2 else ", ".join(map(str, one)) for one in spans)
