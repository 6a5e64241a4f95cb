"""The two runs that are compared: their numbers, and their records where these are there."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deqpipe import config
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.reporting.tables import tables
from deqpipe.results import header, numbers
from deqpipe.results.numbers import Numbers
from deqpipe.statistics.intervals import Answers

CellName = tuple[str, str]
"""Row and column."""


@dataclass(frozen=True)
class Side:
    """One run.

    Attributes:
        told: what it was called on the command line.
        numbers: of its tables.
        folder: with its records; None: there is nothing but the numbers.
    """

    told: str
    numbers: Numbers
    folder: Path | None

    @cached_property
    def config(self) -> Config | None:
        """Its configuration; None where this deqpipe does not understand it any more."""
        try:
            return config.parse(self.numbers.config)
        except UserError:
            return None

    def images(self) -> tuple[str, int] | None:
        """The digest of its data set, and how many of the test images it evaluates; None where that is not known."""
        if self.folder is None or self.config is None:
            return None
        path = self.folder / "data" / "dataset.safetensors"
        try:
            with header.opened(path, "dataset", "numpy") as file:
                return header.read(file, f"dataset {path}").tensors, self.config.evaluation.images
        except UserError:
            return None

    def answers(self, table: int, seed: int) -> Mapping[CellName, Answers]:
        """What the cells of a table were counted from, of one seed.

        Raises:
            UserError: records are missing, incomplete, or of another configuration.
        """
        assert self.folder is not None
        assert self.config is not None
        return tables.answers(table, Tree(self.folder, self.config, seed))


def read(path: Path) -> Side:
    """A run, from its results folder or from its results.json alone.

    Raises:
        UserError: there is no such folder or file, it holds no results, or they are of another version.
    """
    if path.is_dir():
        file = path / numbers.NAME
        if not file.exists():
            raise UserError(f"folder {path} holds no {numbers.NAME}: the workflow writes it with the report")
        return Side(str(path), numbers.read(file), path)
    if not path.exists():
        raise UserError(f"{path} does not exist, but must be a results folder or its {numbers.NAME}")
    return Side(str(path), numbers.read(path), None)
