"""What can be made of unfinished results: the tables and figures whose records are there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting.figures import figures
from deqpipe.reporting.figures.described import FIGURES
from deqpipe.reporting.tables import tables
from deqpipe.reporting.tables.tables import TABLES


@dataclass(frozen=True)
class Product:
    """A table or a figure.

    Attributes:
        name: such as table 3.
        lacking: why it could not be made; None: it was.
    """

    name: str
    lacking: str | None


def write(config: Config, results: Path) -> Iterator[Product]:
    """Write every table and figure that the results allow, where the workflow would; the others with what they lack.

    Figure 6 belongs to no run without `figures.jacobian`, and is left out of one.
    """
    for number in TABLES:
        yield Product(f"table {number}", _lacking_for_table(number, config, results))
    for number in FIGURES:
        if number != 6 or config.figures.jacobian:
            yield Product(f"figure {number}", _lacking_for_figure(number, config, results))


def _lacking_for_table(number: int, config: Config, results: Path) -> str | None:
    try:
        tables.write(number, config, results, output_stem=results / "tables" / f"table{number}")
    except UserError as error:
        return str(error)
    return None


def _lacking_for_figure(number: int, config: Config, results: Path) -> str | None:
    try:
        figures.write(number, config, results, output_stem=results / "figures" / f"figure{number}")
    except UserError as error:
        return str(error)
    return None
