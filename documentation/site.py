"""A hook of MkDocs: files outside of docs/ that pages link to are part of the site, below repository/.

So a link works in the repository, on a page of a code host and in a site that is read without a network.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = "repository"
"""Where such files lie in the site."""
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
"""The target of a Markdown link, apart from its anchor."""


def on_files(files: Files, /, *, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of docs/, and what these link to."""
    waiting, known = [page for page in ROOT.glob("docs/**/*.md")], set[Path]()
    waiting += [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md")]
    while waiting:
        page = waiting.pop()
        linked = {page, *linked_files(page)} if page.suffix == ".md" else {page}
        for path in sorted(linked - known):
            known.add(path)
            if not path.is_relative_to(ROOT / "docs"):
                name = f"{OUTSIDE}/{_shown(path.relative_to(ROOT))}"
                files.append(File.generated(config, name, abs_src_path=str(path)))
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files of the repository at their place in the site."""
    source = ROOT / ("docs" if not page.file.src_uri.startswith(OUTSIDE) else "") / _repository(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = _target(source, link[2])
        return link[0] if target is None else f"{link[1]}{_between(page.file.src_uri, target)}{link[3]}"

    return LINK.sub(moved, markdown)


def linked_files(page: Path) -> Iterator[Path]:
    """The files of the repository that a Markdown page links to."""
    for link in LINK.finditer(page.read_text(encoding="utf-8")):
        target = _target(page, link[2])
        if target is not None:
            yield target


def _target(page: Path, link: str) -> Path | None:
    """The file of the repository that a link leads to; a folder stands for its README.md."""
    if re.match(r"[a-z]+:", link):
        return None
    path = (page.parent / link).resolve()
    path = path / "README.md" if path.is_dir() else path
    return path if path.is_file() and path.is_relative_to(ROOT) else None


def _between(page: str, target: Path) -> str:
    """The link from a page of the site to a file of the repository."""
    inside = target.is_relative_to(ROOT / "docs")
    place = str(target.relative_to(ROOT / "docs")) if inside else f"{OUTSIDE}/{_shown(target.relative_to(ROOT))}"
    return posixpath.relpath(place, posixpath.dirname(page) or ".")


def _shown(path: Path) -> Path:
    """Names as browsers show them instead of offering them for download."""
    plain = path.suffix in {".py", ".yaml", ".smk", ".cff"} or not path.suffix
    return path.with_name(f"{path.name}.txt") if plain else path


def _repository(name: str) -> str:
    return name.removeprefix(f"{OUTSIDE}/")
