"""Where the workflow writes and reads: names that commands, Snakemake and file systems take as they are meant."""

import os
import re
from itertools import permutations
from pathlib import Path, PurePath
from typing import Annotated

from pydantic import AfterValidator

from deqpipe.config.base import Section
from deqpipe.errors import UserError

_FORBIDDEN = "{}<>"  # Snakemake would put something in their place
_OWN = {".git", ".snakemake"}  # folders of other programs
IN_RESULTS = {
    "config.yaml", "data", "models", "select", "attacks", "strongest", "race", "timing", "tables", "figures",
    "report.html", "overview.png", "overview.svg", "results.json",
}  # fmt: skip
"""What the workflow writes in pathvars.results."""


def expanded(path: str) -> str:
    """A path as it is used: `~`, `~user`, `$NAME` and `${NAME}` filled in, and one spelling for `x`, `./x` and `x/`.

    `..` stays: what it leads to depends on symbolic links.

    Raises:
        ValueError: the environment has no such variable, or the machine no such user.
    """
    if not path.strip():
        return path  # no path at all, which is for others to refuse
    filled = os.path.expandvars(path)
    if unset := re.search(r"\$(\w+|\{[^}]*\})", filled):
        raise ValueError(f"{unset[0]} is not set in the environment of this machine")
    home = os.path.expanduser(filled)
    if home.startswith("~"):
        raise ValueError(f"there is no user {home.split('/')[0][1:]}; write ./{path} if a folder of this name is meant")
    plain = str(PurePath(home))
    meant = plain.startswith(("-", "~")) and not home.startswith("-")
    return f"./{plain}" if meant else plain  # without ./ it is an option, or a home, to others


PathName = Annotated[str, AfterValidator(expanded)]
"""The name of a file or folder; relative ones are taken from the folder that Snakemake runs in."""


class PathVars(Section):
    """Where the workflow writes (Snakemake's path variables). Logs and state may lie in results, beside its content."""

    results: PathName
    """Folder of everything that is kept: models, records, tables, figures, report."""
    logs: PathName
    """Folder of one log and one benchmark file per job."""
    state: PathName
    """Folder of what makes jobs resumable: training states and finished attack points."""


def check_path(key: str, path: str, *, kind: str = "a folder", forbidden: str = "") -> None:
    """Refuse the name of a file or folder that something on its way takes for something else.

    Args:
        key: dotted, for the message.
        path: its value.
        kind: what it must name.
        forbidden: characters that it must not hold.

    Raises:
        UserError: empty, longer than file systems allow, with control characters, or an option to a command.
    """
    if not path.strip() or set(path) & set(forbidden):
        without = f", without any of {forbidden}" if forbidden else ""
        raise UserError(f"config: {key} is {path!r}, but must name {kind}{without}")
    if path.startswith("-"):
        raise UserError(f"config: {key} is {path!r}, but must not start with -; write ./{path} if it is meant")
    if not path.isprintable():
        raise UserError(f"config: {key} is {path!r}, but must have printable characters only")
    try:
        Path(path).exists()
    except OSError as error:
        raise UserError(f"config: {key} is {path!r}, but must name {kind}: {error.strerror}") from None


def check_folders(folders: PathVars) -> None:
    """Refuse folders that Snakemake cannot use, that are in each other's way, or hold the workflow itself.

    Raises:
        UserError: names the key and its value.
    """
    for name, folder in folders.model_dump().items():
        key = f"pathvars.{name}"
        check_path(key, folder, forbidden=_FORBIDDEN)
        _check_place(key, folder)
    for (key, folder), (other, above) in permutations(folders.model_dump().items(), 2):
        if holds(above, folder) and not (other == "results" and _has_room(above, folder)):
            raise UserError(
                f"config: pathvars.{key} is {folder!r} within pathvars.{other}, which is {above!r}: they must be "
                "different folders, and at most logs and state may lie in results, beside what it holds "
                f"({', '.join(sorted(IN_RESULTS))})"
            )


def _has_room(results: str, folder: str) -> bool:
    """Whether a folder lies in that of the results, and not where something else belongs."""
    below = os.path.relpath(os.path.realpath(folder), os.path.realpath(results))
    return below != os.curdir and Path(below).parts[0] not in IN_RESULTS


def holds(folder: str, path: str) -> bool:
    """Whether a path is a folder or lies within it, once symbolic links are followed."""
    real = os.path.realpath(folder)
    return os.path.commonpath([real, os.path.realpath(path)]) == real


def _check_place(key: str, folder: str) -> None:
    real = Path(os.path.realpath(folder))
    if holds(folder, os.getcwd()):  # results/config.yaml would be config.yaml itself
        raise UserError(
            f"config: {key} is {folder!r}, but must not be the folder of the workflow itself, nor one above it"
        )
    if _OWN & set(real.parts):
        raise UserError(f"config: {key} is {folder!r}, but must not lie in {' or '.join(sorted(_OWN))}")
    there = next(path for path in (real, *real.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"config: {key} is {folder!r}, but must name a folder, and {there} is a file")
