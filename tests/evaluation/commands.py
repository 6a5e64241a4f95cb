"""Command lines of evaluations on the tiny models, and what their records are compared with."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqpipe.machine.stopping import EXIT_UNFINISHED, StopRequest
from deqpipe.results import checkpoint, ranking, records
from deqpipe.results.records import Records
from deqpipe.workflow import gridpoints
from tests import tiny
from tests.results.edits import write_json
from tests.tiny import Trained

SLICED = ("select-early-state", "clean", "attack-pgd")
"""Commands that go through images once and keep what is finished."""
BASE, RANDOM, OTHER = "deq_pgd_at_base", "deq_trades_random_states", "deq_trades_base"


def call(trained: Trained, verb: str, output: Path, *options: object, model: str = BASE, **changes: Any) -> list[str]:
    """The command line of an evaluation."""
    stage = {"select-early-state": "select", "attack-point": "attack_grid"}.get(verb, verb.replace("-", "_"))
    size = changes.pop("batch_size", 5)
    line = (verb, "--spec", tiny.spec(stage, changes or None, model=model), "--data", trained.data)
    files = ("--checkpoint", trained.file(model), "--output", output, "--batch-size", size)
    kept = ("--state", output.with_suffix(".state")) if verb in SLICED else ()
    return [str(part) for part in (*line, *files, *kept, *options)]


def grid(
    trained: Trained, folder: Path, *, states: str = "1-4", images: str = "0-11", name: str = "grid", **changes: Any
) -> list[str]:
    options = ("--states", states, "--images", images, "--state", folder / "state")
    return call(trained, "attack-grid", folder / f"{name}.parquet", *options, **changes)


def in_order(found: Records) -> Mapping[str, np.ndarray]:
    order = np.lexsort([found[name] for name in ("image", "defence", "steps", "state", "damping")])
    return {name: column[order] for name, column in found.columns.items()}


def assert_same_rows(left: Records, right: Records, *, exact: bool = False) -> None:
    """Equal keys; equal numbers up to rounding, and classes wherever the margin is more than rounding."""
    one, other = in_order(left), in_order(right)
    assert len(left) == len(right)
    for name in records.SCALARS:
        if exact or name not in ("perturbation", "lost_gradient"):
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    for name in ("perturbation", "margin", "entropy", "residual", "deviation"):
        rtol, atol = (0.0, 0.0) if exact else (1e-3, 1e-4)
        np.testing.assert_allclose(one[name], other[name], rtol, atol, err_msg=name)
    clear = np.ones_like(one["margin"], bool) if exact else np.abs(one["margin"]) > 1e-3
    np.testing.assert_array_equal(one["predicted"][clear], other["predicted"][clear])


class OnePiece(StopRequest):
    """A time budget that is over after one piece."""

    asked = 0

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked > 1


class AfterChecks(StopRequest):
    """A signal that comes when work has asked so many times whether to go on."""

    checks, asked = 1, 0

    @property
    def reason(self) -> str | None:
        self.asked += 1
        return "SIGTERM" if self.asked > self.checks else None

    @property
    def signalled(self) -> bool:
        return True


def until_done(
    call: Callable[[], int],
    checks: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    most: int = 60,
    where: str = "deqpipe.evaluation.resumable",
) -> int:
    """Call again and again, interrupted after so many checks each time, until it ends; how often it took."""
    stops = type("Stops", (AfterChecks,), {"checks": checks})
    with monkeypatch.context() as patched:
        patched.setattr(f"{where}.StopRequest", stops)
        for number in range(1, most + 1):
            status = call()
            if status == 0:
                return number
            assert status == EXIT_UNFINISHED
    raise AssertionError(f"not done after {most} calls of {checks} checks")


def other_trades(trained: Trained, folder: Path, *, noise: int = 7, **spec: Any) -> Path:
    """The other TRADES DEQ, as if it had been trained; `spec` says of which model and seed it claims to be."""
    stored = checkpoint.read(trained.file(RANDOM))
    generator = torch.Generator().manual_seed(noise)
    tensors = {
        name: tensor * (1 + 0.3 * torch.rand(tensor.shape, generator=generator))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in stored.tensors.items()
    }
    origin = stored.metadata["provenance"]
    changed = {**origin, "spec": {**origin["spec"], "model": OTHER, **spec}}
    path = folder / "other.safetensors"
    checkpoint.write(path, tensors, {**stored.metadata, "provenance": changed})
    return path


def strongest(folder: Path, points: list[gridpoints.GridPoint], *, model: str = RANDOM, seed: int = 0) -> Path:
    """A ranking of points as `deqpipe strongest` writes it: against Sec. 3.2 in this order, else in reverse."""
    ranked = tuple(ranking.RankedPoint(point, correct=1, n=2) for point in points)
    found = ranking.Ranking({"plain": 4, "entropy": 4}, {"plain": ranked[::-1], "entropy": ranked})
    spec = json.loads(tiny.spec("strongest", model=model, seed=seed))
    ranking.write(folder / "strongest.json", found, {"spec": spec})
    return folder / "strongest.json"


def race(folder: Path, points: list[str], *, stage: str = "race", model: str = RANDOM) -> Path:
    """What a race has left, as `deqpipe race` writes it."""
    spec = {"stage": stage, "model": model, "seed": 0}
    path = folder / "race.json"
    told = {"points": points, "of": 9, "images": 5, "confidence": 0.8, "provenance": {"spec": spec}}
    write_json(path, told)
    return path
