"""The page of the architecture: every room once, with its own words, and modules that exist."""

import re
from pathlib import Path

import pytest

from documentation import architecture
from tests.tiny import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "deqpipe"


def test_every_room_stands_in_the_picture_and_has_a_sentence() -> None:
    everywhere = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(architecture.rooms(PACKAGE)) == everywhere - {"__init__"}
    assert {room for edge in architecture.imports() for room in edge} == everywhere - {"__init__"}


def test_the_sentence_of_a_room_is_the_first_line_of_its_docstring(tmp_path: Path) -> None:
    (tmp_path / "attic").mkdir()
    (tmp_path / "attic" / "__init__.py").write_text('"""What nobody needs.\n\nMore of it.\n"""\n')
    (tmp_path / "hall.py").write_text('"""Where one comes in."""\n')
    (tmp_path / "__init__.py").write_text('"""The house."""\n')
    assert architecture.rooms(tmp_path) == {"attic": "What nobody needs.", "hall": "Where one comes in."}


def test_a_room_without_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cellar.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"cellar\.py has no docstring"):
        architecture.rooms(tmp_path)


def test_the_picture_holds_imports_inside_functions() -> None:
    assert ("cli", "training") in architecture.imports()


def way() -> list[tuple[str, list[str]]]:
    """The stations of a number: the module of each, and the names in it that the page mentions."""
    (part,) = [part for part in PAGE.split("\n## ") if part.startswith("The way of one number\n")]
    rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 10
    return [(module.strip("`"), re.findall(r"`(\w+)`", what)) for _, module, what in rows]


@pytest.mark.parametrize(("module", "names"), way())
def test_the_way_of_a_number_leads_through_code_that_exists(module: str, names: list[str]) -> None:
    path = ROOT / module if (ROOT / module).exists() else PACKAGE / module
    text = path.read_text(encoding="utf-8")
    assert names
    assert [
        name for name in names if not re.search(rf"\b(def|class|rule) {name}\b|^\s*{name}\b.* = ", text, re.M)
    ] == []


OF_OTHERS = {"model.py", "NAME.py", "reproduce.py", "robustbench/model_zoo/cifar10.py", "model_zoo/cifar10.py"}
"""What a user writes, what an export writes, and what lies in RobustBench."""


def modules_named_in(page: Path) -> set[str]:
    """Such as `solver/solve.py`, from the root of the repository or of the package."""
    return set(re.findall(r"`([\w/]+\.(?:py|smk))`", page.read_text(encoding="utf-8"))) - OF_OTHERS


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name != "log.md"))
def test_every_module_that_a_page_names_exists(page: str) -> None:
    named = modules_named_in(ROOT / "docs" / page)
    assert sorted(name for name in named if not any((root / name).exists() for root in (ROOT, PACKAGE))) == []


def test_pages_name_modules() -> None:
    assert len(modules_named_in(ROOT / "docs" / "method.md")) > 10
