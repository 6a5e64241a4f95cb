"""Calls of the package's functions are checked against their annotations while tests run.

Shapes are bound over the arguments of a call by jaxtyping, which costs many times what a check of plain types does. So
it looks at the modules that mention shapes, and beartype alone at all others.
"""

import re
from pathlib import Path

import jaxtyping
from beartype import BeartypeConf, claw

ROOT = Path(__file__).parents[1]
PACKAGE = "deqpipe"
SHAPES = re.compile(r"\b(jaxtyping|deqpipe\.shapes)\b")


def with_shapes() -> list[str]:
    """Names of the modules that write a shape into an annotation."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    return [_module(path) for path in files if SHAPES.search(path.read_text(encoding="utf-8"))]


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def install() -> None:
    """Check every call from now on, of modules that are not imported yet."""
    jaxtyping.install_import_hook(with_shapes(), "beartype.beartype")
    claw.beartype_package(PACKAGE, conf=BeartypeConf(claw_is_pep526=False))
