"""On a device with numbers, AutoAttack's library and whole jobs come to what they come to on the CPU, bit for bit."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deqpipe.attack.autoattack import Flags, LibraryAttacks, check
from deqpipe.config import AttackName
from deqpipe.evaluation.evaluated_model import EvaluationJob
from deqpipe.evaluation.resumable import Part
from deqpipe.evaluation.stages import autoattack, clean, grid, selection, sweep
from deqpipe.results import ranking, records
from deqpipe.workflow import stages, vocabulary
from deqpipe.workflow.gridpoints import GridPoint
from tests.devices import world
from tests.devices.elsewhere import DEVICE, elsewhere
from tests.pretend import WrongDevice, put

pytestmark = pytest.mark.slow  # the other files here look at each part of a job; this one at whole jobs

CPU = torch.device("cpu")
EVERY: tuple[AttackName, ...] = ("apgd_ce", "apgd_t", "fab_t", "square")
ATTACKS = LibraryAttacks(world.BALL, iterations=3, targets=2, queries=5)


def test_tensors_of_the_device_compute_there_and_refuse_those_of_the_cpu() -> None:
    x = torch.arange(6.0).view(2, 3)
    with elsewhere() as device:
        there = x.to(device).requires_grad_()
        y = (there * torch.ones(3, device=device) + torch.tensor(1.0)).sum(1)
        (gradient,) = torch.autograd.grad(y.sum(), there)
        row = there.detach()[1]
        row[0] = 7
        assert {one.device for one in (there, y, gradient, row)} == {DEVICE}
        assert there.cpu().tolist() == [[0, 1, 2], [7, 4, 5]], "views share their numbers"
        assert gradient.cpu().tolist() == [[1] * 3] * 2
        with pytest.raises(WrongDevice):
            there + torch.ones(3)
        with pytest.raises(WrongDevice):
            torch.where(torch.ones(3) > 0, there, 0)


@pytest.mark.parametrize("name", EVERY)
def test_every_attack_of_the_library_finds_what_it_finds_on_the_cpu(name: AttackName) -> None:
    pytest.importorskip("pyautoattack")
    model, (x, y) = world.network(CPU), world.batch(CPU, 6)
    expected = ATTACKS(name, model, x, y, seed=0, flags=Flags())
    with elsewhere() as device:
        there = put(copy.deepcopy(model), device)
        found = ATTACKS(name, there, x.to(device), y.to(device), seed=0, flags=Flags())
        assert found.best.device == found.fooled.device == DEVICE
        assert torch.equal(found.best.cpu(), expected.best)
        assert torch.equal(found.fooled.cpu(), expected.fooled)
        check(there, x.to(device), y.to(device), attacks=EVERY, flags=Flags())


def test_logits_that_mix_devices_are_noticed_within_the_library() -> None:
    pytest.importorskip("pyautoattack")
    model, (x, y), bias = world.network(CPU), world.batch(CPU, 6), torch.zeros(5)
    with elsewhere() as device:
        put(model, device)

        def logits_of(images: Tensor) -> Tensor:
            return model(images) + bias

        with pytest.raises(WrongDevice):
            ATTACKS("apgd_ce", logits_of, x.to(device), y.to(device), seed=0, flags=Flags())


GRID: dict[str, Any] = {
    "attack": {"pgd": {"steps": 1}, "transfer": False, "grid": {"states": [2], "steps": [1], "damping": [0.5]}},
    "autoattack": {"attacks": ["apgd_ce"], "iterations": 1, "batch_size": 3, "mode": "individual"},
    "entropy": {"controls": True},
    "entropy_sweep": {"solver_steps": [1], "input_steps": [1], "points": "all"},
    "selection": {"attack": {"steps": 1}},
}
Run = Callable[[EvaluationJob, Path], int]


def part(folder: Path) -> Part:
    return Part(range(4), folder / "state", 60.0)


RUNS: Mapping[str, tuple[stages.StageName, Run]] = {
    "clean": ("clean", lambda job, folder: clean.clean(job, state=folder / "state", budget_minutes=60.0)),
    "grid": ("attack_grid", lambda job, folder: grid.attack_grid(job, grid.GridShard((1, 4), part(folder)))),
    "select": (
        "select",
        lambda job, folder: selection.select_early_state(job, state=folder / "state", budget_minutes=60.0),
    ),
    "AutoAttack": ("autoattack", lambda job, folder: autoattack.autoattack(job, part(folder))),
    "sweep": ("attack_sweep", lambda job, folder: sweep.attack_sweep(job, part(folder), race=None)),
}


@pytest.mark.parametrize("protocol", ["paper", "release"])
@pytest.mark.parametrize("which", RUNS)
def test_jobs_write_what_they_write_on_the_cpu(
    which: str, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, run = RUNS[which]
    model = vocabulary.SWEEP_MODEL if which == "sweep" else "deq_pgd_at_base"
    changes = {**GRID, "protocol": protocol, "evaluation": {"images": 4, "batch_size": 4}}
    written = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        with elsewhere() as device:
            where = device if name == "there" else CPU
            job = world.job(folder, where, monkeypatch, stage=stage, model=model, changes=changes)
            if which == "AutoAttack":
                job = replace(job, strongest=strongest(folder, model))
            assert run(job, folder) == 0
        written.append(read(job.output))
    here, there = written
    assert here.keys() == there.keys()
    for name, column in here.items():
        np.testing.assert_array_equal(there[name], column, err_msg=name)


def strongest(folder: Path, model: str) -> Path:
    ranked = (ranking.RankedPoint(GridPoint(damping=0.5, state=2, steps=1), correct=1, n=2),)
    found = ranking.Ranking({"plain": 3, "entropy": 4}, {"plain": ranked, "entropy": ranked})
    ranking.write(folder / "strongest.json", found, {"spec": {"stage": "strongest", "model": model, "seed": 0}})
    return folder / "strongest.json"


def read(path: Path) -> dict[str, Any]:
    """Rows, or the accuracies of a selection."""
    content = path.read_bytes()
    if not content.startswith(b"{"):
        return dict(records.read(path).columns)
    return {
        name: found["accuracy"] for name, found in json.loads(content).items() if name not in ("provenance", "digest")
    }
