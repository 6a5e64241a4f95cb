"""A table or figure is made from the inputs that its rule declares, and from nothing else in the results folder."""

import re
import shutil
from pathlib import Path

import pytest

from deqpipe.reporting.figures import figures
from deqpipe.reporting.tables import tables
from deqpipe.workflow import products
from tests.reporting import fabricate
from tests.sampling import one_in
from tests.workflow.conftest import DEMO, Workspace

PRODUCTS = [("table", number) for number in products.TABLES] + [("figure", number) for number in products.FIGURES]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate.tree(tmp_path_factory.mktemp("everything"), fabricate.config())


def declared_inputs(workspace: Workspace, rule: str) -> set[str]:
    """The inputs of a rule as a dry run prints them, relative to the results folder."""
    printed = workspace.dry_run(rule, *DEMO, "--printshellcmds")
    block = re.search(rf"rule {rule}:\n    input: (.*)\n", printed)
    assert block is not None, printed
    return {name.strip().removeprefix("results/demo/") for name in block[1].split(", ")}


@pytest.mark.parametrize(("kind", "number"), one_in(8, PRODUCTS))
def test_declared_inputs_are_all_that_is_needed(
    workspace: Workspace, everything: Path, tmp_path: Path, kind: str, number: int
) -> None:
    results = tmp_path / "results"
    for name in declared_inputs(workspace, f"{kind}{number}") - {"config.yaml"}:
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(everything / name, results / name)
    write = tables.write if kind == "table" else figures.write
    write(number, fabricate.config(), results, output_stem=tmp_path / f"{kind}{number}")
    assert (tmp_path / f"{kind}{number}.csv").stat().st_size > 0
