"""metrics.jsonl: every step in exactly one line, whatever happens to a training on its way."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deqpipe.counts import Evaluations
from deqpipe.errors import UserError
from deqpipe.model import architecture
from deqpipe.model.classifier import DEQClassifier
from deqpipe.results import checkpoint, metrics
from deqpipe.results.metrics import Interval
from deqpipe.training import board, meter
from deqpipe.training.loop import Store
from deqpipe.training.meter import Meter
from tests import tiny
from tests.training.test_loop import IMAGES, Recording, equal, plan, run

CLOCK = ("elapsed", "images_per_second", "memory_mib")


def lines(folder: Path) -> list[Interval]:
    """What was written, without what the clock says."""
    told = metrics.read(folder / metrics.NAME)
    return [replace(one, elapsed=0.0, images_per_second=None, memory_mib=None) for one in told]


def straight(folder: Path, **changes: Any) -> list[Interval]:
    run(plan(Recording(), accuracies=[0.2, 0.4], **changes), folder, read_every=2)
    return lines(folder)


def test_every_step_is_in_one_line_and_an_epoch_ends_with_its_validation(tmp_path: Path) -> None:
    told = straight(tmp_path)
    assert [(one.step, one.steps, one.epoch) for one in told] == [(2, 2, 1), (3, 1, 1), (4, 1, 2), (6, 2, 2)]
    assert [one.validation_robust_accuracy for one in told] == [None, 0.2, None, 0.4]
    assert sum(one.images for one in told) == 2 * IMAGES
    assert [one.learning_rate for one in told] == [0.5 / 2, 0.5 / 3, 0.5 / 4, 0.5 / 6]


def test_the_lines_of_an_epoch_average_to_its_row_of_the_history(tmp_path: Path) -> None:
    _, progress = run(plan(Recording()), tmp_path, read_every=2)
    told = lines(tmp_path)
    for row in progress.history:
        own = [one for one in told if one.epoch == row["epoch"]]
        assert sum(one.loss * one.images for one in own) / IMAGES == pytest.approx(row["loss"], rel=1e-12)
        accuracy = sum((one.clean_accuracy or 0.0) * one.images for one in own) / IMAGES
        assert accuracy == pytest.approx(row["train_accuracy"], rel=1e-12)


@pytest.mark.parametrize("after", range(1, 8))
def test_a_stopped_training_leaves_neither_gaps_nor_doubles(tmp_path: Path, after: int) -> None:
    """Stopped after each of its six steps and two validations."""
    whole = straight(tmp_path / "whole")
    todo = plan(Recording(), accuracies=[0.2, 0.4])
    run(todo, tmp_path / "parts", steps=after, read_every=2)
    model, _ = run(todo, tmp_path / "parts", read_every=2)
    assert lines(tmp_path / "parts") == whole
    straight_model, _ = run(plan(Recording(), accuracies=[0.2, 0.4]), tmp_path / "again", read_every=10**6)
    assert equal(model, straight_model)


def test_what_a_killed_training_wrote_behind_its_saved_step_is_cut_off(tmp_path: Path) -> None:
    whole = straight(tmp_path / "whole")
    todo = plan(Recording(), accuracies=[0.2, 0.4])
    run(todo, tmp_path / "parts", steps=3, read_every=2)  # saved at step 3, before its validation
    file = tmp_path / "parts" / metrics.NAME
    metrics.append(file, replace(whole[1], loss=7.0))
    with file.open("ab") as half:
        half.write(b'{"model": "", "st')
    run(todo, tmp_path / "parts", read_every=2)
    assert lines(tmp_path / "parts") == whole


def without_metrics(folder: Path) -> None:
    """Make a saved state one of a version that wrote no metrics."""
    file = Store(folder, {}).state_file
    stored = checkpoint.read(file)
    old = {name: value for name, value in stored.metadata["progress"].items() if name != "mark"}
    checkpoint.write(file, stored.tensors, {**stored.metadata, "progress": old})
    (folder / metrics.NAME).unlink(missing_ok=True)


def test_a_state_of_a_version_without_metrics_goes_on_and_begins_them(tmp_path: Path) -> None:
    todo = plan(Recording(), accuracies=[0.2, 0.4])
    run(todo, tmp_path, steps=1, read_every=2)
    without_metrics(tmp_path)
    run(todo, tmp_path, read_every=2)
    assert [(one.step, one.steps) for one in lines(tmp_path)] == [(2, 1), (3, 1), (4, 1), (6, 2)]


@pytest.mark.parametrize(("steps", "told"), [(3, [(4, 1), (6, 2)]), (7, [])])
def test_a_state_without_metrics_that_awaits_its_validation_goes_on(
    tmp_path: Path, steps: int, told: list[tuple[int, int]]
) -> None:
    """Of an epoch whose steps were all taken before, there is no line: it would be of no images."""
    todo = plan(Recording(), accuracies=[0.2, 0.4])
    run(todo, tmp_path, steps=steps, read_every=2)
    without_metrics(tmp_path)
    _, progress = run(todo, tmp_path, read_every=2)
    assert progress.is_complete(todo)
    found = lines(tmp_path) if (tmp_path / metrics.NAME).exists() else []
    assert [(one.step, one.steps) for one in found] == told


def test_attacked_training_images_are_counted_as_robust(tmp_path: Path) -> None:
    assert all(one.robust_accuracy is None for one in straight(tmp_path / "clean"))
    told = straight(tmp_path / "attacked", counts_attacked=True)
    assert all(one.clean_accuracy is None and one.robust_accuracy is not None for one in told)


def test_columns_are_those_of_the_lines() -> None:
    assert tuple(metrics.COLUMNS) == tuple(Interval.__dataclass_fields__)


def test_a_line_under_way_is_not_read_and_a_spoiled_one_is_refused(tmp_path: Path) -> None:
    straight(tmp_path)
    file = tmp_path / metrics.NAME
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    assert len(metrics.read(file)) == 3
    file.write_bytes(b"{}\n" + content)
    with pytest.raises(UserError, match=r"damaged in line 1: it is no line of a training"):
        metrics.read(file)


def test_a_damaged_line_costs_no_other_one_and_is_kept_beside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = straight(tmp_path)
    file = tmp_path / metrics.NAME
    first, second, *others = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(damaged := b"".join([first, b"\xff" + second[3:], *others, b'{"model": "']))
    metrics.cut_back(file, after=4)
    assert lines(tmp_path) == [whole[0], whole[2]]
    assert (tmp_path / f"{metrics.NAME}.damaged").read_bytes() == damaged
    assert "has 1 damaged line(s)" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", '"x"'), ("loss", "NaN"), ("loss", "null"), ("step", "true"), ("step", "1.5"),
     ("elapsed", "1" + 400 * "0"), ("validation_clean_accuracy", "[]"), ("model", "7"), ("model", '"../../victim"')],
)  # fmt: skip
def test_a_line_with_another_kind_of_value_is_refused(tmp_path: Path, name: str, value: str) -> None:
    (told, *_) = straight(tmp_path)
    file = tmp_path / metrics.NAME
    line = json.dumps({**asdict(told), name: "HERE"}).replace('"HERE"', value)
    file.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"damaged in line 1: (it is no line of a training|there is no model)"):
        metrics.read(file)


def test_flops_of_f_are_those_of_a_real_evaluation() -> None:
    described = {"type": "deq", "model": tiny.settings().model.model_dump(mode="json"), "image_shape": [1, 8, 8],
                 "classes": [str(n) for n in range(10)]}  # fmt: skip
    model = architecture.build(described, seed=0)
    assert isinstance(model, DEQClassifier)
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        f, z = model.eval().bind(x), model.initial_state(x)
        with FlopCounterMode(display=False) as counter:
            f(z)
    assert meter.flops_of_f(described) == counter.get_total_flops() / 3 > 0
    assert meter.flops_of_f({"type": "resnet18"}) is None


def test_the_share_of_a_peak_is_never_invented() -> None:
    assert meter.peak(torch.device("cpu"), "fp32") is None
    known = Meter(flops=2e9, peak=67e12)
    assert known.share(Evaluations(forward=1000, backward_input=500), 0.5) == pytest.approx(
        1500 * 2e9 / 0.5 / 67e12, abs=1e-6
    )
    assert Meter(flops=2e9).share(Evaluations(forward=1), 1.0) is None
    assert Meter(peak=1e12).share(Evaluations(forward=1), 1.0) is None


def test_an_unknown_gpu_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert meter.peak(torch.device("cuda"), "bf16") == 989.4e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Something New")
    assert meter.peak(torch.device("cuda"), "bf16") is None


@pytest.mark.parametrize(
    ("name", "fp32"),
    [("A100-SXM4-80GB", 19.5e12), ("GeForce RTX 3090", 35.6e12), ("NVIDIA GeForce RTX 4090", 82.6e12),
     ("NVIDIA Tesla V100-PCIE-32GB", 14e12), ("NVIDIA H100 NVL", 60e12)],
)  # fmt: skip
def test_a_gpu_is_known_with_and_without_its_maker(monkeypatch: pytest.MonkeyPatch, name: str, fp32: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert meter.peak(torch.device("cuda"), "fp32") == fp32


def test_curves_carry_step_and_training_time_and_leave_out_what_is_not_known() -> None:
    drawn: list[tuple[str, float, int, float]] = []

    class Notebook:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int, walltime: float) -> None:
            drawn.append((tag, scalar_value, global_step, walltime))

        def close(self) -> None: ...

    line: dict[str, Any] = dict.fromkeys(metrics.COLUMNS) | {
        "model": "m", "seed": 0, "phase": "adversarial", "step": 6, "epoch": 2, "steps": 2, "images": 8, "loss": 0.5,
        "learning_rate": 0.1, "elapsed": 3.0,
    }  # fmt: skip
    board.draw(Notebook(), Interval(**line))
    assert drawn == [("train/epoch", 2, 6, 3.0), ("train/loss", 0.5, 6, 3.0), ("train/learning_rate", 0.1, 6, 3.0)]


def test_watch_says_where_every_training_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "state"
    straight_in = folder / "train_deq"
    straight_in.mkdir(parents=True)
    straight(straight_in)
    assert tiny.run("watch", folder) == 0
    assert capsys.readouterr().out.startswith("deq_trades_base/seed0: step 6, epoch 2, loss ")
    assert tiny.run("watch", tmp_path / "state" / "train_deq" / metrics.NAME) == 0
    (tmp_path / "empty").mkdir()
    capsys.readouterr()
    assert tiny.run("watch", tmp_path / "empty") == 2
    assert "holds no metrics.jsonl" in capsys.readouterr().err


def test_watch_hides_no_training_and_joins_a_state_with_its_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two experiments with the same model and seed, of which one is published."""
    (tmp_path / "state").mkdir()
    for experiment in ("a", "b"):
        straight(tmp_path / "state" / experiment)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / metrics.NAME).write_bytes((tmp_path / "state" / "a" / metrics.NAME).read_bytes())
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(board, "export", lambda runs, folder: drawn.update(runs))
    assert tiny.run("watch", tmp_path / "state", tmp_path / "results", "--tensorboard", tmp_path / "board") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == [
        f"deq_trades_base/seed0 in {tmp_path / 'state' / experiment}" for experiment in ("a", "b")
    ]
    assert list(drawn) == ["deq_trades_base/seed0-a", "deq_trades_base/seed0-b"]
