"""The workflow's files in a folder of their own, to be run and changed there."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy_workflow(folder: Path) -> None:
    """Copy what Snakemake reads; the folder may be there, but empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("rules", "profiles", "config", "report"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder / name)
