"""Runs tests, a dry run of the demo and a tiny workflow with the oldest and the newest libraries that are claimed.

    python -m tests.versions                                            both ends, with this Python
    python -m tests.versions --oldest python3.11 --newest python3.13    each end with a Python of its own

Downloads several GB at first. What came out is written to docs/versions.json, and docs/versions.md made from it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from deqpipe import config
from tests import tiny, workflow_files
from tests.versions.ends import RESOLUTIONS, ROOT, End, uv_beside

RECORD = ROOT / "docs" / "versions.json"
UNIT_TESTS = (
    "tests/analysis/test_reading.py", "tests/attack/test_pgd.py", "tests/model", "tests/reporting/test_figure2.py",
    "tests/reporting/test_formats.py", "tests/test_decoding.py", "tests/test_gradient.py", "tests/test_progress_bar.py",
    "tests/test_streams.py",
)  # fmt: skip
"""Of every layer, and where versions differed; --tests tests runs all."""
# What libraries say of each other's old ways is theirs; our own warnings stay errors.
WARNINGS = ("-W", "ignore::DeprecationWarning", "-W", "ignore::PendingDeprecationWarning")
TARGETS = tuple(
    f"results/tiny/attacks/{stage}/{model}/seed0.parquet"
    for stage, model in (("clean", "deq_pgd_at_base"), ("pgd", "resnet18_pgd_at"))
)
"""Of the tiny workflow: images, pretraining, both kinds of training, clean images and PGD."""
_SHORT = {"training": {"epochs": 2}, "jacobian": {"stop_epoch": 1}, "pretrain": {"steps": 20}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the ends that were asked for; returns the exit status."""
    options = _parser().parse_args(arguments)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("UV_CACHE_DIR", str((folder / "downloads").absolute()))
    uv = uv_beside(folder.absolute())
    found: dict[str, Any] = {}
    for name in options.ends:
        end = End(name, getattr(options, name), folder.absolute() / name)
        end.build(uv)
        found[name] = {"versions": end.versions(), "outcomes": _outcomes(end, options.tests)}
    known: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))["ends"] if RECORD.exists() else {}
    record = {"date": f"{date.today():%Y-%m-%d}", "ends": {**known, **found}}
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return int(any(one["status"] != 0 for end in found.values() for one in end["outcomes"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("ends", nargs="*", default=list(RESOLUTIONS), metavar="END", help="oldest, newest or both")
    for name in RESOLUTIONS:
        parser.add_argument(f"--{name}", default=sys.executable, metavar="PYTHON", help=f"that runs the {name} end")
    parser.add_argument("--folder", type=Path, default=ROOT / ".versions", help="of the environments, which are kept")
    parser.add_argument(
        "--tests", nargs="*", default=list(UNIT_TESTS), metavar="TEST", help="instead of the usual ones"
    )
    return parser


def _outcomes(end: End, tests: Sequence[str]) -> list[dict[str, Any]]:
    """What came of each check, printed as it comes."""
    with tempfile.TemporaryDirectory(prefix="versions") as scratch:
        work = Path(scratch, "workflow")
        workflow_files.copy_workflow(work)
        (work / "tiny.yaml").write_text(yaml.safe_dump(_tiny()), encoding="utf-8")
        checks = {
            "unit tests": (
                ROOT,
                ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *WARNINGS, *tests],
            ),
            "dry run of the demo": (work, ["snakemake", "--dry-run", "--configfile", "config/demo.yaml"]),
            "tiny workflow": (work, ["snakemake", *TARGETS, "--configfile", "tiny.yaml", "--logger", "deqpipe"]),
        }
        return [_outcome(end, name, folder, command) for name, (folder, command) in checks.items()]


def _tiny() -> dict[str, Any]:
    """The tiny experiment, beside all others."""
    folders = {name: f"{name}/tiny" for name in ("results", "logs", "state")}
    return config.merge(config.merge(tiny.OVERLAY, _SHORT), {"pathvars": folders})


def _outcome(end: End, name: str, folder: Path, command: Sequence[str]) -> dict[str, Any]:
    program, *rest = command
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{end.bin}{os.pathsep}{os.environ['PATH']}"}
    started = time.monotonic()
    done = subprocess.run(
        [end.bin / program, *rest], cwd=folder, env=variables, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
    )  # fmt: skip
    said = _said(done.stdout)
    print(f"{end.name}: {name}: exit status {done.returncode}, {said} ({time.monotonic() - started:.0f} s)", flush=True)
    if done.returncode:
        (end.folder / f"{name}.log").write_text(done.stdout, encoding="utf-8")
        print(f"  what it printed lies in {end.folder / name}.log", flush=True)
    return {"check": name, "status": done.returncode, "said": said}


def _said(printed: str) -> str:
    """How many tests or jobs there were."""
    patterns = (r"\d+ (?:failed|passed).*(?= in )", r"\d+ of \d+ jobs", r"total +(\d+)")
    for pattern in patterns:
        if found := re.findall(pattern, printed):
            return f"{found[-1]} jobs" if "total" in pattern else str(found[-1])
    return "nothing that counts"


if __name__ == "__main__":
    sys.exit(main())
