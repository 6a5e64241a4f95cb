"""A workflow whose commands run within this process: the real Snakefile plans, nobody waits for a hundred starts."""

import contextlib
import io
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests import tiny
from tests.workflow.conftest import Workspace


@dataclass(frozen=True)
class PlannedCommand:
    """A job of a dry run.

    Attributes:
        rule: its rule.
        inputs: files that it reads.
        words: its command line without redirections.
    """

    rule: str
    inputs: tuple[str, ...]
    words: tuple[str, ...]


_COMMAND = "Shell command: deqpipe "


def planned(workspace: Workspace, *arguments: str) -> list[PlannedCommand]:
    """The jobs that Snakemake would run, in no order."""
    printed = workspace.dry_run("--printshellcmds", *arguments)
    jobs: list[PlannedCommand] = []
    rule, inputs = "", tuple[str, ...]()
    for line in printed.splitlines():
        if line.startswith(("rule ", "localrule ")):
            rule, inputs = line.split()[1].rstrip(":"), tuple[str, ...]()
        elif line.startswith("    input: "):
            inputs = tuple(line.removeprefix("    input: ").split(", "))
        elif line.startswith(_COMMAND):
            words = shlex.split(line.removeprefix(_COMMAND))
            jobs.append(PlannedCommand(rule, inputs, tuple(words[: words.index(">")])))
    return jobs


def run_all(workspace: Workspace, *arguments: str) -> list[PlannedCommand]:
    """Run what Snakemake plans, each job once its inputs are there."""
    waiting, done = planned(workspace, *arguments), list[PlannedCommand]()
    with contextlib.chdir(workspace.folder):
        while waiting:
            ready = [job for job in waiting if all(Path(path).exists() for path in job.inputs)]
            assert ready, f"nothing can run: {waiting[0]}"
            for job in ready:
                told = io.StringIO()
                with contextlib.redirect_stderr(told):
                    assert tiny.run(*job.words) == 0, f"{job.rule}: {told.getvalue()}"
            waiting = [job for job in waiting if job not in ready]
            done += ready
    return done
