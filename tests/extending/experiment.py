"""The experiment of the examples: all of them, one alone, or with the suite of attacks; everything made."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.extending.in_process import PlannedCommand, run_all
from tests.workflow.conftest import Workspace, copy_workflow, environment

HERE = Path(__file__).parent
OVERLAY = "shapes.yaml"


def sections(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of the examples' overlay, some of them replaced."""
    overlay: dict[str, Any] = yaml.safe_load((HERE / OVERLAY).read_text().replace("{folder}", str(HERE)))
    return overlay | dict(changes)


@dataclass(frozen=True)
class Experiment:
    """A finished one.

    Attributes:
        workspace: where it ran.
        jobs: what ran, in order.
    """

    workspace: Workspace
    jobs: tuple[PlannedCommand, ...]

    @property
    def ran(self) -> set[str]:
        """Rules."""
        return {job.rule for job in self.jobs}

    def rows(self, number: int) -> set[str]:
        """Of a table."""
        return {row for row, _ in self.cells(number)}

    def cells(self, number: int) -> dict[tuple[str, str], dict[str, str]]:
        """Of a table, by row and column."""
        path = self.workspace.folder / f"results/tables/table{number}.csv"
        with path.open(newline="") as file:
            return {(row["row"], row["column"]): row for row in csv.DictReader(file)}

    @property
    def page(self) -> str:
        """The report."""
        return (self.workspace.folder / "results/report.html").read_text()

    def is_finished(self) -> bool:
        """Whether Snakemake has nothing left to do."""
        return "Nothing to be done" in self.workspace.dry_run("--configfile", OVERLAY)


def run(folder: Path, changes: Mapping[str, Any]) -> Experiment:
    """Everything that the workflow makes by default."""
    workspace = copy_workflow(folder / "workspace", environment(folder / "environment", "#!/bin/bash\nexit 1\n"))
    (workspace.folder / OVERLAY).write_text(yaml.safe_dump(sections(changes)))
    return Experiment(workspace, tuple(run_all(workspace, "--configfile", OVERLAY)))
