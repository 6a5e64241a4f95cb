"""What a run ends with: what the report says in a few sentences, and where the report is."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from deqpipe.results import numbers

SENTENCES = 3
"""Of the summary, the most telling ones stand first."""


def lines(results: Path, *, columns: int) -> list[str]:
    """The first sentences of results.json and the path of the report, each where it is there.

    Raises:
        DamagedFileError: results.json is not what was written.
        UserError: it cannot be read, or is of another version of the format.
    """
    report, file = results / "report.html", results / numbers.NAME
    found = numbers.read(file) if file.exists() else None
    said = () if found is None else (*_warning(found.warnings), *found.summary[:SENTENCES])
    told = [
        textwrap.fill(sentence, columns, subsequent_indent="  ", initial_indent="- ", break_on_hyphens=False)
        for sentence in said
    ]
    return [line for text in told for line in text.splitlines()] + (
        [f"Report: {report.resolve()}"] if report.exists() else []
    )


def _warning(warnings: Sequence[str]) -> tuple[str, ...]:
    """The first check that failed, and how many more did."""
    if not warnings:
        return ()
    more = f" {len(warnings) - 1} more failed: see the top of the report." if len(warnings) > 1 else ""
    return (f"WARNING: {warnings[0]}{more}",)
