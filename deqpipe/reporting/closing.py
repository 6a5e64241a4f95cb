"""What a run ends with: what the report says in a few sentences, and where the report is."""

import textwrap
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
    summary = numbers.read(file).summary if file.exists() else ()
    told = [
        textwrap.fill(sentence, columns, subsequent_indent="  ", initial_indent="- ", break_on_hyphens=False)
        for sentence in summary[:SENTENCES]
    ]
    return [line for text in told for line in text.splitlines()] + (
        [f"Report: {report.resolve()}"] if report.exists() else []
    )
