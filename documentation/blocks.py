"""The code blocks of Markdown pages: what language each is in, and where it stands."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})\s*([\w-]*)[^\n]*\n(.*?)^\1\2\s*$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}[^\n]*\n(?:[ \t]*\n(?= {4}))*)+", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: that holds it.
        line: where it starts, counted from 1.
        language: as its fence says; empty for an indented block.
        code: its text, indentation taken off.
    """

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        """Such as README.md:24."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page in their order: fenced ones, and those that are indented by four."""
    text = page.read_text(encoding="utf-8")
    found = [(fence.start(), fence[3], _dedented(fence[4], len(fence[1]))) for fence in _FENCE.finditer(text)]
    rest = _FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]).replace("    ", "   \t"), text)
    for match in _INDENTED.finditer(rest):
        before = rest[: match.start()].rstrip(" ")
        if before.endswith("\n\n") and not _in_list(before) and match[0].strip():
            found.append((match.start(), "", _dedented(match[0], 4)))
    for start, language, code in sorted(found):
        yield Block(page, text[:start].count("\n") + 1, language, code)


def _in_list(before: str) -> bool:
    """Whether what is indented belongs to a list, not to a block of code."""
    last = before.rstrip("\n").rpartition("\n\n")[2]
    return bool(re.match(r"([*-]|\d+\.) ", last))


def _dedented(code: str, spaces: int) -> str:
    return re.sub(rf"^ {{0,{spaces}}}", "", code, flags=re.MULTILINE)
