"""`deqpipe evaluate` in processes of its own: killed, out of time, and going on."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqpipe.foreign.evaluation import CARD, PAGE, ROWS, STATE
from deqpipe.machine.stopping import EXIT_UNFINISHED
from deqpipe.results import document
from tests.foreign.test_mistakes import X

pytestmark = pytest.mark.slow
PATIENCE = 120.0
MODEL = """
import sys
sys.path.insert(0, {root!r})
from tests.foreign.test_mistakes import States
model, solver = States(), {{"name": "broyden", "steps": 3}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its images, and what an evaluation that nobody disturbed has left."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "model.py").write_text(MODEL.format(root=str(Path(__file__).parents[2])))
    np.savez(folder / "images.npz", x=X.numpy(), y=np.array([0, 1, 2, 0, 1, 2]))
    with started(folder, "whole") as process:
        assert process.wait(PATIENCE) == 0
    return folder


@contextmanager
def started(folder: Path, output: str, *options: object) -> Iterator[subprocess.Popen[str]]:
    """The command under way."""
    given = ("--data", folder / "images.npz", "--output", folder / output, "--effort", "quick", "--threads", 1)
    command = (sys.executable, "-m", "deqpipe.cli", "evaluate", folder / "model.py", *given, *options)
    text = [str(part) for part in command]
    with subprocess.Popen(text, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def pieces(output: Path) -> dict[str, int]:
    """Finished pieces, and when each was written."""
    return {file.name: file.stat().st_mtime_ns for file in (output / STATE).glob("*.npz")}


def refuse_difference(folder: Path, one: str, other: str) -> None:
    """Two evaluations have left the same, but for the time that they took."""
    cards, pages = [], []
    for output in (folder / one, folder / other):
        card, provenance = document.read(output / CARD)
        cards.append(json.dumps([card, provenance | {"seconds": 0}]))
        pages.append(re.sub(r"; [0-9.]+ (s|min) on ", "; TIME on ", (output / PAGE).read_text()))
    assert cards[0] == cards[1]
    assert pages[0] == pages[1]
    assert (folder / one / ROWS).read_bytes() == (folder / other / ROWS).read_bytes()
    names = [sorted(file.name for file in (folder / output).rglob("*")) for output in (one, other)]
    assert names[0] == names[1]


def test_an_evaluation_that_is_killed_goes_on_and_ends_with_the_same_bytes(files: Path) -> None:
    output = files / "killed"
    statuses = []
    for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        due = len(pieces(output)) + 3
        with started(files, "killed") as process:
            end = time.monotonic() + PATIENCE
            while len(pieces(output)) < due:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.005)
            process.send_signal(number)
            statuses.append(process.wait(PATIENCE))
        assert not (output / CARD).exists()
        kept = pieces(output)
    assert statuses == [EXIT_UNFINISHED, -signal.SIGKILL, EXIT_UNFINISHED, -signal.SIGKILL]
    with started(files, "killed") as process:
        assert process.wait(PATIENCE) == 0
    assert {name: when for name, when in pieces(output).items() if name in kept} == kept
    refuse_difference(files, "whole", "killed")


def test_a_budget_that_bites_keeps_the_strongest_and_a_larger_one_goes_on(files: Path) -> None:
    output = files / "budget"
    whole, _ = document.read(files / "whole" / CARD)
    minutes = 0.3 * seconds_of(files / "whole") / 60
    with started(files, "budget", "--budget-minutes", f"{minutes:.5f}") as process:
        line, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert "under every attack that ran" in line
    card, _ = document.read(output / CARD)
    lacking = [one["name"] for one in card["skipped"]]
    order = [one["name"] for one in whole["attacks"]]
    ran = [name for name in order if name not in lacking]
    assert ran == order[: len(ran)]
    assert 1 < len(ran) < len(order)
    page = (output / PAGE).read_text()
    assert card["warnings"][0].startswith("The time budget was used up")
    assert f"of {len(whole['attacks']) - 1} attacks did not run" in page
    kept = pieces(output)
    with started(files, "budget", "--budget-minutes", 60) as process:
        assert process.wait(PATIENCE) == 0
    assert {name: when for name, when in pieces(output).items() if name in kept} == kept
    (output / STATE / "over.json").unlink()
    refuse_difference(files, "whole", "budget")


def seconds_of(output: Path) -> Any:
    """How long an evaluation computed."""
    return document.read(output / CARD)[1]["seconds"]
