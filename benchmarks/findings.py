"""What the checks on a device found, one row each, kept so that nothing is checked twice."""

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from deqpipe.errors import UserError
from deqpipe.results.records import write_text

Verdict: TypeAlias = Literal["passed", "failed", "told", "left out"]


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        device, torch, code, date: where and when.
        section: which kind of check.
        what: was checked.
        computed: the way to compute f.
        verdict: passed or failed where there is a limit; told: a number without one; left out: why stands in the note.
        value: the number that was found.
        limit: what it may be at most.
        note: in words.
    """

    device: str
    torch: str
    code: str
    date: str
    section: str
    what: str
    computed: str
    verdict: Verdict
    value: float
    limit: float
    note: str

    @property
    def key(self) -> tuple[str, ...]:
        """What it is the answer to."""
        return self.device, self.torch, self.code, self.section, self.what, self.computed

    @property
    def line(self) -> str:
        """In a line, for a terminal."""
        number = "" if self.value != self.value else f" {self.value:.3g}"
        limit = "" if self.limit != self.limit else f" (at most {self.limit:.3g})"
        return f"  {self.verdict:<8} {self.what}, {self.computed}:{number}{limit} {self.note}".rstrip()


COLUMNS = [field.name for field in fields(Finding)]


class Findings:
    """Findings in a csv; what is new is in the file before anything else is checked."""

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            UserError: the file has other columns.
        """
        self._path = path
        self._found = list(_read(path))

    def __iter__(self) -> Iterator[Finding]:
        """All of them, in the order in which they were found."""
        return iter(self._found)

    def has(self, key: tuple[str, ...]) -> bool:
        """Whether the answer is there already; what was left out is asked again."""
        return any(one.key == key and one.verdict != "left out" for one in self._found)

    def add(self, finding: Finding) -> None:
        """Write a finding, in place of an older one of the same key."""
        self._found = [one for one in self._found if one.key != finding.key] + [finding]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _short(value) for name, value in asdict(one).items()} for one in self._found)
        write_text(self._path, text.getvalue())


def _read(path: Path) -> Iterator[Finding]:
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has other columns than this version writes: delete it")
        for line in reader:
            values: dict[str, Any] = {**line, "value": float(line["value"]), "limit": float(line["limit"])}
            yield Finding(**values)


def _short(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value
