"""Generated files: current, complete, and always the same."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deqpipe import config, docs

ROOT = Path(__file__).parents[1]


def keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every dotted key that holds no section, with its value."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_generated_files_are_current(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert docs.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(docs, "generate", lambda root: {Path("a.md"): "new", Path("b.md"): "same"})
    Path("a.md").write_text("old")
    Path("b.md").write_text("same")
    assert docs.main(["--check"]) == 1
    assert capsys.readouterr().err == "a.md is not current: run `make generate`\n"
    assert docs.main([]) == 0
    assert Path("a.md").read_text() == "new"


def test_the_page_explains_every_key_with_its_default() -> None:
    page = docs.configuration_page(ROOT)
    for key, value in keys(config.read_yaml(ROOT / "config.yaml")):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
        shown = value if isinstance(value, str) else json.dumps(value)
        assert f"`{shown}`" in row.split("|")[2], row


def test_the_diagram_shows_no_arrow_that_others_imply() -> None:
    nodes = "".join(f"\tid{number}[{name}]\n" for number, name in enumerate(("all", "c", "b", "a", "write_config")))
    arrows = "".join(f"\tid{start} --> id{end}\n" for start, end in ((3, 2), (2, 1), (3, 1), (1, 0), (4, 1)))
    assert docs.diagram(nodes + arrows) == "flowchart LR\n    a --> b\n    b --> c\n"
