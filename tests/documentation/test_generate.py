"""Generated files: current, complete, and always the same."""

from pathlib import Path

import pytest

from documentation import cluster_limits, cluster_times, generate, readme, rules
from tests import tiny


@pytest.mark.slow  # `make check` asks the same
def test_generated_files_are_current(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tiny.ROOT)
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_the_generated_files_are_all_that_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "pictures", lambda graph: {})
    monkeypatch.setattr(rules, "rule_graph", lambda root: "")
    monkeypatch.setattr(cluster_times, "page", lambda root: "")
    monkeypatch.setattr(cluster_limits, "block", lambda root: "")
    monkeypatch.setattr(readme, "blocks", lambda root: {})
    pages = {path for path in tiny.ROOT.glob("docs/**/*.md") if "This page is generated" in path.read_text("utf-8")}
    in_part = {generate.SCHEMA, generate.SETTINGS, generate.README, generate.ARCHITECTURE, *generate.PROFILES}
    in_part |= {generate.RESULTS_SCHEMA, generate.RECORDS, generate.TRAINING, generate.RESULTS}
    in_part.add(generate.PICTURES / "rooms.svg")
    assert {path.relative_to(tiny.ROOT) for path in pages} | in_part == set(generate.generate(tiny.ROOT))


def test_a_stale_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "generate", lambda root: {Path("a.md"): "new", Path("b.md"): "same"})
    Path("a.md").write_text("old")
    Path("b.md").write_text("same")
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err == "a.md is not current: run `make generate`\n"
    assert generate.main([]) == 0
    assert Path("a.md").read_text() == "new"


def test_a_block_is_replaced_and_the_rest_of_the_page_is_kept() -> None:
    page = "before\n<!-- picture -->\nold\nold\n<!-- /picture -->\nafter\n"
    assert generate.filled(page, {"picture": r"new \1" + "\n"}) == (
        "before\n<!-- picture -->\nnew \\1\n<!-- /picture -->\nafter\n"
    )


@pytest.mark.parametrize("page", ["no block\n", "<!-- picture -->\n<!-- /picture -->\n" * 2])
def test_a_page_without_its_block_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match=r"the page has [02] blocks picture, but must have one"):
        generate.filled(page, {"picture": "new\n"})
