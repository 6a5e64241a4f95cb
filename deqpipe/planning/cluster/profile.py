"""What a profile of Snakemake asks for, as Snakemake reads it: its file here, the resources of jobs by a dry run."""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from deqpipe.counts import Number
from deqpipe.errors import UserError
from deqpipe.planning import dry_run
from deqpipe.planning.dry_run import PlannedJob

NAMES = ("profile.yaml", "profile.yml", "config.yaml", "config.yml")
"""Files of a folder that is a profile, the first of them counts."""
WORKFLOW = Path("profiles/default")
"""The profile that Snakemake reads with every other one, and believes first."""


@dataclass(frozen=True)
class Profile:
    """What holds for all jobs.

    Attributes:
        path: its file.
        jobs: in the queue at once; None: as many as there are.
        tries: of a job, the first one included.
        configfiles: overlays that it names.
        rules: that it asks something for by name.
    """

    path: Path
    jobs: int | None
    tries: int
    configfiles: tuple[Path, ...] = ()
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What a job asks a scheduler for.

    Attributes:
        runtime: minutes; None: no limit.
        mem_mb: None: whatever a node gives.
    """

    runtime: Number | None
    mem_mb: Number | None


def file_of(path: Path) -> Path:
    """The file of a profile.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return path
    found = next((path / name for name in NAMES if (path / name).is_file()), None)
    if found is None:
        raise UserError(f"profile {path} is no file and no folder with {' or '.join(NAMES[::2])}")
    return found


def read(path: Path) -> Profile:
    """A profile.

    Args:
        path: a file, or a folder that holds one.

    Raises:
        UserError: it is not there, is no mapping, or holds something else where a number must stand.
    """
    file = file_of(path)
    own = _parsed(file)
    values = {**own, **(_parsed(file_of(WORKFLOW)) if WORKFLOW.is_dir() else {})}
    named = [entry for key in ("set-resources", "set-threads") for entry in _listed(own.get(key))]
    return Profile(
        file,
        jobs=_jobs(file, values.get("jobs")),
        tries=1 + (_number(file, "retries", values.get("retries")) or 0),
        configfiles=tuple(map(Path, _listed(values.get("configfile") or values.get("configfiles")))),
        rules=tuple(dict.fromkeys(re.split("[:=]", entry)[0] for entry in named)),
    )


def _listed(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [] if value is None else [str(value)]


def _parsed(file: Path) -> Mapping[str, object]:
    from snakemake.profiles import ProfileConfigFileParser

    try:
        with file.open(encoding="utf-8") as stream:
            values: Mapping[str, object] = ProfileConfigFileParser().parse(stream)
    except Exception as error:  # a parser's, a template's and Snakemake's own have nothing in common
        raise UserError(f"profile {file}: {' '.join(str(error).split())}") from None
    return values


def _jobs(file: Path, value: object) -> int | None:
    return None if value in (None, "unlimited") else _number(file, "jobs", value)


def _number(file: Path, key: str, value: object) -> int | None:
    if value is None:
        return None
    if not re.fullmatch(r"\d+", str(value)):
        raise UserError(f"profile {file}: {key} is {value!r}, but must be a whole number")
    return int(str(value))


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


def asked(job: PlannedJob) -> Asked:
    """What a job of a dry run asks for.

    Raises:
        UserError: its runtime or memory is no number that Snakemake could tell.
    """
    return Asked(_resource(job, "runtime"), _resource(job, "mem_mb"))


def _resource(job: PlannedJob, name: str) -> float | None:
    text = job.resources.get(name)
    if text is None or text == dry_run.TO_BE_DETERMINED:
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"rule {job.rule}: {name} is {text!r}, but must be a number") from None
