"""What a run ends with: what the report says in a few sentences, and where the report is."""

import json
import textwrap
from pathlib import Path

from deqpipe.errors import DamagedFileError
from deqpipe.results import integrity

SENTENCES = 3
"""Of the summary, the most telling ones stand first."""


def lines(results: Path, *, columns: int) -> list[str]:
    """The first sentences of results.json and the path of the report, each where it is there.

    Raises:
        DamagedFileError: results.json is not what was written.
    """
    report = results / "report.html"
    told = [
        textwrap.fill(sentence, columns, subsequent_indent="  ", initial_indent="- ", break_on_hyphens=False)
        for sentence in _summary(results / "results.json")[:SENTENCES]
    ]
    return [line for text in told for line in text.splitlines()] + (
        [f"Report: {report.resolve()}"] if report.exists() else []
    )


def _summary(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["summary"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path) from None
    if not isinstance(told, list) or not all(isinstance(sentence, str) for sentence in told):
        raise _damaged(path)
    return told


def _damaged(path: Path) -> DamagedFileError:
    return DamagedFileError(f"{path} is damaged: it holds no summary; {integrity.ADVICE}")
