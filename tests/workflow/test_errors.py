"""What a user gets wrong is told in one line, with exit status 2, and nothing is written."""

from collections.abc import Mapping
from typing import Any

import pytest

from deqpipe import config
from deqpipe.results import checkpoint
from deqpipe.workflow import specs
from tests.sampling import one_in
from tests.workflow.conftest import DEMO, Workspace

# What Snakemake says of itself before it reads the Snakefile.
NOTICES = ("Using workflow specific profile", "Config file config.yaml is extended")


def said(stderr: str) -> list[str]:
    """The lines of an error that are not Snakemake's notices."""
    return [line for line in stderr.splitlines() if not line.startswith(NOTICES)]


@pytest.mark.parametrize(
    ("settings", "words"),
    one_in(
        4,
        [
            ({"training.epoch": 3}, ["training.epoch", "did you mean epochs?"]),
            ({"training.epochs": "many"}, ["training.epochs", "'many'", "integer"]),
            ({"attack.grid.states": [1, 9]}, ["attack.grid.states", "9", "states 1 to 8"]),
            ({"data.source": "folder", "data.root": "no; such"}, ["data.root", "'no; such'", "train/<class>/*"]),
        ],
        first=3,
    ),
)
def test_a_wrong_config_is_told_in_one_line(
    workspace: Workspace, settings: Mapping[str, object], words: list[str]
) -> None:
    before = set(workspace.folder.iterdir())
    overlay = workspace.overlay(settings)
    result = workspace.run(*DEMO, overlay)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = said(result.stderr)
    assert [word for word in words if word not in line] == []
    assert {path.name for path in set(workspace.folder.iterdir()) - before} == {overlay, ".snakemake"}


def test_an_image_folder_is_not_missed_once_it_was_read(workspace: Workspace) -> None:
    overlay = workspace.overlay({"data.source": "folder", "data.root": "moved"})
    files = [workspace.folder / name for name in ("config.yaml", DEMO[1], overlay)]
    prepared(workspace, specs.build("data", config.load(files)))
    workspace.dry_run(*DEMO, overlay)


def test_an_image_folder_is_missed_where_other_images_were_read_before(workspace: Workspace) -> None:
    overlay = workspace.overlay({"data.source": "folder", "data.root": "moved"})
    prepared(
        workspace, specs.build("data", config.load([workspace.folder / "config.yaml", workspace.folder / DEMO[1]]))
    )
    (line,) = said(workspace.dry_run(*DEMO, overlay, status=2))
    assert "data.root is 'moved'" in line


def prepared(workspace: Workspace, spec: Mapping[str, Any]) -> None:
    """A dataset file that was made by a spec."""
    path = workspace.folder / "results/demo/data/dataset.safetensors"
    checkpoint.write(path, {}, {"kind": "dataset", "provenance": {"spec": dict(spec)}})


def test_jobs_that_would_cut_batches_are_told_in_one_line(workspace: Workspace) -> None:
    settings = {"protocol": "release", "evaluation.batch_size": 20, "attack.images_per_job": 30}
    (line,) = said(workspace.dry_run(*DEMO, workspace.overlay(settings), status=2))
    assert "attack.images_per_job is 30" in line
    assert "a multiple of evaluation.batch_size (20)" in line


@pytest.mark.parametrize(
    ("results", "words"),
    one_in(3, [("c{model}/res", "without any of {}<>"), ("", "must name a folder"), (".", "must not be")]),
)
def test_a_results_folder_that_cannot_be_is_told_in_one_line(workspace: Workspace, results: str, words: str) -> None:
    printed = workspace.dry_run(*DEMO, workspace.overlay({"pathvars.results": results}), status=2)
    (line,) = said(printed)
    assert f"pathvars.results is {results!r}" in line
    assert words in line


def test_an_image_folder_is_found(workspace: Workspace) -> None:
    for split, count in (("train", 101), ("test", 48)):
        (workspace.folder / "my images" / split / "cat").mkdir(parents=True)
        for number in range(count):
            (workspace.folder / "my images" / split / "cat" / f"{number}.png").touch()
    overlay = workspace.overlay({"data.source": "folder", "data.root": "my images"})
    assert "--root 'my images'" in workspace.dry_run("--printshellcmds", *DEMO, overlay)


def test_errors_hold_in_process_too(workspace: Workspace) -> None:
    """The tests above take seconds; the many wrong values of tests/test_config.py are not run through Snakemake."""
    printed = workspace.dry_run(*DEMO, workspace.overlay({"model.groups": 3}), status=2)
    assert said(printed) == [
        "deqpipe: config: model.channels has 8, which 3 groups do not divide "
        "(model.groups = 3, half of them after fusing)"
    ]
