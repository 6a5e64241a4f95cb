"""A virtual environment that was moved, or copied with its folder: its files name where it was made. No torch.

Commands of a moved one are not found, and those of a copy run the code of the original, without a word. Here the old
place is replaced by the new one in all texts that name it, in a moment and without network. The Makefile calls this as
a script, with nothing but Python itself: `python deqpipe/machine/relocation.py .venv`.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

LONGEST = 127
"""Bytes of a script's first line that every system reads."""


def made_in(environment: Path) -> Path | None:
    """Where an environment was made, as Python's own record says (`pyvenv.cfg`); None: it says nothing."""
    told = re.search(
        r"^command = .* -m venv(?: --?\S+)* (/.*)$", (environment / "pyvenv.cfg").read_text(), re.MULTILINE
    )
    return Path(told[1]) if told else None


def relocate(environment: Path) -> Path | None:
    """Let an environment name its own place; returns the one that it named before, None if that is where it is.

    Args:
        environment: folder of it, in the folder of its project.

    Raises:
        ValueError: it does not say where it was made, or is a link to another one.
    """
    if environment.is_symlink():
        raise ValueError(f"it is a link to {environment.readlink()}, where others may work")
    here, old = environment.absolute(), made_in(environment)
    if old is None:
        raise ValueError(f"{environment} does not say where it was made")
    if old == here:
        return None
    for path in _texts(here):
        _rewrite(path, old, here, (old.parent, here.parent))
    _rewrite(here / "pyvenv.cfg", old, here, (old, here))
    return old.parent


def _texts(environment: Path) -> Iterator[Path]:
    """The files that may name the place, besides its own record.

    The record is rewritten last, so that what was interrupted begins again, and only where it names the environment:
    the Python that it was made of may lie in the project's old folder as well, and has not moved.
    """
    yield from sorted(path for path in (environment / "bin").iterdir() if path.is_file() and not path.is_symlink())
    for packages in environment.glob("lib/python*/site-packages"):
        yield from packages.glob("*.pth")
        yield from packages.glob("__editable__*.py")
        yield from packages.glob("*.dist-info/direct_url.json")


def _rewrite(path: Path, old: Path, new: Path, folders: tuple[Path, Path]) -> None:
    """Replace one of two folders by the other in a file, of an environment that was in one place and is in another."""
    try:
        before = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # a program
        return
    after = _first_line(before, old, new)
    for was, now in (map(str, folders), (quote(str(folder)) for folder in folders)):
        after = re.sub(_named(was, unless=now), now.replace("\\", r"\\"), after)
    if after != before:
        _replace(path, after)


def _named(folder: str, *, unless: str) -> str:
    """Where a folder is named; not as the beginning of another name, nor, where the new one is within it, of that."""
    inner = unless.removeprefix(folder) if unless.startswith(f"{folder}/") else None
    other = "" if inner is None else rf"(?!{re.escape(inner)}(?:[/\"'\s]|$))"
    return rf"(?<![\w.-]){re.escape(folder)}{other}(?=[/\"'\s]|$)"


def _first_line(text: str, old: Path, new: Path) -> str:
    """A script that a shell starts, where the new place is too long for a first line, or has blanks."""
    first, _, rest = text.partition("\n")
    line = first.replace(f"#!{old}/", f"#!{new}/", 1)
    if line == first or (" " not in str(new) and len(os.fsencode(line)) <= LONGEST):
        return text
    return f"#!/bin/sh\n'''exec' \"{line.removeprefix('#!')}\" \"$0\" \"$@\"\n' '''\n{rest}"


def _replace(path: Path, text: str) -> None:
    """Write a file whole, with the rights that it had."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, path.stat().st_mode)
    os.replace(temporary, path)


def main() -> int:
    """Relocate the environment that is named, and say so in a line."""
    environment = Path(sys.argv[1])
    try:
        before = relocate(environment)
    except (OSError, ValueError) as error:
        print(f"{environment} cannot be repaired ({error}): remove it, and make installs another", file=sys.stderr)
        return 2
    if before is not None:
        print(f"{environment} was made in {before}: its commands now run what is here", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
