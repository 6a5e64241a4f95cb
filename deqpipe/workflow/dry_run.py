"""Which jobs a run has, and which are left: asked of Snakemake itself, in a dry run."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deqpipe.errors import UserError
from deqpipe.workflow.endings import PROGRAM

TARGETS = ("all", "train_all", "select_all", "attack_all", "suite_all", "tables", "figures")
"""Rules that only ask for the files of others."""
TO_BE_DETERMINED = "<TBD>"
"""What a dry run prints of a resource that depends on files that are not there yet."""


@dataclass(frozen=True)
class PlannedJob:
    """A job as a dry run prints it.

    Attributes:
        rule: its rule.
        wildcards: which of the rule's jobs.
        inputs: files that it waits for.
        outputs: files that it makes.
        priority: of its rule; of the jobs that could start, Snakemake takes one of the highest.
        resources: that it asks for, as they are printed.
        threads: of it.
    """

    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    priority: int = 0
    resources: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1


def jobs(
    configfiles: Sequence[Path],
    *,
    targets: Sequence[str] = (),
    cores: int | None = None,
    everything: bool,
    profile: Path | None = None,
) -> list[PlannedJob]:
    """The jobs of a run in this folder, in Snakemake's order.

    No result is touched: a dry run writes into Snakemake's own folder .snakemake only.

    Args:
        configfiles: overlays of config.yaml.
        targets: rules or files that it is to make; none: everything that the workflow makes by default.
        cores: of the run; None: as a profile says.
        everything: all jobs, also those whose results are there and up to date.
        profile: that says what they ask for; None: the default one alone.

    Raises:
        UserError: Snakemake refuses to plan, with its line.
    """
    forced = ["--forceall"] if everything else []
    on_cores = [] if cores is None else ["--cores", str(cores)]
    with_profile = [] if profile is None else ["--profile", str(profile)]
    overlays = ["--configfile", *map(str, configfiles)] if configfiles else []
    wanted = ["--", *targets] if targets else []
    printed = _snakemake(["--dry-run", "--nocolor", *on_cores, *forced, *with_profile, *overlays, *wanted])
    planned, counted = parse_jobs(printed), parse_counts(printed)
    listed = Counter(job.rule for job in planned)
    if counted != listed:
        raise UserError(
            f"Snakemake lists {dict(listed)}, but counts {dict(counted)}: a profile that makes it quiet cannot be read"
        )
    return planned


def rules() -> tuple[str, ...]:
    """All rules of the workflow in this folder.

    Raises:
        UserError: Snakemake refuses to tell, with its line.
    """
    return tuple(re.findall(r"^(\w+)(?: \(.*\))?$", _snakemake(["--list-rules", "--nocolor", "--quiet"]), re.MULTILINE))


def _snakemake(arguments: Sequence[str]) -> str:
    """What it prints."""
    line = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    if done.returncode:
        raise UserError(complaint(done.stdout + done.stderr))
    return done.stdout + done.stderr


def complaint(printed: str) -> str:
    """What Snakemake, or a rule file before it, says is wrong: one line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    ours = [line.removeprefix(f"{PROGRAM}: ") for line in lines if line.startswith(f"{PROGRAM}: ")]
    if ours:
        return ours[0]
    if refused := re.search(r"Exception in rule (\w+) [^\n]*\nError:\n\s*\w+Error:\n\s+([^\n]+)", printed):
        return f"Snakemake cannot plan: rule {refused[1]}: {refused[2]}"
    # the first one: others may follow from it
    at = next((n for n, line in enumerate(lines) if re.match(r"\w*(Error|Exception)\b", line)), len(lines) - 1)
    said = lines[at : at + 2] if lines and lines[at].endswith(":") else lines[at : at + 1]
    return f"Snakemake cannot plan: {' '.join(said) or 'it says nothing'}"


def parse_counts(printed: str) -> dict[str, int]:
    """Jobs per rule by the table of job stats; without targets, and empty where nothing is to be done."""
    _, _, behind = printed.partition("Job stats:")
    table = re.match(r"\s*job\s+count[^\n]*\n[-\s]+\n((?:\w+ +\d+[^\n]*\n?)+)", behind)
    rows = re.findall(r"^(\w+) +(\d+)", table[1], re.MULTILINE) if table else []
    return {name: int(count) for name, count in rows if name not in (*TARGETS, "total")}


def parse_jobs(printed: str) -> list[PlannedJob]:
    """The jobs that a dry run describes one by one, without targets; those of a group are indented."""
    blocks = re.findall(r"^( *)(?:local)?(?:rule|checkpoint) (\w+):\n((?:\1 +[^\n]*\n?)*)", printed, re.MULTILINE)
    return [_job(rule, text) for _, rule, text in blocks if rule not in TARGETS]


def _job(rule: str, text: str) -> PlannedJob:
    facts = dict(re.findall(r"^ +(\w+): (.*)$", text, re.MULTILINE))
    return PlannedJob(
        rule=rule,
        wildcards=_pairs(facts.get("wildcards", "")),
        inputs=_listed(facts.get("input", "")),
        outputs=_listed(facts.get("output", "")),
        priority=int(facts.get("priority", 0)),
        resources=_pairs(facts.get("resources", "")),
        threads=int(facts.get("threads", 1)),
    )


def _pairs(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in (re.split(r", (?=\w+=)", text) if text else ()))
    return {name: value for name, _, value in pairs}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(", ")) if text else ()
