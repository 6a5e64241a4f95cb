"""The workflow's own hygiene."""

import re
import subprocess
import sys

from tests.workflow.conftest import ROOT, Workspace


def test_lint_misses_nothing_but_a_conda_environment_or_container(workspace: Workspace) -> None:
    """The environment is pinned in requirements.txt; an image that does not exist would only silence the linter."""
    result = workspace.run("--lint")
    complaints = set(re.findall(r"^    \* (.*?):?$", result.stdout + result.stderr, re.MULTILINE))
    assert complaints == {"Specify a conda environment or container for each rule."}


def test_rules_are_formatted() -> None:
    command = [sys.executable, "-m", "snakefmt", "--check", "--diff", "Snakefile", "rules"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_rule_says_what_it_does(workspace: Workspace) -> None:
    listed = workspace.run("--list").stdout.splitlines()
    assert len(listed) > 20
    assert [line for line in listed if not re.fullmatch(r"\w+ \(.+\)", line)] == []


def test_no_rule_runs_python_of_its_own_or_leaves_a_value_unquoted() -> None:
    """`run:` costs seconds per job and `script:` ties jobs to one environment; unquoted values can run as commands."""
    for path in (ROOT / "rules").glob("*.smk"):
        text = path.read_text()
        assert not re.search(r"^\s+(run|script|notebook|wrapper):", text, re.MULTILINE), path
        commands = "".join(re.findall(r"shell:\n(.*?)(?:\n\n|\Z)", text, re.DOTALL))
        assert [field for field in re.findall(r"{([^}]*)}", commands) if not field.endswith(":q")] == [], path
