"""Environments beside this one: without deqpipe, and with robustbench as its wheel asks for it."""

import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from tests.tiny import ROOT


def without_deqpipe(folder: Path) -> Path:
    """The Python of a new environment with all packages of this one, but not deqpipe.

    Packages that it gets later come before these; none of these is ever removed for one.
    """
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (folder / "lib" / version / "site-packages" / "borrowed.pth").write_text("\n".join(borrowed))
    python = folder / "bin" / "python"
    tried = subprocess.run([python, "-I", "-c", "import deqpipe"], capture_output=True, text=True, check=False)
    assert "No module named 'deqpipe'" in tried.stderr, "deqpipe is no editable install here"
    return python


def with_robustbench(folder: Path) -> Path | str:
    """The Python of a new environment with the extra `robustbench` of pyproject.toml; or why there is none."""
    python = without_deqpipe(folder)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["optional-dependencies"]["robustbench"]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
    reason = (done.stderr.strip().splitlines() or [""])[-1]
    return python if done.returncode == 0 else f"pip does not install {', '.join(wanted)}: {reason}"
