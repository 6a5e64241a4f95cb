"""A profile of Snakemake, and what the workflow's jobs ask for by it: Snakemake itself says both."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqpipe.cluster.submission import NOT_ASKED, Request
from deqpipe.errors import UserError
from deqpipe.lazy import named
from deqpipe.workflow import dry_run

WORKFLOW = Path("profiles/default")
"""The profile that Snakemake reads with every other one, and believes first."""
FIRST_LOOK = "slurm-init-seconds-before-status-checks"
"""The option that says after how many seconds Snakemake first looks for the state of its jobs."""


@dataclass(frozen=True)
class Profile:
    """A profile's file and what is in force with it.

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

    @property
    def jobs(self) -> int | None:
        """In the queue at once; None: as many as there are."""
        return None if self.value("jobs") == "unlimited" else self.number("jobs")

    @property
    def tries(self) -> int:
        """Of a job, the first one included."""
        return 1 + (self.number("retries") or 0)

    @property
    def configfiles(self) -> tuple[Path, ...]:
        """Overlays of config.yaml that it names."""
        return tuple(map(Path, self._listed("configfile") or self._listed("configfiles")))

    @property
    def config(self) -> dict[str, Any]:
        """Keys of the configuration that it sets over every file, with values as Snakemake reads them.

        Raises:
            UserError: an entry is no key and value.
        """
        return self._pairs("config", "parse_config")

    @property
    def groups(self) -> dict[str, str]:
        """The group of each rule that it puts into one; raises as `config`."""
        return self._pairs("groups", "parse_groups")

    @property
    def group_components(self) -> dict[str, int]:
        """How many sets of a group's jobs that wait for each other are submitted together; raises as `config`."""
        return self._pairs("group-components", "parse_group_components")

    @property
    def limits(self) -> dict[str, int]:
        """Of resources, over all that runs at once."""
        pairs = (entry.partition("=")[::2] for entry in self._listed("resources"))
        return {name: int(most) for name, most in pairs if most.isdigit()}

    @property
    def rules(self) -> tuple[str, ...]:
        """Rules that it asks something for by name."""
        named_ones = [entry for key in ("set-resources", "set-threads") for entry in self._listed(key)]
        return tuple(dict.fromkeys(re.split("[:=]", entry)[0] for entry in named_ones))

    def _pairs(self, name: str, parser: str) -> dict[str, Any]:
        """Keys and values of an option, by Snakemake's own parser of it."""
        try:
            values: dict[str, Any] = named(f"snakemake.cli:{parser}")(self._listed(name))
        except ValueError as error:
            raise UserError(f"profile {self.path}: {' '.join(str(error).split())}") from None
        return values

    def _listed(self, name: str) -> list[str]:
        value = self.values.get(name)
        return [str(one) for one in value] if isinstance(value, list) else [] if value is None else [str(value)]

    def number(self, name: str) -> int | None:
        """An option that is a whole number; None: it is not in the profile.

        Raises:
            UserError: it is something else.
        """
        value = self.values.get(name)
        if value is not None and not re.fullmatch(r"\d+", str(value)):
            raise UserError(f"profile {self.path}: {name} is {value!r}, but must be a whole number")
        return None if value is None else int(str(value))


def read(name: str | Path) -> Profile:
    """A profile, found as Snakemake finds it: a file, a folder, or the name of one of this user's.

    Raises:
        UserError: there is none of this name, it is no YAML, or holds something else where a number must stand.
    """
    path = _file(name)
    own = _parsed(path)
    found = Profile(path, {**own, **(_parsed(_file(WORKFLOW)) if WORKFLOW.is_dir() else {})})
    _ = found.jobs, found.tries, found.number(FIRST_LOOK)
    return found


def _file(name: str | Path) -> Path:
    if Path(name).is_file():
        return Path(name)
    found = named("snakemake.cli:get_profile_dir")(str(name))
    if found is None or not found[1].is_file():
        raise UserError(f"there is no profile {name}: a folder with profile.yaml is meant, such as profiles/slurm")
    path: Path = found[1]
    return path


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            values: Mapping[str, Any] = named("snakemake.profiles:ProfileConfigFileParser")().parse(file)
    except Exception as error:  # of YAML, of a template, or Snakemake's own: they have nothing in common
        raise UserError(f"profile {path}: {' '.join(str(error).split())}") from None
    return values


def refuse_unknown(profile: Profile, rules: Collection[str]) -> None:
    """Refuse what a profile asks for rules that do not exist, which Snakemake passes over without a word.

    Args:
        profile: that asks.
        rules: all of the workflow.

    Raises:
        UserError: names the first one.
    """
    unknown = [rule for rule in profile.rules if rule not in rules]
    if unknown:
        near = difflib.get_close_matches(unknown[0], rules, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"profile {profile.path} asks something for rule {unknown[0]}, which does not exist{meant}")


def requests(profile: Profile, configfiles: Sequence[Path]) -> list[Request]:
    """What the jobs that would be submitted ask for, of all jobs of the workflow in this folder: by a dry run.

    It does not say which rules run where Snakemake does. But all others say how many GPUs they want, none included.

    Raises:
        UserError: Snakemake cannot plan, with what it says.
    """
    asked = {name: profile.value(f"slurm-{name}") or None for name in ("qos", "reservation")}
    planned = dry_run.jobs(configfiles, everything=True, profile=profile.path)
    return [
        Request(job.rule, _resources(job.resources), job.threads, **asked) for job in planned if "gpu" in job.resources
    ]


def _resources(printed: Mapping[str, str]) -> dict[str, int | str]:
    known = {name: value for name, value in printed.items() if name not in NOT_ASKED}
    return {name: _number(value) for name, value in known.items() if value != dry_run.TO_BE_DETERMINED}


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?\d+", text) else text
