"""Snakemake's command line: what cannot be meant is told before Snakemake ends on it, and nothing else is touched."""

from pathlib import Path

import pytest

from deqpipe.errors import UserError
from deqpipe.workflow import command_line
from tests import workflow_files
from tests.workflow.conftest import Workspace

DEMO = ("--configfile", "config/demo.yaml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workflow, and the folder that a user is in."""
    workflow_files.copy_workflow(tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def told(*arguments: str) -> str:
    with pytest.raises(UserError) as refusal:
        command_line.check(arguments)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*DEMO, "none.yaml"), "config file none.yaml does not exist"),
        ((*DEMO, "config"), "config file config cannot be read"),
        ((*DEMO, "table1"), "a target stands before it, as in snakemake table1 --configfile config/demo.yaml"),
        (("--configfile", "results/x.csv", "-n"), "results/x.csv stands behind --configfile, but is no file"),
        ((*DEMO, "seeds=1"), "seeds=1 stands behind --configfile, but is no file: write seeds: [1] in a file"),
        ((*DEMO, "model.groups=2"), "write model: {groups: 2} in a file"),
        (("--configfile=none.yml",), "config file none.yml does not exist"),
        (("--config", "threat_model.epsilon_255=8"), "write threat_model: {epsilon_255: 8} in a file"),
        (("--config", "device=cpu", "table1"), "--config has table1, but takes name=value"),
        (
            (*DEMO, "--configfile", "config.yaml"),
            "more than once, of which Snakemake takes the last: write --configfile",
        ),
        (("-s", "Snakefile", "--configfiles", "none.yaml"), "config file none.yaml does not exist"),
    ],
)
def test_what_snakemake_would_end_on_is_told_with_what_was_meant(
    folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert words in told(*arguments)


@pytest.mark.parametrize("content", ["a: [1", "a: 1\na: 2", "", "- a", "pathvars:\n  results: 2024", "\ta: 1"])
def test_a_broken_config_file_is_told_by_its_name(folder: Path, content: str) -> None:
    (folder / "mine.yaml").write_text(content)
    assert told(*DEMO, "mine.yaml").startswith("config file mine.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("table1", *DEMO), (*DEMO, "config.yaml", "-n", "table1"), ("--config", "device=cpu", "seeds=1"),
        ("--target-jobs", "pretrain:seed=0", "--configfiles", "gone.yaml"), ("--mode", "subprocess", "--config", "x"),
        ("--configfile=config/demo.yaml", "results/demo/data/dataset.safetensors"), ("--config=seeds=1", "table1"),
    ],
)  # fmt: skip
def test_what_can_be_meant_is_left_to_snakemake(folder: Path, arguments: tuple[str, ...]) -> None:
    command_line.check(arguments)


def test_commands_of_other_programs_and_workflows_are_left_alone(folder: Path, tmp_path: Path) -> None:
    command_line.refuse(["/usr/bin/pytest", "--configfile", "none.yaml"])
    (tmp_path / "Snakefile").write_text("rule all:\n    output: 'x'\n")
    command_line.refuse(["/usr/bin/snakemake", "-s", str(tmp_path / "Snakefile"), "--configfile", "none.yaml"])
    for program in ("/usr/bin/snakemake", "/usr/lib/snakemake/__main__.py"):
        with pytest.raises(SystemExit, match="2"):
            command_line.refuse([program, "--configfile", "none.yaml"])


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({"seeds": 1}, "seeds: [1]"),
        ({"seeds": ["0", "1"]}, "seeds: [0, 1]"),
        ({"threat_model": {"epsilon_255": "8"}}, "threat_model: {epsilon_255: 8}"),
        ({"figures": {"jacobian": "true"}}, "figures: {jacobian: true}"),
    ],
)
def test_numbers_that_snakemake_made_text_of_belong_in_a_file(settings: dict[str, object], written: str) -> None:
    with pytest.raises(UserError) as refusal:
        command_line.check_settings(settings)
    assert f"write {written} in a file, such as my.yaml, and add it behind --configfile" in str(refusal.value)


def test_settings_of_words_and_single_numbers_are_taken() -> None:
    command_line.check_settings({"device": "cpu", "gpu_request": 1, "pathvars": {"results": "out"}, "compile": True})


@pytest.mark.slow
def test_targets_are_found_among_options() -> None:
    assert command_line.targets(["snakemake", "table1", "-n", *DEMO, "--", "table2"]) == ["table1", "table2"]
    assert command_line.targets(["pytest", "table1"]) == []
    assert command_line.targets(["snakemake", "--target-jobs", "pretrain:seed=0"]) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*DEMO, "mine.yaml"), "config file mine.yaml is not YAML"),
        ((*DEMO, "table1"), "a target stands before it"),
        (("table12", *DEMO), "there is no rule table12"),
        (("results/tables/table1.csv", *DEMO), "did you mean results/demo/tables/table1.csv?"),
        ((*DEMO, "--config", "seeds=1"), "write seeds: [1] in a file"),
    ],
)
def test_snakemake_itself_ends_with_our_line(workspace: Workspace, arguments: tuple[str, ...], words: str) -> None:
    (workspace.folder / "mine.yaml").write_text("a: [1\n")
    done = workspace.run("-n", *arguments)
    *_, line = done.stderr.splitlines()
    assert (done.returncode, line.partition(": ")[0]) == (2, "deqpipe")
    assert words in line
    assert "Traceback" not in done.stderr
