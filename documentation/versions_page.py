"""docs/versions.md: which versions of Python and of libraries were run, and what came of it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HEAD = """\
# Versions that were run

This page is generated from docs/versions.json, which `make test-versions` writes: for each end of the ranges in
pyproject.toml an environment of its own, with the oldest libraries that deqpipe names there, and with the newest that
go together. requirements.txt is the set that `make demo` and `make test` run with.

Last run: {date}.
"""
TAIL = """\
Python below 3.11 lacks what the code uses. Snakemake below 9.19 does not read profiles/default/profile.yaml: it would
run jobs again that need not. On another version of torch than that of requirements.txt last bits of results may differ,
so that a few tests of recorded numbers fail there; each result keeps the versions that made it.
The extra `slurm` needs newer numpy, pandas and PyYAML than the oldest ones here; pip finds them.
"""


def page(root: Path) -> str:
    """The page.

    Args:
        root: the repository.
    """
    record = json.loads((root / "docs" / "versions.json").read_text(encoding="utf-8"))
    head = HEAD.format(date=record["date"])
    return "\n".join([head, *_versions(record["ends"]), "", *_outcomes(record["ends"]), "", TAIL])


def _versions(ends: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("", *ends, rule=True)
    for library in next(iter(ends.values()))["versions"]:
        yield from _row(library, *(end["versions"].get(library, "") for end in ends.values()))


def _outcomes(ends: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("what was run", *ends, rule=True)
    for rank, outcome in enumerate(next(iter(ends.values()))["outcomes"]):
        found = [end["outcomes"][rank] for end in ends.values()]
        yield from _row(outcome["check"], *(_words(one) for one in found))


def _words(outcome: Mapping[str, Any]) -> str:
    return f"{'as it should' if outcome['status'] == 0 else 'FAILED'}: {outcome['said']}"


def _row(*cells: str, rule: bool = False) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"
    if rule:
        yield f"|{' --- |' * len(cells)}"
