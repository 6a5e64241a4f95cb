"""The ends of what pyproject.toml allows, each as an environment of its own."""

import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_NOT_FOR_TESTS = ("snakemake-executor-plugin-slurm",)  # needs newer numpy, pandas and PyYAML than deqpipe without it
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
"""What uv calls the ends: of what deqpipe names itself, the oldest; of what that needs, the newest."""


@dataclass(frozen=True)
class End:
    """One end of all ranges.

    Attributes:
        name: oldest or newest.
        interpreter: of Python.
        folder: of its environment.
    """

    name: str
    interpreter: str
    folder: Path

    @property
    def bin(self) -> Path:
        """Where its programs lie."""
        return self.folder / "bin"

    def build(self, uv: str) -> None:
        """Make the environment, or bring it up to date.

        Raises:
            CalledProcessError: the libraries do not go together, or cannot be had.
        """
        if not (self.bin / "python").exists():
            subprocess.run([uv, "venv", "--quiet", "--python", self.interpreter, self.folder], check=True)
        asked, chosen = self.folder / "asked.txt", self.folder / "chosen.txt"
        asked.write_text("\n".join(requirements()) + "\n", encoding="utf-8")
        to = ["--quiet", "--python", str(self.bin / "python")]
        way = ["--resolution", RESOLUTIONS[self.name], "--output-file", str(chosen), "--no-header"]
        subprocess.run([uv, "pip", "compile", *to, *way, asked], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([uv, "pip", "sync", *to, chosen], check=True)
        subprocess.run([uv, "pip", "install", *to, "--no-deps", "--editable", ROOT], check=True)

    def versions(self) -> dict[str, str]:
        """Of Python, and of what pyproject.toml names."""
        code = (
            "import importlib.metadata as known, json, platform, sys;"
            "versions = {name: known.version(name) for name in sys.argv[1:]};"
            "print(json.dumps({'python': platform.python_version(), **versions}))"
        )
        names = map(_name, _project()["dependencies"])
        found = subprocess.run([self.bin / "python", "-c", code, *names], check=True, stdout=subprocess.PIPE)
        versions: dict[str, str] = json.loads(found.stdout)
        return versions


def requirements() -> list[str]:
    """What is installed: what deqpipe needs, and its tests."""
    project = _project()
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return [one for one in wanted if _name(one) not in _NOT_FOR_TESTS]


def _project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _name(requirement: str) -> str:
    return requirement.partition(">=")[0].partition("==")[0].strip()


def uv_beside(folder: Path) -> str:
    """uv, in an environment of its own in `folder`."""
    tool = folder / "uv"
    if not (tool / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-m", "venv", tool], check=True)
        subprocess.run([tool / "bin" / "python", "-m", "pip", "install", "--quiet", "uv"], check=True)
    return str(tool / "bin" / "uv")
