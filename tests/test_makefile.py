"""Set-up: what is missing is told in one line, before anything is installed; what is there is used again."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from deqpipe.machine import relocation

ROOT = Path(__file__).parents[1]

# Stands in for Python: answers the questions that the Makefile asks, and notes what it is asked to do.
FAKE_PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
echo "${PIP_USER} ${PYTHONPATH}${PYTHONHOME}${PIP_TARGET}${PIP_REQUIRE_VIRTUALENV}" >> "$CALLS.environment"
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


def make(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`make` in a project, with the calls of a fake Python noted in a file."""
    command = ["make", "--no-print-directory", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "CALLS": str(project / "calls.txt"), **variables}
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


def test_what_other_work_has_set_for_python_and_pip_stays_outside(project: Path) -> None:
    set_by_others = {"PIP_USER": "1", "PYTHONPATH": "/a", "PYTHONHOME": "/b", "PIP_TARGET": "/c",
                     "PIP_REQUIRE_VIRTUALENV": "1"}  # fmt: skip
    assert make(project, python(project), ".venv/.installed", **set_by_others).returncode == 0
    assert set((project / "calls.txt.environment").read_text().splitlines()) == {"0 "}


@pytest.fixture
def installed(project: Path) -> Path:
    """A project with an environment of its own: a command, a program, and the project on its path."""
    folder = project / "first"
    (folder / "deqpipe" / "machine").mkdir(parents=True)
    shutil.copy(ROOT / "deqpipe" / "machine" / "relocation.py", folder / "deqpipe" / "machine")
    (folder / "deqpipe" / "__init__.py").write_text("def main():\n    print(__file__)\n")
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    venv.create(folder / ".venv", symlinks=True)
    record = folder / ".venv" / "pyvenv.cfg"
    if "command = " not in record.read_text():  # as `python -m venv` writes it
        record.write_text(f"{record.read_text()}command = {sys.executable} -m venv {folder}/.venv\n")
    command = folder / ".venv" / "bin" / "deqpipe"
    command.write_text(f"#!{folder}/.venv/bin/python\nfrom deqpipe import main\nmain()\n")
    command.chmod(0o755)
    (folder / ".venv" / "bin" / "program").write_bytes(b"\x7fELF\xff")
    (packages,) = folder.glob(".venv/lib/python*/site-packages")
    (packages / "deqpipe.pth").write_text(f"{folder}\n")
    pins = subprocess.run("cat requirements.txt pyproject.toml | cksum", shell=True, cwd=folder, capture_output=True)
    (folder / ".venv" / ".installed").write_text(f"{folder}\n{pins.stdout.decode()}")
    return folder


def ran(folder: Path) -> str:
    """Whose code the command of an environment runs."""
    return subprocess.run(
        [folder / ".venv" / "bin" / "deqpipe"], capture_output=True, text=True, cwd="/"
    ).stdout.strip()


@pytest.mark.parametrize("name", ["second", "with blanks in its name", "x" * 120, "first/within"])
def test_a_copy_runs_its_own_code_and_the_original_still_its_own(installed: Path, name: str) -> None:
    copy = installed.parent / name
    shutil.copytree(installed, copy, symlinks=True, copy_function=shutil.copy)  # with new times, as `cp -r`
    assert ran(copy) == f"{installed}/deqpipe/__init__.py"
    done = make(copy, ".venv/.installed")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f".venv was made in {installed}: its commands now run what is here\n"
    assert ran(copy) == f"{copy}/deqpipe/__init__.py"
    assert ran(installed) == f"{installed}/deqpipe/__init__.py"
    assert "up to date" in make(copy, ".venv/.installed").stdout


def test_a_moved_environment_works_again_wherever_it_goes(installed: Path) -> None:
    last = installed
    for name in ("with blanks", "third"):
        last = last.rename(last.parent / name)
        assert make(last, ".venv/.installed").returncode == 0
        assert ran(last) == f"{last}/deqpipe/__init__.py"


def test_a_repaired_environment_still_names_its_python_where_both_lay_in_one_folder(installed: Path) -> None:
    record = installed / ".venv" / "pyvenv.cfg"
    versions = f"{installed}/.pyenv/versions"  # the project was the home folder; its Python stayed there
    kept = [f"home = {versions}/bin", f"executable = {versions}/bin/python3", f"base-prefix = {versions}"]
    made = f"command = {versions}/bin/python3 -m venv"
    record.write_text("\n".join([*kept, f"{made} {installed}/.venv", ""]))
    moved = installed.parent / "moved"
    shutil.copytree(installed, moved, symlinks=True)
    relocation.relocate(moved / ".venv")
    assert (moved / ".venv" / "pyvenv.cfg").read_text().splitlines() == [*kept, f"{made} {moved}/.venv"]
    (packages,) = moved.glob(".venv/lib/python*/site-packages")
    assert (packages / "deqpipe.pth").read_text() == f"{moved}\n"


def test_an_environment_that_is_a_link_is_left_to_those_who_work_there(installed: Path) -> None:
    other = installed.parent / "other"
    shutil.copytree(installed, other, ignore=shutil.ignore_patterns(".venv"))
    (other / ".venv").symlink_to(installed / ".venv")
    done = make(other, ".venv/.installed")
    assert done.returncode == 2
    assert "it is a link to" in done.stderr
    assert ran(installed) == f"{installed}/deqpipe/__init__.py"


def test_an_environment_whose_python_is_gone_is_made_anew(installed: Path) -> None:
    moved = installed.rename(installed.parent / "moved")
    python_there = moved / ".venv" / "bin" / "python"
    python_there.unlink()
    python_there.symlink_to("/nowhere/python3")
    done = make(moved, python(moved), ".venv/.installed")
    assert done.stdout.splitlines()[0] == "The Python that .venv was made of is gone: it is made anew."
    assert done.stdout.splitlines()[1].startswith("Installing into .venv")


def test_an_environment_whose_python_does_not_answer_is_left(installed: Path) -> None:
    """A mount that hangs, or too little memory, is no reason to install several GB anew."""
    moved = installed.rename(installed.parent / "moved")
    python_there = moved / ".venv" / "bin" / "python"
    python_there.unlink()
    python_there.write_text("#!/bin/sh\nexit 1\n")
    python_there.chmod(0o755)
    done = make(moved, python(moved), ".venv/.installed")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make: ")]
    assert line.startswith(".venv/bin/python is there, but does not run: ")
    assert (moved / ".venv" / "bin" / "deqpipe").exists()


def test_all_requirements_are_pinned_and_come_from_the_index() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if pin.count("==") != 1 or "/" in pin or " " in pin] == []
