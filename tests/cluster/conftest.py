"""A SLURM of scripts, which is all of PATH: what it answers is what a test puts there."""

from pathlib import Path
from typing import Any

import pytest

from deqpipe.cluster.submission import Request
from deqpipe.lazy import named

named("snakemake.cli")  # with its executors, of which that for SLURM looks for commands when it is imported


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is all of PATH, with a SLURM in it that takes every job, and notes what it is asked."""
    put(tmp_path, "which", "exit 1")  # the plugin asks it for sacct when it is imported
    put(tmp_path, "sacctmgr", 'printf "ours\\nothers\\n"')
    put(tmp_path, "sbatch", f'echo "$*" >> {tmp_path}/asked')
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def request(rule: str = "clean", **resources: Any) -> Request:
    usual = {"slurm_account": "ours", "slurm_partition": "gpu", "mem_mb": 16000, "runtime": 240, "gpu": 1}
    return Request(rule, usual | resources, threads=4)
