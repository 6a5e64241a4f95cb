"""Where files are looked for and written, however the workflow is started and its folders are spelt."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deqpipe import cli
from tests.workflow.conftest import DEMO, Workspace

TARGET = "results/demo/tables/table9.csv"


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [("-s", "../workspace/Snakefile"), ("-s", "../workspace/Snakefile", "--directory", "out")]
)
def test_the_workflow_runs_from_another_folder_with_the_config_beside_its_snakefile(
    workspace: Workspace, tmp_path: Path, start: tuple[str, ...]
) -> None:
    """An overlay is named from where the command is given."""
    elsewhere = Workspace(tmp_path / "elsewhere", workspace.python)
    elsewhere.folder.mkdir()
    shutil.copytree(workspace.folder / "config", elsewhere.folder / "config")
    result = elsewhere.run("--dry-run", *start, TARGET, *DEMO)
    assert result.returncode == 0, result.stderr
    assert "time_training" in result.stdout


@pytest.mark.slow
def test_home_and_variables_stand_for_folders_and_make_none_of_their_name(workspace: Workspace, tmp_path: Path) -> None:
    overlay = workspace.overlay(
        {"pathvars.results": "~/mine/", "pathvars.logs": "$LOGS/mine", "pathvars.state": "./s/"}
    )
    environment = {"HOME": str(tmp_path / "home"), "LOGS": str(tmp_path / "logs")}
    result = workspace.run("write_config", *DEMO, overlay, "--cores", "1", environment=environment)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "home/mine/config.yaml").is_file()
    assert (tmp_path / "logs/mine/write_config.log").is_file()
    assert not [path for path in workspace.folder.iterdir() if path.name.startswith(("~", "$"))]


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["./results/demo", "results/demo/", "results//demo"])
def test_one_folder_in_three_spellings_is_one_folder(finished: Workspace, spelling: str) -> None:
    overlay = finished.overlay({"pathvars.results": spelling}, name=f"spelt{len(spelling)}.yaml")
    assert finished.plan(*DEMO, overlay) == {}


def test_check_config_counts_the_images_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / split / name / "1.png")
    overlay = tmp_path / "few.yaml"
    overlay.write_text(f"data: {{source: folder, root: {tmp_path}, validation: 1}}\nevaluation: {{images: 3}}\n")
    assert cli.main(["check-config", "config.yaml", str(overlay)]) == 2
    assert "evaluation.images" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_over_results_of_another_configuration_says_what_differs(finished_copy: Workspace) -> None:
    config = finished_copy.folder / "results/demo/config.yaml"
    config.write_text("threat_model: {epsilon_255: 8.0}\n")
    printed = finished_copy.dry_run(*DEMO)
    assert "epsilon_255 8.0 there, 38.0 now" in printed
