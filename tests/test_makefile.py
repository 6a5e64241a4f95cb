"""Set-up: what is missing is told in one line, before anything is installed; what is there is used again."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Stands in for Python: answers the questions that the Makefile asks, and notes what it is asked to do.
FAKE_PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
  --version) echo "Python 3.{minor}.0" ;;
  *version_info*) [ {minor} -ge 11 ] ;;
  *ensurepip*) {has_venv} ;;
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile and what it installs from."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make` in a project, with the calls of a fake Python noted in a file."""
    command = ["make", "--no-print-directory", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "CALLS": str(project / "calls.txt")}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def python(project: Path, *, minor: int = 11, has_venv: str = "true") -> str:
    """A fake Python 3 of some version."""
    path = project / "some python"
    path.write_text(FAKE_PYTHON.replace("{minor}", str(minor)).replace("{has_venv}", has_venv))
    path.chmod(0o755)
    return f"PYTHON={path}"


@pytest.mark.parametrize(
    ("minor", "has_venv", "words"),
    [
        (8, "true", ["Python 3.8.0", "Python 3.11 or newer"]),
        (11, "false", ["lacks the venv module", "python3-venv"]),
    ],
)
def test_an_unfit_python_is_told_in_one_line(project: Path, minor: int, has_venv: str, words: list[str]) -> None:
    result = make(project, python(project, minor=minor, has_venv=has_venv), "demo")
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("make: ")]
    assert [word for word in words if word not in line] == []
    assert not (project / ".venv").exists()


def test_a_missing_python_is_told_in_one_line(project: Path) -> None:
    result = make(project, "PYTHON=python3.99", "demo")
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("make: ")]
    assert line.startswith("python3.99 was not found: Python 3.11 or newer is needed")


def test_packages_are_installed_once_and_again_when_the_pins_change(project: Path) -> None:
    fit = python(project)
    first, second = make(project, fit, ".venv/.installed"), make(project, fit, ".venv/.installed")
    assert first.returncode == second.returncode == 0
    assert first.stdout.startswith("Installing into .venv")
    assert "up to date" in second.stdout
    installed = [call for call in (project / "calls.txt").read_text().splitlines() if "pip install" in call]
    assert [call.split("--disable-pip-version-check ")[1] for call in installed] == [
        "-r requirements.txt",
        "--no-deps -e .",
    ]
    stamp = project / ".venv" / ".installed"
    os.utime(stamp, ns=(0, 0))  # older than the pins for certain: clocks of file systems are coarse
    assert make(project, fit, ".venv/.installed").stdout.startswith("Installing into .venv")


def test_all_requirements_are_pinned_and_come_from_the_index() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if pin.count("==") != 1 or "/" in pin or " " in pin] == []
