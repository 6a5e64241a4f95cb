"""The loop on a linear model: order, schedules, sums, selection, saving."""

import copy
import errno
import itertools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from deqpipe.data import Split, none
from deqpipe.errors import DivergedError, UserError
from deqpipe.machine.stopping import StopRequest
from deqpipe.results import checkpoint
from deqpipe.training.forward import Draws
from deqpipe.training.loop import Progress, Setting, Store, TrainingPlan, Validation, cosine, multistep, train
from deqpipe.training.meter import Meter
from deqpipe.training.objectives import Batch, Loss
from deqpipe.training.tally import Tally, largest_loss

IMAGES, BATCH, PER_EPOCH = 10, 4, 3


class Linear(nn.Module):
    """Two classes from one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[0.1], [-0.1]]))
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out


@dataclass(frozen=True)
class Recording:
    """Cross-entropy, with a note of every batch; `spoil` is what happens to one step."""

    seen: list[tuple[int, list[int]]] = field(default_factory=list)
    spoiled_step: int = -1
    spoil: str = ""

    def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
        self.seen.append((sources.step, [round(255 * float(x)) for x in batch.x.flatten()]))
        logits = model(batch.x)
        loss = F.cross_entropy(logits, batch.y)
        if sources.step == self.spoiled_step and self.spoil == "loss":
            loss = loss * math.inf
        if sources.step == self.spoiled_step and self.spoil == "gradient":
            loss = loss + (logits * 0).square().sum().sqrt()  # the root has an infinite slope at 0
        if sources.step == self.spoiled_step and self.spoil == "explosion":
            loss = loss + 1_246_078
        penalty = loss.new_tensor(1_246_000.0) if self.spoil == "penalty" else loss.new_zeros(())
        return Loss(loss + penalty, logits, penalty)


class StopAfter(StopRequest):
    """Asks to stop after some steps and validations."""

    def __init__(self, steps: float) -> None:
        super().__init__()
        self.left = steps

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0


def saved_step(folder: Path) -> int | None:
    """Where a run would go on."""
    progress = Store(folder, {"stage": "test"}).progress()
    return progress.step if progress else None


def plan(objective: Recording, *, accuracies: Sequence[float | None] = (), **changes: Any) -> TrainingPlan:
    """Two epochs of ten images whose pixel is their index."""
    values = iter(accuracies) if accuracies else itertools.repeat(None)
    whole = TrainingPlan(
        phase="adversarial",
        objective=objective,
        train=Split(torch.arange(IMAGES, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(IMAGES) % 2),
        augment=none,
        seed=3,
        batch_size=BATCH,
        first_step=0,
        last_step=2 * PER_EPOCH,
        learning_rate=lambda step: 0.5 / (step + 1),
        optimizer=lambda model: Adam(model.parameters(), 0.5, fused=True),
        validate=lambda model: Validation(0.5, next(values)),
        select_from_epoch=None,
        largest_loss=largest_loss(2),
        pace=Setting("training.learning_rate", 0.5),
        penalty=Setting("jacobian.weight.trades", 0.4),
    )
    return replace(whole, **changes)


def run(
    todo: TrainingPlan,
    folder: Path,
    *,
    model: nn.Module | None = None,
    steps: float = math.inf,
    interval: float = 1e9,
    read_every: int = 50,
) -> tuple[nn.Module, Progress]:
    model = model or Linear()
    store = Store(folder, {"stage": "test"}, interval=interval, read_every=read_every)
    folder.mkdir(exist_ok=True)
    meter = Meter(model="deq_trades_base")
    return model, train(todo, model, todo.optimizer(model), store=store, stop=StopAfter(steps), meter=meter)


def equal(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(tensor, right.state_dict()[name]) for name, tensor in left.state_dict().items())


def test_every_image_is_seen_once_an_epoch_in_another_order_each_time(tmp_path: Path) -> None:
    objective = Recording()
    run(plan(objective, last_step=3 * PER_EPOCH), tmp_path)
    assert [step for step, _ in objective.seen] == list(range(3 * PER_EPOCH))
    assert [len(images) for _, images in objective.seen] == [4, 4, 2] * 3
    epochs = [[i for _, images in objective.seen[e : e + 3] for i in images] for e in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(IMAGES)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_two_phases_that_meet_within_an_epoch_see_each_image_once_over_both(tmp_path: Path) -> None:
    first, second, whole = Recording(), Recording(), Recording()
    run(plan(first, last_step=4), tmp_path / "first")
    run(plan(second, first_step=4), tmp_path / "second")
    run(plan(whole), tmp_path / "whole")
    assert first.seen + second.seen == whole.seen


def test_history_is_the_average_over_the_images_of_an_epoch_part(tmp_path: Path) -> None:
    objective, model = Recording(), Linear()
    _, progress = run(plan(objective, first_step=1, last_step=5), tmp_path, model=model)
    rows = progress.history
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 5)]
    replayed = Linear()
    losses, right = [], []
    optimizer = Adam(replayed.parameters(), 0.5, fused=True)
    for step, images in objective.seen:
        x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 1, 1) / 255, torch.tensor(images) % 2
        logits = replayed(x)
        loss = F.cross_entropy(logits, y)
        losses.append((loss.item(), len(y)))
        right.append(int((logits.argmax(1) == y).sum()))
        optimizer.param_groups[0]["lr"] = 0.5 / (step + 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert equal(model, replayed)
    assert rows[0]["loss"] == sum(v * n for v, n in losses[:2]) / sum(n for _, n in losses[:2])
    assert rows[1]["loss"] == sum(v * n for v, n in losses[2:]) / sum(n for _, n in losses[2:])
    assert rows[1]["train_accuracy"] == sum(right[2:]) / sum(n for _, n in losses[2:])
    assert rows[0]["learning_rate"] == 0.5 / 3
    assert [row["clean_accuracy"] for row in rows] == [0.5, 0.5]


@pytest.mark.parametrize(("asked", "step"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 6)])
def test_a_run_that_stopped_and_went_on_ends_like_one_that_did_not(tmp_path: Path, asked: int, step: int) -> None:
    """Stopped before a step, or between the last step of an epoch and its validation (3 and 7)."""
    accuracies = [0.3, 0.2]
    straight, whole = run(plan(Recording(), accuracies=accuracies, select_from_epoch=1), tmp_path / "straight")
    todo = plan(Recording(), accuracies=accuracies, select_from_epoch=1)
    _, part = run(todo, tmp_path / "halted", steps=asked)
    assert part.step == step
    assert part.awaits_validation(todo) == (asked in (3, 7))
    resumed, rest = run(todo, tmp_path / "halted")
    assert equal(straight, resumed)
    timeless = [{**row, "seconds": 0} for row in whole.history]
    assert [{**row, "seconds": 0} for row in rest.history] == timeless
    assert (rest.best_epoch, rest.best_robust) == (whole.best_epoch, whole.best_robust) == (1, 0.3)


@pytest.mark.parametrize("interval", [0.0, 1e9])
def test_state_is_saved_after_each_interval_and_at_the_end_of_an_epoch(tmp_path: Path, interval: float) -> None:
    at = []

    @dataclass(frozen=True)
    class Watching(Recording):
        def __call__(self, model: nn.Module, batch: Batch, sources: Draws) -> Loss:
            at.append(saved_step(tmp_path))
            return super().__call__(model, batch, sources)

    run(plan(Watching()), tmp_path, interval=interval)
    assert at == ([None, 1, 2, 3, 4, 5] if interval == 0 else [None, None, None, 3, 3, 3])
    assert saved_step(tmp_path) == 6


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    model, _ = run(plan(Recording()), tmp_path)
    again = Recording()
    other, progress = run(plan(again), tmp_path)
    assert again.seen == []
    assert progress.step == 6
    assert equal(model, other)


def test_state_of_another_spec_is_refused(tmp_path: Path) -> None:
    run(plan(Recording()), tmp_path)
    model = Linear()
    store = Store(tmp_path, {"stage": "another"})
    with pytest.raises(UserError, match="belongs to another spec; delete"):
        train(plan(Recording()), model, Adam(model.parameters(), fused=True), store=store, stop=StopAfter(9))
    assert equal(model, Linear())


def test_state_that_does_not_say_what_was_counted_is_refused(tmp_path: Path) -> None:
    run(plan(Recording()), tmp_path)
    file = Store(tmp_path, {}).state_file
    stored = checkpoint.read(file)
    progress = {name: value for name, value in stored.metadata["progress"].items() if name != "evaluations"}
    checkpoint.write(file, stored.tensors, {**stored.metadata, "progress": {**progress, "f_evaluations": 7}})
    store, model = Store(tmp_path, stored.metadata["spec"]), Linear()
    with pytest.raises(UserError, match="lacks a part of its progress \\('evaluations'\\)"):
        store.load(model, Adam(model.parameters(), fused=True))


def spoil_file(path: Path, *, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, *, without: str = "", **progress: Any) -> None:
    """Write a state with changes of its progress, or without a tensor, and with the digest of that."""
    stored = checkpoint.read(path)
    tensors = {name: tensor for name, tensor in stored.tensors.items() if name != without}
    changed = {**stored.metadata["progress"], **progress}
    checkpoint.write(path, tensors, {**stored.metadata, "progress": changed})


DAMAGES: Mapping[str, Callable[[Path], object]] = {
    "a bit of a tensor": lambda folder: spoil_file(folder / "training.safetensors"),
    "a bit of the header": lambda folder: spoil_file(folder / "training.safetensors", place=300),
    "cut short": lambda folder: os.truncate(folder / "training.safetensors", 1000),
    "a step beyond the training": lambda folder: rewrite(folder / "training.safetensors", step=10**6),
    "no number as a step": lambda folder: rewrite(folder / "training.safetensors", step="4"),
    "no history": lambda folder: rewrite(folder / "training.safetensors", history=None),
    "no moments of a parameter": lambda folder: rewrite(
        folder / "training.safetensors", without="optimizer.linear.bias.exp_avg"
    ),
    "no weights": lambda folder: rewrite(folder / "training.safetensors", without="model.linear.bias"),
    "a bit of the best weights": lambda folder: spoil_file(folder / "best.safetensors"),
    "no best weights": lambda folder: (folder / "best.safetensors").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_set_aside_and_the_training_ends_as_without_it(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    accuracies = [0.3, 0.2]
    straight, _ = run(plan(Recording(), accuracies=accuracies, select_from_epoch=1), tmp_path / "straight")
    folder = tmp_path / "halted"
    run(plan(Recording(), accuracies=accuracies, select_from_epoch=1), folder, steps=4)
    DAMAGES[damage](folder)
    todo, model = plan(Recording(), accuracies=accuracies, select_from_epoch=1), Linear()
    Store(folder, {"stage": "test"}).set_aside_damaged(todo, model, todo.optimizer(model))
    assert equal(model, Linear())
    assert (folder / "training.safetensors.damaged").exists()
    assert (folder / "best.safetensors.damaged").exists() == (damage == "a bit of the best weights")
    assert "it is now called training.safetensors.damaged, and what it held is computed again" in caplog.text
    again, progress = run(todo, folder, model=model)
    assert equal(again, straight)
    assert (progress.step, progress.best_epoch) == (6, 1)


def test_a_whole_state_stays_where_it_is(tmp_path: Path) -> None:
    todo, model = plan(Recording()), Linear()
    store = Store(tmp_path, {"stage": "test"})
    for steps in (0, 4, 9):
        run(plan(Recording()), tmp_path, steps=steps)
        store.set_aside_damaged(todo, model, todo.optimizer(model))
        assert not list(tmp_path.glob("*.damaged"))
    assert saved_step(store.directory) == 6


def test_a_state_that_may_not_be_read_is_not_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(plan(Recording()), tmp_path)
    state, model = tmp_path / "training.safetensors", Linear()

    def forbid(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(UserError, match=f"^training state {state} cannot be read: Permission denied: "):
        Store(tmp_path, {"stage": "test"}).set_aside_damaged(plan(Recording()), model, Adam(model.parameters()))
    assert state.exists()


def spoiled(step: int, spoil: str, folder: Path, **how: Any) -> tuple[nn.Module, Recording, str]:
    """The model, what it was shown and the message of a run that is bad from a step on."""
    model, objective = Linear(), Recording(spoiled_step=step, spoil=spoil)
    with pytest.raises(DivergedError) as caught:
        run(plan(objective), folder, model=model, **how)
    return model, objective, str(caught.value)


TOLD = {
    "loss": "loss is inf at step 4 of 6",
    "gradient": r"gradient is not finite \(loss 0\.\d+\) at step 4 of 6",
    "explosion": r"loss is 1\.24608e\+06, above 693, at step 4 of 6",
}


@pytest.mark.parametrize("spoil", ["loss", "gradient", "explosion"])
@pytest.mark.parametrize(("interval", "read_every", "noticed_after"), [(0.0, 50, 4), (1e9, 1, 4), (1e9, 50, 5)])
def test_a_bad_step_withholds_its_update_and_all_later_ones(
    tmp_path: Path, spoil: str, interval: float, read_every: int, noticed_after: int
) -> None:
    """It is noticed at the next look at the device, and the first bad step is named, not the last."""
    straight, _ = run(plan(Recording()), tmp_path / "straight", steps=5)
    model, objective, message = spoiled(4, spoil, tmp_path / "spoiled", interval=interval, read_every=read_every)
    assert [step for step, _ in objective.seen] == list(range(noticed_after + 1))
    state = tmp_path / "spoiled" / "training.safetensors"
    advice = r"lower training\.learning_rate \(0\.5\)"
    assert re.fullmatch(f"{TOLD[spoil]}: the training diverged; last good state: {state}; {advice}", message)
    assert equal(model, straight)
    assert saved_step(tmp_path / "spoiled") == (4 if interval == 0 else 3)


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_a_run_that_is_asked_to_stop_after_a_bad_step_saves_nothing(tmp_path: Path, spoil: str) -> None:
    _, _, message = spoiled(4, spoil, tmp_path, steps=6)
    assert "at step 4 of 6: the training diverged; last good state" in message
    stored = checkpoint.read(tmp_path / "training.safetensors")
    assert stored.metadata["progress"]["step"] == 3
    assert all(tensor.isfinite().all() for tensor in stored.tensors.values())


@pytest.mark.parametrize(
    ("interval", "read_every", "expected"),
    [(1e9, 50, [3, 6, 8]), (1e9, 2, [2, 3, 4, 6, 8]), (1e9, 1, list(range(1, 9))), (0.0, 50, list(range(1, 9)))],
)
def test_the_device_is_looked_at_now_and_then_and_before_each_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: float, read_every: int, expected: list[int]
) -> None:
    """Three steps an epoch; a stop after eight steps, in the middle of one."""
    at: list[int] = []
    objective, read, save = Recording(), Tally.read, Store.save

    def looked(self: Tally) -> Any:
        at.append(len(objective.seen))
        return read(self)

    def saved(self: Store, model: nn.Module, optimizer: Any, progress: Progress) -> None:
        assert at[-1] == progress.step
        save(self, model, optimizer, progress)

    monkeypatch.setattr(Tally, "read", looked)
    monkeypatch.setattr(Store, "save", saved)
    todo = plan(objective, last_step=9)
    run(todo, tmp_path, steps=8 + 2, interval=interval, read_every=read_every)
    assert list(dict.fromkeys(at)) == expected


@pytest.mark.parametrize("read_every", [1, 2, 50])
def test_how_often_the_device_is_looked_at_changes_no_number(tmp_path: Path, read_every: int) -> None:
    straight, whole = run(plan(Recording()), tmp_path / "straight")
    other, found = run(plan(Recording()), tmp_path / "other", read_every=read_every)
    assert equal(straight, other)
    assert [{**row, "seconds": 0} for row in found.history] == [{**row, "seconds": 0} for row in whole.history]


def test_a_run_that_diverges_at_once_names_no_state(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"^loss is inf at step 0 of 6: the training diverged; lower training\.l"):
        run(plan(Recording(spoiled_step=0, spoil="loss")), tmp_path)


def test_where_the_penalty_is_most_of_the_loss_its_weight_is_named_as_well(tmp_path: Path) -> None:
    with pytest.raises(
        DivergedError, match=r"lower training\.learning_rate \(0\.5\) or jacobian\.weight\.trades \(0\.4\)$"
    ):
        run(plan(Recording(spoil="penalty")), tmp_path)


@pytest.mark.parametrize("steps", [3, 2])
def test_weights_that_the_last_update_overflowed_are_not_saved(tmp_path: Path, steps: int) -> None:
    """At the end of an epoch, and where a run is asked to stop; the loss of that step was sound."""
    todo = plan(Recording(), last_step=3, learning_rate=lambda step: 1e39 if step == steps - 1 else 0.1)
    with pytest.raises(DivergedError, match=rf"^weights or optimiser are not finite after step {steps - 1} of 3: "):
        run(todo, tmp_path, steps=steps)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_model_that_has_no_class_for_any_held_out_image_is_not_saved(tmp_path: Path) -> None:
    todo = plan(Recording(), validate=lambda model: Validation(0.0, undecided=1.0))
    with pytest.raises(DivergedError, match=r"^no held-out image has finite logits after step 2 of 6: "):
        run(todo, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_some_held_out_images_without_a_class_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(plan(Recording(), validate=lambda model: Validation(0.5, undecided=0.25)), tmp_path)
    assert caplog.messages.count("25.0 % of the held-out images have logits that are not finite") == 2


@pytest.mark.parametrize(
    ("accuracies", "first_epoch", "best"),
    [
        ([0.1, 0.4, 0.3], 1, 2),
        ([0.4, 0.4, 0.1], 1, 1),  # ties to the earlier one
        ([0.9, 0.1, 0.3], 2, 3),
        ([0.0, 0.0, 0.0], 1, 1),
        ([0.9, 0.8, 0.7], 4, 3),  # beyond the end: the last one
        ([0.9, 0.8, 0.7], None, 3),
        ([None, None, None], None, 3),
    ],
)
def test_best_epoch_is_the_first_with_the_highest_robust_accuracy(
    tmp_path: Path, accuracies: list[float | None], first_epoch: int | None, best: int
) -> None:
    weights: list[nn.Module] = []
    values = iter(accuracies)

    def validate(model: nn.Module) -> Validation:
        weights.append(copy.deepcopy(model))
        return Validation(0.5, next(values))

    _, progress = run(plan(Recording(), last_step=9, validate=validate, select_from_epoch=first_epoch), tmp_path)
    assert progress.best_epoch == best
    stored = checkpoint.read(tmp_path / "best.safetensors")
    assert stored.metadata["epoch"] == best
    assert torch.equal(stored.tensors["linear.weight"], weights[best - 1].state_dict()["linear.weight"])


def test_cosine_starts_high_ends_low_and_is_halfway_in_the_middle() -> None:
    values = [cosine(step, total=10, start=0.3, end=0.1) for step in range(11)]
    assert values[0] == 0.3
    assert values[5] == pytest.approx(0.2)
    assert values[10] == pytest.approx(0.1)
    assert values == sorted(values, reverse=True)


def test_cosine_is_the_schedule_of_torch() -> None:
    optimizer = SGD(Linear().parameters(), 0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12, eta_min=0.01)
    for step in range(12):
        assert cosine(step, total=12, start=0.3, end=0.01) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_multistep_drops_at_the_first_step_after_a_milestone() -> None:
    values = [multistep(s, steps_per_epoch=3, start=1.0, milestones=(1, 2), factor=0.1) for s in range(9)]
    assert values == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
