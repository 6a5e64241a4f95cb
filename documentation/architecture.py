"""The generated parts of docs/architecture.md: the rooms of the package, and which imports which.

A room is what stands directly in deqpipe/: a package, or a module that belongs to none. What it is for is the first
line of its docstring, so that the page says what the code says.
"""

import ast
from collections.abc import Mapping
from pathlib import Path

import grimp

from documentation.diagram import picture
from documentation.layers import Edge

PACKAGE = "deqpipe"


def blocks(root: Path) -> Mapping[str, str]:
    """The generated blocks of the page, by name.

    Args:
        root: the repository.
    """
    return {"rooms": _sentences(root / PACKAGE)}


def rooms_picture() -> str:
    """Which room imports which, as SVG."""
    return picture(imports(), title="Which room of the code imports which")


def imports() -> set[Edge]:
    """Which room imports which, inside functions as well; no room imports itself.

    Raises:
        ValueError: a room imports none and is imported by none, so that the picture would lack it.
    """
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found = {
        (_room(importer), _room(imported))
        for importer in graph.modules - {PACKAGE}
        for imported in graph.find_modules_directly_imported_by(importer) - {PACKAGE}
    }
    edges = {edge for edge in found if edge[0] != edge[1]}
    alone = {_room(module) for module in graph.modules - {PACKAGE}} - {room for edge in edges for room in edge}
    if alone:
        raise ValueError(f"{', '.join(sorted(alone))} is imported by nothing and imports nothing")
    return edges


def _room(module: str) -> str:
    """Such as solver of deqpipe.solver.broyden."""
    return module.split(".")[1]


def rooms(package: Path) -> dict[str, str]:
    """What each room is for, by its name, in the order of the alphabet.

    Args:
        package: the folder of the package's code.
    """
    packages = {path.parent.name: path for path in package.glob("*/__init__.py")}
    modules = {path.stem: path for path in package.glob("*.py") if path.stem != "__init__"}
    return {name: _purpose(path) for name, path in sorted((packages | modules).items())}


def _purpose(path: Path) -> str:
    """The first line of a module's docstring.

    Raises:
        ValueError: it has none.
    """
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path} has no docstring")
    return text.splitlines()[0]


def _sentences(package: Path) -> str:
    rows = "".join(f"| `{name}` | {purpose} |\n" for name, purpose in rooms(package).items())
    return f"| room | what it is for |\n| --- | --- |\n{rows}"
