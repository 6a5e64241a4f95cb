"""What can be made of unfinished results: the tables and figures whose records are there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting.figures import figures
from deqpipe.reporting.tables import tables
from deqpipe.workflow import products
from deqpipe.workflow.products import FIGURES, Definition


@dataclass(frozen=True)
class Availability:
    """A table or a figure.

    Attributes:
        name: such as table 3.
        lacking: why it could not be made; None: it was.
    """

    name: str
    lacking: str | None


def write(config: Config, results: Path) -> Iterator[Availability]:
    """Write every table and figure that the results allow, where the workflow would; the others with what they lack."""
    for one in (*products.tables(config).values(), *FIGURES.values()):
        if one.wanted(config):
            yield Availability(f"{one.kind} {one.number}", _lacking(one, config, results))


def _lacking(one: Definition, config: Config, results: Path) -> str | None:
    write_one = tables.write if one.kind == "table" else figures.write
    try:
        write_one(one.number, config, results, output_stem=results / f"{one.kind}s" / one.name)
    except UserError as error:
        return str(error)
    return None
