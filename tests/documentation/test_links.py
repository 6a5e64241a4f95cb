"""Links of README and of all pages: to files that exist, and to headings that these have. Nothing is fetched."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from documentation.blocks import blocks
from tests.tiny import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "config/README.md", ROOT / "benchmarks/README.md"]
)


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^( *)(```+).*?^\1\2$|`[^`\n]+`", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    """The targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """What its headings are linked by, as MkDocs and code hosts both make it of plain words."""
    titles = re.findall(r"^#+ (.+)$", prose(page) + "\n" + page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """Links that lead nowhere."""
    wrong = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A title, of words\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#a-title-of-words) [b](gone.md) [c](there.md#gone) `[d](code.md)` [e](https://example.org)\n"
    )
    assert broken(page) == ["gone.md", "there.md#gone"]


def test_the_site_shows_every_page_once() -> None:
    def pages(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        values = node.values() if isinstance(node, dict) else node
        return [page for value in values for page in pages(value)]  # type: ignore[attr-defined]

    shown = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    own = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    assert sorted(page for page in shown if not page.startswith("repository/")) == sorted(own)
    assert all((ROOT / page.removeprefix("repository/")).is_file() for page in set(shown) - own)


def test_the_readme_is_one_screen_without_a_graph_in_text() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 75
    assert not [block for block in blocks(ROOT / "README.md") if block.language]
    for word in (
        "results/demo/",
        "config/demo.yaml",
        "--configfile config/demo.yaml my.yaml",
        "GPU-hours",
        "has never been run",
    ):
        assert word in text


@pytest.mark.slow  # builds it
def test_the_site_is_built_with_every_link_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    pages = list((tmp_path / "site").glob("**/*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text("utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^>]*>", text), page
    shown = (tmp_path / "site" / "reference" / "python.html").read_text("utf-8")
    assert "deqpipe.api.load" in shown
    assert "early_states" in shown
