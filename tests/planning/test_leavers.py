"""Which images AutoAttack's attacks meet."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqpipe.planning import leavers
from deqpipe.results import records
from deqpipe.workflow import dry_run, specs
from tests import tiny

SMALL: dict[str, Any] = {"autoattack": {"attacks": ["apgd_ce", "fab_t", "square"], "square_images": 3}}
WILDCARDS = {"model": "deq_trades_base", "defence": "plain", "seed": "0", "images": "0-4"}


def job(path: Path) -> dry_run.PlannedJob:
    return dry_run.PlannedJob("autoattack", WILDCARDS, (), (str(path),))


def written(path: Path, met: dict[str, list[int]], **spec: Any) -> Path:
    """Records of a job: the images that each attack was run on."""
    rows = [(attack, image) for attack, images in met.items() for image in images]
    columns: dict[str, np.ndarray] = {name: np.zeros(len(rows)) for name in records.SCALARS}
    for name in ("model", "defence", "crafted_on"):
        columns[name] = np.array(["x"] * len(rows))
    columns |= {"attack": np.array([attack for attack, _ in rows]), "image": np.array([image for _, image in rows])}
    columns |= {name: np.zeros((len(rows), 2)) for name in records.PER_STATE}
    built = specs.build("autoattack", tiny.settings(SMALL), model="deq_trades_base", seed=0, defence="plain")
    records.write(path, columns, provenance={"spec": {**built, **spec}})
    return path


MET = {"clean": [0, 1, 2, 3, 4], "apgd_ce": [0, 1, 2, 4], "fab_t": [0, 4], "square": [0]}


def test_shares_are_those_of_the_finished_jobs(tmp_path: Path) -> None:
    planned = [job(written(tmp_path / "a", MET)), job(tmp_path / "missing")]
    found = leavers.entering(tiny.settings(SMALL), planned)
    assert found.shares == {"apgd_ce": 4 / 5, "fab_t": 2 / 5, "square": 1 / 3}
    assert found.words == "measured in 1 of 2 jobs: 80 % meet APGD-CE, 40 % FAB-T, 33 % Square"
    assert not found.everybody


@pytest.mark.parametrize("spec", [{}, {"revision": 99}, {"seed": 7}])
def test_without_a_finished_job_of_this_configuration_they_are_assumed(tmp_path: Path, spec: dict[str, Any]) -> None:
    path = written(tmp_path / "a", MET, **spec) if spec else tmp_path / "a"
    found = leavers.entering(tiny.settings(SMALL), [job(path)])
    assert found.words == "assumed: 78 % meet APGD-CE, 49 % FAB-T, 49 % Square"


def test_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert leavers.entering(tiny.settings(SMALL), [job(tmp_path / "a")]).source == "assumed"


def test_where_attacks_are_individual_nobody_leaves() -> None:
    changes = {"autoattack": {**SMALL["autoattack"], "mode": "individual"}}
    found = leavers.entering(tiny.settings(changes), [])
    assert found.everybody
    assert found.shares == {"apgd_ce": 1, "fab_t": 1, "square": 1}
