"""Solvers and dynamics of one's own: what makes results depend on batches is refused before anything is computed."""

from pathlib import Path

import pytest

from deqpipe.config import Config
from deqpipe.workflow import specs
from tests import tiny

BASE = "deq_pgd_at_base"
HERE = Path(__file__).parent
COUPLING = "\n        proposed = proposed - proposed.mean(0)"
DRAWING = "\n        proposed = proposed + 0.01 * __import__('torch').rand_like(proposed)"
PROPOSED = "proposed: State = super().propose(state)"


def answer(trained: tiny.Trained, folder: Path, config: Config, model: str) -> int:
    """The status of clean accuracy's job."""
    spec = specs.dumps(specs.build("clean", config, model=model, seed=0))
    words = ("clean", "--spec", spec, "--data", trained.data, "--checkpoint", trained.file(BASE))
    return tiny.run(*words, "--output", folder / "c.parquet", "--batch-size", 5, "--state", folder / "state")


def with_solver(path: Path, further: str) -> Config:
    """The tiny experiment with the example's solver, changed."""
    path.write_text((HERE / "solver.py").read_text().replace(PROPOSED, PROPOSED + further))
    solver = {"name": "damped_anderson", "memory": 3, "mixing": 0.8, "steps": 4}
    return tiny.settings({"extensions": [str(path)], "solver": solver})


@pytest.mark.parametrize(
    ("further", "told"),
    [
        (COUPLING, "images influence each other: alone an image's logits change by up to"),
        (DRAWING, "the same images have other logits when asked again"),
    ],
    ids=["coupling", "drawing"],
)
def test_a_solver_that_couples_images_or_draws_is_refused_by_its_line(
    trained: tiny.Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], further: str, told: str
) -> None:
    path = tmp_path / "mine.py"
    config = with_solver(path, further)
    assert answer(trained, tmp_path, config, BASE) == 2
    (line,) = (number for number, text in enumerate(path.read_text().split("\n"), 1) if text.startswith("DAMPED"))
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"deqpipe: extension {path}, line {line}: solver damped_anderson: {told}")
    assert not (tmp_path / "c.parquet").exists()


def test_a_solver_that_does_neither_is_used(trained: tiny.Trained, tmp_path: Path) -> None:
    assert answer(trained, tmp_path, with_solver(tmp_path / "mine.py", ""), BASE) == 0


def test_dynamics_that_couple_images_are_refused(
    trained: tiny.Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, damped = tmp_path / "mine.py", "z + DAMPING * (along.fn(z) - z)"
    path.write_text((HERE / "dynamics.py").read_text().replace(damped, "z - z.mean(0)"))
    config = tiny.settings({"extensions": [str(path)]})
    assert answer(trained, tmp_path, config, f"{BASE}_settled") == 2
    assert "defence settled: images influence each other: alone" in capsys.readouterr().err
