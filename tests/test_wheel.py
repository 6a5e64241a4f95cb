"""A wheel: all that `deqpipe` needs is in it, and what needs the workflow's files says so."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deqpipe import __version__, cli
from deqpipe.machine import revision
from documentation.command_line import commands
from tests.tiny import ROOT

SECONDS = 120


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a wheel, unpacked into a folder of their own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    ours = [*ROOT.glob("deqpipe/**/*"), *ROOT.glob("snakemake_logger_plugin_deqpipe/*.py")]
    for path in [*ours, *(ROOT / name for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"))]:
        if path.is_file() and "__pycache__" not in path.parts:
            (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / path.relative_to(ROOT))
    (source / "deqpipe" / "REVISION").write_text("0123456789\n")  # a copy without git, such as an archive
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True, timeout=SECONDS)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`deqpipe` of the wheel, in a folder without a repository."""
    command = [sys.executable, "-m", "deqpipe.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


@pytest.mark.slow  # builds one
def test_a_wheel_holds_every_module_and_template_and_the_license(installed: Path) -> None:
    names = {str(path.relative_to(ROOT)) for path in ROOT.glob("deqpipe/**/*.py")}
    for templates in ("reporting/templates/*", "robustbench/standalone/*.md"):
        names |= {str(path.relative_to(ROOT)) for path in ROOT.glob(f"deqpipe/{templates}")}
    assert sorted(name for name in names if not (installed / name).is_file()) == []
    assert (installed / "snakemake_logger_plugin_deqpipe" / "__init__.py").is_file()
    assert list(installed.glob("deqpipe-*.dist-info/**/LICENSE"))
    assert not list(installed.glob("tests")) + list(installed.glob("documentation"))


@pytest.mark.slow
def test_a_wheel_says_its_version_and_the_revision_that_it_was_built_from(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "--version").stdout == f"deqpipe {__version__} (revision 0123456789)\n"


@pytest.mark.slow
def test_the_package_of_a_wheel_reads_a_configuration_and_gives_python_its_functions(
    installed: Path, tmp_path: Path
) -> None:
    told = run(installed, tmp_path, "check-config", str(ROOT / "config.yaml"), str(ROOT / "config" / "demo.yaml"))
    assert (told.returncode, told.stdout.rpartition(": ")[2]) == (0, "valid\n"), told.stderr
    code = "import deqpipe; print(deqpipe.__file__, deqpipe.load.__module__)"
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == [str(installed / "deqpipe" / "__init__.py"), "deqpipe.api"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "trial"])
def test_a_command_that_needs_the_workflow_says_so_in_a_line(installed: Path, tmp_path: Path, command: str) -> None:
    arguments = ("--seconds", "9") if command == "trial" else ()
    told = run(installed, tmp_path, command, *arguments)
    assert told.returncode == 2
    assert re.search("config.yaml|Snakefile", told.stderr)
    assert len(told.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_version_says_the_revision_of_a_checkout_and_of_a_wheel_and_knows_when_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(revision, "ROOT", tmp_path)
    monkeypatch.setattr(revision, "BUILT", tmp_path / "REVISION")
    assert revision.revision() is None
    (tmp_path / "REVISION").write_text("abc\n")
    assert revision.revision() == "abc"
    (tmp_path / ".git").mkdir()  # a checkout that git does not understand
    assert revision.revision() is None
    monkeypatch.setattr(revision, "described", lambda root: "def-dirty")
    with pytest.raises(SystemExit) as leaving:
        cli.main(["--version"])
    assert (leaving.value.code, capsys.readouterr().out) == (0, f"deqpipe {__version__} (revision def-dirty)\n")
    assert "plan" in commands()
