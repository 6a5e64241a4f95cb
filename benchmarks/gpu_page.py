"""What was found on a GPU, as tables in a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import hours, speed_page
from benchmarks.findings import Finding
from benchmarks.operations import PLAIN
from benchmarks.speed_rows import Row
from benchmarks.ways import Computed
from deqpipe.compute.precision import PrecisionName
from deqpipe.compute.ways import Way

COLUMNS: tuple[PrecisionName, ...] = hours.PRECISIONS
HEAD = f"| | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}"


def write(page: Path, rows: Sequence[Row], findings: Sequence[Finding]) -> None:
    """Put all tables into a page.

    Raises:
        UserError: the page has no place for them.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    findings = _latest(findings)
    paragraphs = [*_conditions(rows, findings), *_checks(findings), *_speeds(rows), *_hours(findings)]
    speed_page.put(page, "gpu", [paragraph for paragraph in paragraphs if paragraph] or ["Nothing was measured."])


def _latest(findings: Sequence[Finding]) -> list[Finding]:
    """Of what several versions of the code were asked on one device, the last answer."""
    last = {(one.device, one.torch, one.section, one.what, one.computed): one for one in findings}
    return list(last.values())


def _conditions(rows: Sequence[Row], findings: Sequence[Finding]) -> Iterator[str]:
    told = [(one.device, one.torch, one.date) for one in findings] + [(row.device, row.torch, row.date) for row in rows]
    held = dict.fromkeys(told)
    yield "\n".join(f"{device}; torch {torch}; {date}." for device, torch, date in held)


def _checks(findings: Sequence[Finding]) -> Iterator[str]:
    """The worst of each check in every way."""
    found = [one for one in findings if one.section in ("numbers", "waiting") and one.verdict in ("passed", "failed")]
    if not found:
        return
    lines = ["| checked | way | largest | at most | |", "| --- | --- | --- | --- | --- |"]
    for one in found:
        value, limit = (("" if number != number else f"{number:.1e}") for number in (one.value, one.limit))
        lines.append(f"| {one.what} | {one.computed} | {value} | {limit} | {one.verdict} {one.note} |")
    yield "### Checks\n\n" + "\n".join(lines)


def _speeds(rows: Sequence[Row]) -> Iterator[str]:
    """A table per operation: images per second, and how many times as fast as the plain way in the same precision."""
    operations = list(dict.fromkeys((row.model, row.protocol, row.operation) for row in rows))
    for model, protocol, operation in operations:
        found = [row for row in rows if (row.model, row.protocol, row.operation) == (model, protocol, operation)]
        sides = list(dict.fromkeys((row.side, _way(row)) for row in found))
        lines = [
            f"| {side}{', ' + way if side != found[0].against else ''} {_cells(found, side, way)}"
            for side, way in sides
        ]
        sizes = ", ".join(map(str, sorted({row.batch for row in found})))
        title = f"### {operation} ({model}, keys of the {protocol}, {sizes} images at once)"
        yield f"{title}\n\nImages per second (times as fast).\n\n{HEAD}\n" + "\n".join(lines)


def _way(row: Row) -> str:
    return Way(row.layout, row.compiled, row.graphs).name  # type: ignore[arg-type]


def _cells(rows: Sequence[Row], side: str, way: str) -> str:
    cells = []
    for precision in COLUMNS:
        same = [row for row in rows if row.precision == precision]
        first = [row.rate for row in same if row.side in (PLAIN, row.against) and row.side != "ours"]
        own = [row.rate for row in same if (row.side, _way(row)) == (side, way)]
        ratio = f" ({own[-1] / first[0]:.2f})" if own and first and side != PLAIN else ""
        cells.append(f"{own[-1]:.4g}{ratio}" if own else "")
    return f"| {' | '.join(cells)} |"


def _hours(findings: Sequence[Finding]) -> Iterator[str]:
    """Hours per part and precision, and what other precisions did to answers."""
    told = [one for one in findings if one.section == "hours"]
    if told:
        lines = []
        for part in dict.fromkeys(one.what for one in told):
            values = {one.computed: one.value for one in told if one.what == part}
            cells = [values.get(Computed(precision).name) for precision in COLUMNS]
            lines.append(f"| {part} | {' | '.join('' if cell is None else f'{cell:.3g}' for cell in cells)} |")
        yield f"### Hours of the full reproduction\n\n{HEAD}\n" + "\n".join(lines)
    answers = [one for one in findings if one.section == "answers"]
    if answers:
        yield "### Robust accuracy in other precisions\n\n" + "\n".join(
            f"* {one.what}, {one.computed}: {one.value:+.2%} ({one.note})" for one in answers
        )
