"""What the benchmark of speed compares gives equal results, and it notices where it does not."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import measure, operations, plain, release_sides, ways
from benchmarks.differences import difference
from benchmarks.operations import Operation
from benchmarks.release_code import Release
from benchmarks.world import SPREAD, World
from deqpipe.compute.evaluations import Evaluations
from deqpipe.compute.ways import Way
from deqpipe.workflow import vocabulary
from tests import tiny

WORLD = World("demo", batch=2, changes=tiny.OVERLAY)
OPERATIONS = operations.operations(WORLD, points=8)
RELEASE = os.environ.get("DEQPIPE_RELEASE", "")


def named(name: str) -> Operation:
    (found,) = [operation for operation in OPERATIONS if operation.name == name]
    return found


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_plain_way_gives_our_results(operation: Operation) -> None:
    apart = measure.compared(operation, WORLD)
    assert apart
    assert max(apart.values()) <= 1e-10


def test_plain_way_gives_our_results_in_another_layout() -> None:
    world = replace(WORLD, computed=ways.Computed("fp32", Way("channels_last")))
    for operation in OPERATIONS:
        if "Jacobian" in operation.name:  # its random probes belong to places in the state
            continue
        assert max(measure.compared(operation, world).values()) <= 1e-10


@pytest.mark.parametrize(
    ("operation", "spoilt"),
    [
        ("attack step, mean over the grid", "_damped"),
        ("solver alone, f next to free", "_moved"),
        ("inference, Sec. 3.2, T_f 2, R 10", "_moved"),
        ("training step, TRADES, Sec. 3.3", "_damped"),
    ],
)
def test_a_result_that_differs_ends_the_measurement(
    operation: str, spoilt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, unrolled = plain.moved, plain.PlainDEQ.unrolled

    def _moved(f: plain.Map, at: plain.Point) -> plain.Point:
        found = moved(f, at)
        return replace(found, z=found.z * (1 + 1e-6))

    def _damped(deq: plain.PlainDEQ, f: plain.Map, z: Tensor, *, steps: int, damping: float) -> Tensor:
        return unrolled(deq, f, z, steps=steps, damping=damping) * (1 + 1e-6)

    if spoilt == "_moved":
        monkeypatch.setattr(plain, "moved", _moved)
    else:
        monkeypatch.setattr(plain.PlainDEQ, "unrolled", _damped)
    with pytest.raises(measure.UnequalError, match=operation):
        measure.compared(named(operation), WORLD)


def evaluations(operation: str, side: str, world: World = WORLD) -> Evaluations:
    """Per image of one run."""
    (found,) = [one for one in named(operation).sides(world) if one.name == side]
    found.run(0)
    return found.counter.counted * (1 / found.images)


def test_plain_attack_step_solves_everything_and_asks_for_all_gradients() -> None:
    points = WORLD.points(8)
    states, unrolls = (
        sum(numbers) / len(points) for numbers in zip(*((p.state, p.steps) for p in points), strict=True)
    )
    name, last = "attack step, mean over the grid", WORLD.config.solver.steps
    assert evaluations(name, "plain") == Evaluations(last + 1 + unrolls, unrolls, unrolls)
    assert evaluations(name, "ours") == Evaluations(states + unrolls, unrolls, 0)


def test_plain_trades_step_computes_the_natural_branch_anew() -> None:
    last, unroll, steps = 4, 2, 2
    name = "training step, TRADES"
    gradients = Evaluations(backward_input=(steps + 2) * unroll, backward_weights=2 * unroll)
    anew = Evaluations(forward=(2 * steps + 2) * (last + 1 + unroll))
    once = Evaluations(forward=(steps + 1 + 2) * (last + unroll))
    assert evaluations(name, "plain") == anew + gradients
    assert evaluations(name, "ours") == once + gradients


def test_timed_sides_are_taken_in_turn_and_counted() -> None:
    operation, order = named("inference, undefended"), list[str]()

    def noted(side: operations.Side) -> operations.Side:
        def run(number: int) -> Any:
            order.append(side.name)
            return side.run(number)

        return replace(side, run=run)

    watched = replace(operation, sides=lambda world: [noted(side) for side in operation.sides(world)])
    slow, fast = measure.measured(watched, WORLD, measure.Patience(4, 60.0), {"ours": 1e-15})
    assert order == ["plain", "ours"] * 5  # a warm-up, and four pairs
    assert (slow.side, slow.pairs, slow.ratio.median, slow.ratio.low, slow.ratio.high) == ("plain", 4, 1, 1, 1)
    assert fast.ratio.low <= fast.ratio.median <= fast.ratio.high
    assert fast.evaluations == Evaluations(forward=WORLD.config.solver.steps)
    assert fast.difference == 1e-15
    assert 0 < fast.share < 1


def test_no_more_than_the_fewest_pairs_are_timed_when_patience_is_over() -> None:
    (slow, _) = measure.measured(named("inference, undefended"), WORLD, measure.Patience(50, 0.0), {})
    assert slow.pairs == measure.FEWEST


def test_points_that_are_measured_have_the_mean_of_the_grid() -> None:
    grid = World("MDEQ-Large", batch=1).config.attack.grid
    states, unrolls = zip(*SPREAD, strict=True)
    assert sorted(states) == sorted(grid.states)
    assert sum(unrolls) / len(unrolls) == sum(grid.steps) / len(grid.steps)
    assert len(World("MDEQ-Large", batch=1).points(144)) == 144
    assert {point.damping for point in WORLD.points(8)} == set(grid.damping)


def test_every_method_is_one_that_the_workflow_trains() -> None:
    assert [method.model for method in operations.METHODS if not method.regularised] == list(vocabulary.DEQS)


@pytest.mark.skipif(not RELEASE, reason="DEQPIPE_RELEASE names no work tree of the authors' code")
def test_authors_code_gives_our_results() -> None:
    small = {"channels": [4, 8], "head_channels": [2, 4], "final_channels": 8, "groups": 4, "expansion": 1}
    world = World("MDEQ-Large", batch=2, protocol="release", dropout=False, changes={"model": small})
    for operation in release_sides.operations(Path(RELEASE), points=3):
        apart = measure.compared(operation, world)
        assert apart["ours"] <= 1e-10, operation.name


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_lost_number_is_a_difference(lost: float) -> None:
    whole, damaged = np.ones((2, 3)), np.ones((2, 3))
    damaged[1, 1] = lost
    assert difference(whole, damaged, rows=1) == difference(damaged, whole) == difference(damaged, damaged) == math.inf
    assert difference(whole, np.ones((3, 2))) == math.inf
    assert difference(whole, whole) == 0


def test_a_folder_without_the_authors_code_is_told(tmp_path: Path) -> None:
    missing = Release(tmp_path).missing
    assert missing == f"{tmp_path} holds no input-entropy-reduction and random-intermediate-states"


def test_a_way_that_a_device_does_not_have_is_told() -> None:
    cpu = torch.device("cpu")
    assert ways.Computed("tf32").missing(cpu) == "tf32 is a mode of CUDA devices"
    assert ways.Computed("fp32", Way(graphs=True)).missing(cpu) == "graphs are of CUDA devices"
    assert not ways.Computed("bf16", Way("channels_last")).missing(cpu)
