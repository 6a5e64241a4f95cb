"""Nobody changes what a stage computes without deciding whether its results must be computed again."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import grimp
import pytest

from deqpipe.results import provenance
from deqpipe.workflow.stages import PRODUCTS, STAGES, ProductName, StageName
from tests import record_revisions
from tests.record_revisions import RECORDED, REVISIONS, ROOT, VALUES, complaints, current


def test_code_of_every_stage_is_the_recorded_one() -> None:
    found = complaints(json.loads(RECORDED.read_text()), current(ROOT / "deqpipe", REVISIONS))
    assert not found, "\n".join(found)


def test_every_name_of_a_stage_has_a_value() -> None:
    assert tuple(STAGES) == get_args(StageName)
    assert tuple(PRODUCTS) == get_args(ProductName)
    assert all(value.name == name for name, value in VALUES.items())


# Where a stage's code begins, and the modules that carry results but decide none of them.
ENTRIES = {
    "data": "deqpipe.data",
    **dict.fromkeys(("pretrain", "train_deq", "train_feedforward"), "deqpipe.training.run"),
    "select": "deqpipe.evaluation.stages.selection",
    "clean": "deqpipe.evaluation.stages.clean",
    "attack_grid": "deqpipe.evaluation.stages.grid",
    "attack_pgd": "deqpipe.evaluation.stages.clean",
    **dict.fromkeys(("autoattack", "attack_top"), "deqpipe.evaluation.stages.autoattack"),
    "attack_in_loop": "deqpipe.evaluation.stages.transfer",
    "attack_sweep": "deqpipe.evaluation.stages.sweep",
    "attack_example": "deqpipe.evaluation.stages.example",
    **dict.fromkeys(("attack_suite", "attack_radius"), "deqpipe.evaluation.stages.suite"),
    "attack_transferred": "deqpipe.evaluation.stages.transferred",
    "attack_ensemble": "deqpipe.evaluation.stages.ensemble",
    "attack_own": "deqpipe.evaluation.stages.own",
    "train_own": "deqpipe.training.run",
    "time_training": "deqpipe.training.timing",
    "time_inference": "deqpipe.evaluation.stages.timing",
    "strongest": "deqpipe.analysis.ranking",
    **dict.fromkeys(("race", "race_sweep"), "deqpipe.analysis.race"),
    "table": "deqpipe.reporting.tables.tables",
    "figure": "deqpipe.reporting.figures.figures",
    "report": "deqpipe.reporting.report.report",
    "evaluate": "deqpipe.foreign.running",
}
CARRIERS = {
    "config", "counts", "errors", "extending", "lazy", "machine.device", "machine.faults", "machine.stopping",
    "results", "settings",
}  # fmt: skip
CARRIERS |= {"shapes"}
# Of the workflow, what only says where files lie, what jobs depend on, and which models and tables there are. What it
# imports it names; whoever makes use of that imports it as well.
PLANNERS = {f"workflow.{name}" for name in ("layout", "products", "shards", "specs", "stages", "vocabulary")}
CARRIERS |= {
    *PLANNERS,
    "workflow.defences",
    "workflow.equal_cost",
    "workflow.gridpoints",
}  # their names; who computes with them lists them
CARRIERS |= {"workflow.endings"}  # words for a log


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Who imports whom."""
    return grimp.build_graph("deqpipe", cache_dir=None)


@pytest.mark.parametrize("stage", sorted(VALUES))
def test_the_sources_of_a_stage_are_all_that_it_imports(imports: grimp.ImportGraph, stage: str) -> None:
    reached, waiting = set(), [ENTRIES[stage]]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            if module.removeprefix("deqpipe.") not in PLANNERS:
                waiting.extend(imports.find_modules_directly_imported_by(module))
    allowed = {f"deqpipe.{name}" for name in (*CARRIERS, *VALUES[stage].code)}
    packages = {name.rpartition(".")[0] for name in allowed}  # importing a module runs its package, which is empty
    beyond = {module for module in reached if not any(f"{module}.".startswith(f"{name}.") for name in allowed)}
    assert beyond <= packages | {"deqpipe"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be changed at will."""
    return Path(shutil.copytree(ROOT / "deqpipe", tmp_path / "deqpipe"))


def after(
    package: Path,
    *,
    old: str,
    new: str,
    file: str = "statistics/intervals.py",
    revisions: Mapping[str, int] = MappingProxyType({}),
) -> list[str]:
    """The complaints after an edit of a file; of one that rankings, tables and figures are made with, unless named."""
    before = current(package, REVISIONS)
    path = package / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return complaints(before, current(package, {**REVISIONS, **revisions}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\nimport ", "\n# A comment.\n\nimport "),
        ('"""', '"""Other words. '),
        ("\ndef ", "\n\n\n\ndef "),
        ("(", "(  "),
    ],
)
def test_a_cosmetic_edit_is_not_noticed(package: Path, old: str, new: str) -> None:
    assert after(package, old=old, new=new) == []


def test_a_change_of_code_is_noticed_in_every_stage_that_uses_it(package: Path) -> None:
    found = after(package, old="\ndef ", new="\nSURPRISE = 1\n\n\ndef ")
    assert [line.partition(":")[0] for line in found] == STATISTICAL
    assert "the code changed and the revision is still" in found[0]
    assert "make revisions" in found[0]


def test_a_change_of_the_code_of_evaluations_says_where_their_revision_stands(package: Path) -> None:
    (line,) = after(package, old="\ndef ", new="\nSURPRISE = 1\n\n\ndef ", file="foreign/running.py")
    assert line.startswith("evaluate: the code changed")
    assert "raise it in deqpipe/foreign/evaluation.py" in line


def test_a_raised_revision_asks_for_nothing_but_recording(package: Path) -> None:
    found = after(package, old="\ndef ", new="\nSURPRISE = 1\n\n\ndef ", revisions=dict.fromkeys(STATISTICAL, 99))
    assert found == [f"{stage}: the revision is new: record it with `make revisions`" for stage in STATISTICAL]


STATISTICAL = ["figure", "race", "race_sweep", "report", "strongest", "table"]


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("reporting/tables/table2.py", "INTER: minimum over the grid", "INTER: the minimum", {"table", "report"}),
        ("reporting/figures/figure5.py", "attacked state $i$", "state $i$", {"figure", "report"}),
        ("reporting/report/claims.py", "def ", "def surprise() -> None: ...\n\n\ndef ", {"report"}),
        ("reporting/phrases.py", "Attack checks: ", "Checks: ", {"table", "figure", "report"}),
        ("foreign/plan.py", "= 10, 2.0", "= 11, 2.0", {"evaluate"}),
        ("analysis/ranking.py", "def ", "def surprise() -> None: ...\n\n\ndef ", set(STATISTICAL)),
    ],
)
def test_an_edit_marks_what_is_made_with_it_and_nothing_else(
    package: Path, file: str, old: str, new: str, stages: set[str]
) -> None:
    assert {line.partition(":")[0] for line in after(package, old=old, new=new, file=file)} == stages


def test_a_new_module_of_a_package_is_noticed(package: Path) -> None:
    before = current(package, REVISIONS)
    (package / "solver" / "surprise.py").write_text("x = 1\n")
    stages = {line.partition(":")[0] for line in complaints(before, current(package, REVISIONS))}
    assert stages == {stage for stage, value in VALUES.items() if "solver" in value.code}


def test_a_source_that_does_not_exist_is_named(package: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a stage's code names nowhere"):
        record_revisions.modules(package, "nowhere")


def test_an_edited_page_or_difference_marks_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = ("deqpipe", "docs", "documentation")
    package, *prose = (Path(shutil.copytree(ROOT / name, tmp_path / name)) for name in folders)
    monkeypatch.setattr(provenance, "PACKAGE", package)
    before = current(package, REVISIONS), provenance.code_hash.__wrapped__()
    edited = [path for folder in prose for path in folder.rglob("*") if path.suffix in (".md", ".py")]
    assert {"method.md", "differences.py"} <= {path.name for path in edited}
    for path in edited:
        path.write_text(path.read_text(encoding="utf-8") + "\nSURPRISE = 1\n", encoding="utf-8")
    assert (current(package, REVISIONS), provenance.code_hash.__wrapped__()) == before


def test_the_package_imports_nothing_that_writes_its_documentation() -> None:
    everything = grimp.build_graph("deqpipe", include_external_packages=True, cache_dir=None).modules
    assert "yaml" in everything
    assert "documentation" not in everything
