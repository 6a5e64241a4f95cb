"""Replayed steps do what called ones do, as far as it can be seen without a device: a graph is pretended here.

The pretended graph is as blind as a real one: it holds the step that it was captured with, and its memory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from deqpipe.attack.pgd import PGD, Drawn, cross_entropy_objective, unfooled_objective
from deqpipe.compute import replay
from deqpipe.compute.evaluations import Counter, Evaluations
from deqpipe.compute.replay import DIRECT, Graphs, Runner, Step
from deqpipe.threat_model import LinfBall

CALLS = 4


@dataclass
class PretendedGraph:
    step: Step
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def replay(self) -> None:
        for output, value in zip(self.outputs, self.step(*self.inputs), strict=True):
            output.copy_(value)


class Pretended:
    """Captures like a device does."""

    def __init__(self) -> None:
        self.captured: list[PretendedGraph] = []

    def __call__(self, step: Step, inputs: tuple[Tensor, ...]) -> tuple[PretendedGraph, tuple[Tensor, ...], int]:
        outputs = [tuple(value.clone() for value in step(*inputs)) for _ in range(CALLS)][-1]
        self.captured.append(PretendedGraph(step, inputs, outputs))
        return self.captured[-1], outputs, CALLS


def graphs(counter: Counter | None = None) -> tuple[Graphs, Pretended]:
    device = Pretended()
    return Graphs(counter or Counter(), lambda: device), device


def test_step_that_cannot_be_captured_is_called_and_said_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def refusing(step: Step, inputs: tuple[Tensor, ...]) -> tuple[PretendedGraph, tuple[Tensor, ...], int]:
        raise RuntimeError("operation not permitted when stream is capturing")

    run = Graphs(Counter(), lambda: refusing)
    for number in range(4):
        assert run(double, "double", (torch.tensor([float(number)]),))[0].item() == 2 * number
    assert caplog.text.count("cannot be captured and is called instead") == 1


def test_after_a_failed_capture_nothing_is_captured_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay.OnDevice, "failed", True)
    run = Graphs(Counter())
    for number in range(3):  # a device is not even asked for
        assert run(double, "double", (torch.tensor([float(number)]),))[0].item() == 2 * number


def test_memory_that_runs_out_in_a_capture_is_told_on() -> None:
    def full(step: Step, inputs: tuple[Tensor, ...]) -> tuple[PretendedGraph, tuple[Tensor, ...], int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    run = Graphs(Counter(), lambda: full)
    run(double, "double", (torch.ones(1),))
    with pytest.raises(torch.OutOfMemoryError):
        run(double, "double", (torch.ones(1),))


def test_what_was_forgotten_is_captured_again() -> None:
    run, device = graphs()
    for _ in range(3):
        run(double, "double", (torch.ones(1),))
    run.forget()
    for _ in range(3):
        run(double, "double", (torch.ones(1),))
    assert len(device.captured) == 2


def double(x: Tensor) -> tuple[Tensor, ...]:
    return (2 * x,)


def test_step_is_called_once_captured_at_the_second_time_and_replayed_after_that() -> None:
    run, device = graphs()
    for number in range(5):
        (result,) = run(double, "double", (torch.tensor([float(number)]),))
        assert result.item() == 2 * number
        assert len(device.captured) == (number > 0)


def test_results_outlive_the_next_replay() -> None:
    run, _ = graphs()
    results = [run(double, "double", (torch.tensor([float(number)]),))[0] for number in range(4)]
    assert [result.item() for result in results] == [0, 2, 4, 6]


def test_steps_of_other_keys_and_inputs_of_other_shapes_have_graphs_of_their_own() -> None:
    run, device = graphs()
    for _ in range(2):
        assert run(double, "double", (torch.ones(2),))[0].tolist() == [2, 2]
        assert run(double, "double", (torch.ones(3),))[0].tolist() == [2, 2, 2]
        assert run(lambda x: (3 * x,), "triple", (torch.ones(2),))[0].tolist() == [3, 3]
    assert len(device.captured) == 3


def test_graph_that_was_not_used_for_long_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MOST", 2)
    run, device = graphs()
    for _ in range(2):
        for key in "ab":
            run(double, key, (torch.ones(1),))
    for key in "acca":
        run(double, key, (torch.ones(1),))
    assert len(device.captured) == 3
    run(double, "b", (torch.ones(1),))
    assert len(device.captured) == 4


def test_evaluations_are_those_of_steps_that_were_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Python runs in a replay, so nobody counts there."""
    monkeypatch.setattr(PretendedGraph, "replay", lambda graph: None)
    counter = Counter()
    run, _ = graphs(counter)

    def counting(x: Tensor) -> tuple[Tensor, ...]:
        counter.add(Evaluations(forward=3, backward_input=2, backward_weights=1))
        return (x,)

    for number in range(1, 6):
        run(counting, "counting", (torch.ones(1),))
        assert counter.counted == Evaluations(3 * number, 2 * number, number)


def logits_of(x: Tensor) -> Tensor:
    return torch.stack([x.sum((1, 2, 3)), (x**2).sum((1, 2, 3)), x.amax((1, 2, 3))], dim=1)


@pytest.mark.parametrize("objective", [cross_entropy_objective, unfooled_objective])
def test_attack_with_replayed_steps_makes_the_same_images_bit_for_bit(objective: Callable[..., object]) -> None:
    """Other images, labels and starts than those that the graph was captured with: all of them must come as inputs."""
    run, device = graphs()
    ball = LinfBall(0.1)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(4, 1, 3, 3, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (4,), generator=generator)
        start = ball.project(x + 0.05 * torch.randn(x.shape, generator=generator, dtype=x.dtype), x)
        told = objective(logits_of, y)
        called = PGD(ball, steps=4, step_size=0.03)(told, x, start=start)  # type: ignore[arg-type]
        replayed = PGD(ball, steps=4, step_size=0.03, run=run)(told, x, start=start)  # type: ignore[arg-type]
        assert torch.equal(replayed.images, called.images)
        assert torch.equal(replayed.lost_gradient, called.lost_gradient)
    assert len(device.captured) == 1


def test_objective_that_is_drawn_anew_has_a_graph_for_every_draw_and_the_numbers_of_each() -> None:
    """As in training with random states: what is drawn is no part of what is captured."""
    run, device = graphs()
    x, y = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    logits: list[Callable[[Tensor], Tensor]] = [logits_of, Flipped()]

    def attacked(run: Runner) -> Tensor:
        order = iter([0, 1, 1, 0, 0, 1])
        drawn = Drawn(lambda: cross_entropy_objective(logits[next(order)], y))
        return PGD(LinfBall(0.1), steps=6, step_size=0.03, run=run)(drawn, x, start=x).images

    assert torch.equal(attacked(run), attacked(DIRECT))
    assert len(device.captured) == 2


class Flipped:
    def __call__(self, x: Tensor) -> Tensor:
        return logits_of(1 - x)


def test_attacks_of_other_radius_or_logits_are_other_steps() -> None:
    run, device = graphs()
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    for epsilon in (0.1, 0.2):
        for logits in (logits_of, lambda x: logits_of(1 - x)):
            for _ in range(2):
                attack = PGD(LinfBall(epsilon), steps=2, step_size=0.03, run=run)
                attack(cross_entropy_objective(logits, y), x, start=x)
    assert len(device.captured) == 4
