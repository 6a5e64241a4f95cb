"""A workflow whose jobs take no time: the real Snakefile, rules and profiles, with a `deqpipe` that only writes files.

The workflow calls the `deqpipe` that lies beside the Python that runs Snakemake. So a virtual environment of two files,
which borrows the packages of the real one, is enough to put another `deqpipe` in its place.
"""

import contextlib
import gc
import io
import json
import re
import shutil
import subprocess
import sys
import venv
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deqpipe import config
from deqpipe.config import Config
from deqpipe.workflow import layout, products, specs
from tests import workflow_files

ROOT = workflow_files.ROOT
DEMO = ("--configfile", "config/demo.yaml")

# Writes every declared output, with nothing in it but the spec that it was asked to work by; and what it was asked.
# Before, it does what fate.sh says, if that is there.
FAKE_DEQPIPE = """#!/bin/bash
set -eu
verb=$1
echo "$*" >> calls.txt
echo "$verb runs"
[ ! -e fate.sh ] || . ./fate.sh
sleep "${FAKE_SECONDS:-0}"
spec=null
arguments=("$@")
for ((n = 0; n < $#; n++)); do [ "${arguments[n]}" != --spec ] || spec=${arguments[n+1]}; done
fingerprint=$(printf %s "$spec" | sha256sum | cut -c1-16)
made="{\\"provenance\\": {\\"spec\\": $spec}, \\"digest\\": \\"\\"}"
case $verb in
  write-config) made=$spec ;;
  report) made="<!DOCTYPE html><meta name=\\"deqpipe-spec\\" content=\\"$fingerprint\\">" ;;
esac
while [ $# -gt 0 ]; do
  case $1 in
    --output|--best|--last)
      echo "$made" > "$2"
      case $verb in attack-suite|attack-ensemble) echo "$made" > "${2%.parquet}.safetensors" ;; esac
      [ "$verb" != report ] || touch "${2%report.html}overview.png" "${2%report.html}overview.svg" ;;
    --history) echo "$verb" > "$2" ;;
    --numbers) echo "{\\"origin\\": {\\"spec\\": \\"$fingerprint\\"}, \\"digest\\": \\"\\"}" > "$2" ;;
    --handoff) printf '%s%2000000s' "$made" '' > "$2" ;;
    --output-stem)
      case $verb in table) endings="csv html md tex" ;; figure) endings="png pdf csv" ;; esac
      for ending in $endings; do echo "$verb" > "$2.$ending"; done
      echo "{\\"origin\\": {\\"spec\\": \\"$fingerprint\\", \\"inputs\\": []}, \\"digest\\": \\"\\"}" > "$2.json" ;;
  esac
  shift
done
"""


@dataclass(frozen=True)
class Workspace:
    """A copy of the workflow in a folder of its own."""

    folder: Path
    python: Path

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """`snakemake` as a user starts it, in a process of its own with next to nothing on PATH."""
        return subprocess.run(
            [self.python, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.python.parent), **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )

    def plan(self, *arguments: str) -> dict[str, int]:
        """Jobs per rule of a dry run, within this process (a tenth of the time of `run`)."""
        return job_counts(self.dry_run(*arguments))

    def dry_run(self, *arguments: str, status: int = 0) -> str:
        """What a dry run prints, within this process; `status` is the exit status that it should have."""
        from snakemake.cli import main

        printed = io.StringIO()
        with (
            warnings.catch_warnings(action="ignore"),  # Snakemake leaves temporary folders to the garbage collector
            contextlib.chdir(self.folder),
            contextlib.redirect_stderr(printed),
            contextlib.redirect_stdout(printed),
        ):
            with pytest.raises(SystemExit) as exit_info:
                main(["--dry-run", *arguments])
            gc.collect()
        assert exit_info.value.code == status, printed.getvalue()
        return printed.getvalue()

    def overlay(self, settings: Mapping[str, object], *, name: str = "overlay.yaml") -> str:
        """An overlay file with these settings; dotted keys name sections."""
        nested: dict[str, Any] = {}
        for key, value in settings.items():
            *sections, last = key.split(".")
            node = nested
            for section in sections:
                node = node.setdefault(section, {})
            node[last] = value
        (self.folder / name).write_text(yaml.safe_dump(nested))
        return name

    def calls(self) -> list[str]:
        """What the fake `deqpipe` was asked to do."""
        return (self.folder / "calls.txt").read_text().splitlines()


def job_counts(printed: str) -> dict[str, int]:
    """Jobs per rule from what Snakemake prints; targets without a job of their own left out."""
    table = printed.partition("Job stats:")[2].partition("\n\n")[0]
    counts = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
    return {name: count for name, count in counts.items() if name not in TARGETS}


TARGETS = ("all", "train_all", "select_all", "attack_all", "suite_all", "tables", "figures", "total")


def environment(folder: Path, deqpipe: str) -> Path:
    """The Python of an environment with all packages and, beside it, a `deqpipe` of this text."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (folder / "lib" / version / "site-packages" / "borrowed.pth").write_text("\n".join([*borrowed, str(ROOT)]))
    command = folder / "bin" / "deqpipe"
    command.write_text(deqpipe)
    command.chmod(0o755)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with all packages, and a fake `deqpipe` beside it."""
    return environment(tmp_path_factory.mktemp("environment"), FAKE_DEQPIPE)


def copy_workflow(folder: Path, python: Path) -> Workspace:
    """The workflow's files in an empty folder."""
    workflow_files.copy_workflow(folder)
    return Workspace(folder, python)


@pytest.fixture
def workspace(tmp_path: Path, python: Path) -> Workspace:
    """The workflow before its first run."""
    return copy_workflow(tmp_path / "workspace", python)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Workspace:
    """The workflow after a whole run of the demo. Tests must not change its files."""
    workspace = copy_workflow(tmp_path_factory.mktemp("finished"), python)
    result = workspace.run(*DEMO, "--cores", "2")
    assert result.returncode == 0, result.stderr
    with contextlib.chdir(workspace.folder):
        list_inputs(config.load([Path("config.yaml"), Path(DEMO[1])]))
    return workspace


def list_inputs(asked: Config) -> None:
    """Say in the sidecar of every table and figure what it was made of, which the fake `deqpipe` is not told."""
    results = Path(asked.pathvars.results)
    for product in (*products.TABLES.values(), *products.FIGURES.values()):
        sidecar = results / f"{product.kind}s" / f"{product.name}.json"
        if sidecar.exists():
            names = layout.all_needed(product.needs(asked), asked)
            jobs = {name: layout.job_of(name, asked) for name in names}
            told = json.loads(sidecar.read_text())
            told["origin"]["inputs"] = [
                {"path": name, "spec": specs.fingerprint_of_job(job, asked)} for name, job in jobs.items() if job
            ]
            sidecar.write_text(json.dumps(told))


@pytest.fixture
def finished_copy(finished: Workspace, tmp_path: Path) -> Workspace:
    """The workflow after a whole run of the demo, to be changed at will."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Workspace(tmp_path / "copy", finished.python)
