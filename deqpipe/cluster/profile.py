"""A profile of Snakemake, and what the workflow's jobs ask for by it: Snakemake itself says both."""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqpipe.cluster.submission import Request
from deqpipe.errors import UserError
from deqpipe.lazy import named
from deqpipe.workflow.endings import PROGRAM

_FOR_READERS = ("mem", "disk", "tmpdir", "mem_mib", "disk_mib")
"""Resources that a dry run prints in other words once more."""


@dataclass(frozen=True)
class Profile:
    """A profile's file and what stands in it.

    Attributes:
        path: its file.
        values: by the names of Snakemake's options without dashes in front.
    """

    path: Path
    values: Mapping[str, Any]

    def value(self, name: str) -> str:
        """An option as text; empty: it is not in the profile."""
        found = self.values.get(name)
        return "" if found is None else str(found)

    def is_set(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.value(name).lower() == "true"


def read(name: str) -> Profile:
    """A profile, found as Snakemake finds it: a file, a folder, or the name of one of this user's.

    Raises:
        UserError: there is none of this name, or it is no YAML.
    """
    found = named("snakemake.cli:get_profile_dir")(name)
    if found is None or not found[1].is_file():
        raise UserError(f"there is no profile {name}: a folder with profile.yaml is meant, such as profiles/slurm")
    path: Path = found[1]
    try:
        with path.open(encoding="utf-8") as file:
            values = named("snakemake.profiles:ProfileConfigFileParser")().parse(file)
    except Exception as error:  # of YAML, of a template, or Snakemake's own: they have nothing in common
        raise UserError(f"profile {path}: {' '.join(str(error).split())}") from None
    return Profile(path, values)


def requests(profile: Profile, configfiles: Sequence[Path]) -> list[Request]:
    """What the jobs that would be submitted ask for, of all jobs of the workflow in this folder: by a dry run.

    Raises:
        UserError: Snakemake cannot plan, with what it says.
    """
    overlays = ["--configfile", *map(str, configfiles)] if configfiles else []
    line = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        str(profile.path.parent),
        "--dry-run",
        "--forceall",
        "--nocolor",
    ]
    done = subprocess.run([*line, *overlays], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    if done.returncode:
        raise UserError(f"Snakemake cannot plan with {profile.path}: {_complaint(printed)}")
    return list(_submitted(printed, profile))


def _complaint(printed: str) -> str:
    """The line that says what is wrong: ours, an error's with what follows, or the last."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    ours = [line.removeprefix(f"{PROGRAM}: ") for line in lines if line.startswith(f"{PROGRAM}: ")]
    at = next((n for n, line in enumerate(lines) if re.match(r"\w*(Error|Exception)\b", line)), len(lines) - 1)
    return ours[0] if ours else " ".join(lines[at : at + 2]) or "it says nothing"


def _submitted(printed: str, profile: Profile) -> Iterator[Request]:
    """The jobs that a dry run lists, without those that run where Snakemake does."""
    asked = {name: profile.value(f"slurm-{name}") or None for name in ("qos", "reservation")}
    for rule, text in re.findall(r"^ *(?:rule|checkpoint) (\w+):\n((?: +[^\n]*\n?)*)", printed, re.MULTILINE):
        facts = dict(re.findall(r"^ +(\w+): (.*)$", text, re.MULTILINE))
        pairs = (pair.partition("=") for pair in re.split(r", (?=\w+=)", facts.get("resources", "")))
        resources = {name: _number(value) for name, _, value in pairs if name not in _FOR_READERS and value != "<TBD>"}
        if facts.get("output"):  # others only ask for the files of others
            yield Request(rule, resources, int(facts.get("threads", 1)), **asked)


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?\d+", text) else text
