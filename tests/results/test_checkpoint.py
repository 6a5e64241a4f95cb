import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from deqpipe.errors import UserError
from deqpipe.results import checkpoint

MakeOptimizer = Callable[[nn.Module], Optimizer]


def adam(net: nn.Module) -> Optimizer:
    return Adam(net.parameters(), lr=1e-2, weight_decay=1e-3)


def sgd(net: nn.Module) -> Optimizer:
    return SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def tiny_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4))


def train(net: nn.Module, optimizer: Optimizer, *, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(8, 1, 6, 6, generator=generator)
        labels = torch.randint(4, (8,), generator=generator)
        for group in optimizer.param_groups:  # a schedule that depends on the step alone
            group["lr"] = 0.05 * (1 + math.cos(step / 7))
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(net(images), labels))
        optimizer.step()


def bits(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    return {name: (t.dtype, tuple(t.shape), t.contiguous().numpy().tobytes()) for name, t in tensors.items()}


@pytest.mark.parametrize("make", [adam, sgd])
def test_training_that_was_saved_and_continued_equals_training_without_a_break(
    tmp_path: Path, make: MakeOptimizer
) -> None:
    straight = tiny_net()
    straight_optimizer = make(straight)
    train(straight, straight_optimizer, steps=range(9))

    first = tiny_net()
    first_optimizer = make(first)
    train(first, first_optimizer, steps=range(4))
    tensors = checkpoint.prefixed("model", first.state_dict()) | checkpoint.optimizer_tensors(first_optimizer, first)
    checkpoint.write(tmp_path / "state.safetensors", tensors, {"step": 4})

    second = tiny_net()
    second_optimizer = make(second)
    read = checkpoint.read(tmp_path / "state.safetensors")
    checkpoint.load_module(second, read.part("model"))
    checkpoint.restore_optimizer(second_optimizer, second, read.tensors)
    train(second, second_optimizer, steps=range(read.metadata["step"], 9))

    assert bits(second.state_dict()) == bits(straight.state_dict())
    assert bits(checkpoint.optimizer_tensors(second_optimizer, second)) == bits(
        checkpoint.optimizer_tensors(straight_optimizer, straight)
    )
    assert bits(dict(read.tensors)) == bits(tensors), "training on must not change what was read"


def test_learning_rate_of_a_schedule_survives_exactly() -> None:
    net = tiny_net()
    optimizer = adam(net)
    scheduler = CosineAnnealingLR(optimizer, 7)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    restored = adam(net)
    checkpoint.restore_optimizer(restored, net, checkpoint.optimizer_tensors(optimizer, net))
    for key in ("lr", "initial_lr"):
        assert restored.param_groups[0][key] == optimizer.param_groups[0][key]
        assert isinstance(restored.param_groups[0][key], float)


def test_optimizer_state_is_stored_under_the_names_of_the_parameters() -> None:
    net = tiny_net()
    parameters = dict(net.named_parameters())
    # another order than that of the module, in two groups
    groups: list[dict[str, Any]] = [
        {"params": [parameters["4.weight"]]},
        {"params": [parameters["0.weight"]], "lr": 0.5},
    ]
    optimizer = Adam(groups)
    train(net, optimizer, steps=range(1))
    tensors = checkpoint.optimizer_tensors(optimizer, net)
    assert tensors["optimizer.0.weight.exp_avg"] is optimizer.state[parameters["0.weight"]]["exp_avg"]
    restored = Adam(groups)
    checkpoint.restore_optimizer(restored, net, tensors)
    assert bits(checkpoint.optimizer_tensors(restored, net)) == bits(tensors)


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.lists(st.floats(width=32), max_size=4), max_size=4),
    st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False) | st.none(), max_size=4),
)
def test_what_is_written_is_read_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, list[float]], metadata: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("round") / "file.safetensors"
    tensors = {f"t/{name}": torch.tensor(value) for name, value in values.items()}
    checkpoint.write(path, tensors, metadata)
    read = checkpoint.read(path)
    assert bits(dict(read.tensors)) == bits(tensors)
    assert read.metadata == metadata == checkpoint.read_metadata(path)


def test_tensors_of_any_layout_and_type_can_be_written(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "base": base,
        "view": base[1],
        "transposed": base.mT,
        "scalar": torch.tensor(3, dtype=torch.int64),
        "double": torch.tensor(1 / 3, dtype=torch.float64),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    checkpoint.write(tmp_path / "file", tensors, {})
    read = checkpoint.read(tmp_path / "file").tensors
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_failed_write_leaves_the_older_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    checkpoint.write(tmp_path / "file", {"a": torch.ones(1)}, {"step": 1})
    monkeypatch.setattr(checkpoint, "save_file", write_half)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.write(tmp_path / "file", {"a": torch.ones(1)}, {"step": 2})
    assert checkpoint.read_metadata(tmp_path / "file") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_truncated_file_is_refused_in_one_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "file.safetensors"
    checkpoint.write(path, {"a": torch.rand(100)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:kept])
    for read in (checkpoint.read, checkpoint.read_metadata):
        with pytest.raises(UserError, match=r"file\.safetensors is cut short") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_missing_foreign_and_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pickle.pt")
    save_file({"a": torch.ones(1)}, tmp_path / "foreign")
    save_file({"a": torch.ones(1)}, tmp_path / "no_json", metadata={"deqpipe": "{"})
    save_file({"a": torch.ones(1)}, tmp_path / "list", metadata={"deqpipe": "[]"})
    save_file({"a": torch.ones(1)}, tmp_path / "deep", metadata={"deqpipe": "[" * 100_000})
    save_file({"a": torch.ones(1)}, tmp_path / "long", metadata={"deqpipe": "1" * 5001})
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    said = {
        "missing": "does not exist",
        "pickle.pt": "no safetensors file",
        "foreign": "not written by deqpipe",
        "no_json": "not JSON",
        "list": "has a list as metadata",
        "folder": "cannot be read: it is a folder, but must be a file",
        "pipe": "cannot be read: it is a named pipe, but must be a file",
        "deep": "nested too deep",
        "long": "Exceeds the limit",
    }
    for name, message in said.items():
        with pytest.raises(UserError, match=message) as error:
            checkpoint.read(tmp_path / name)
        assert str(error.value).startswith(f"checkpoint {tmp_path / name} ")
        assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused() -> None:
    for number in (math.nan, math.inf, -math.inf):
        net = tiny_net()
        tensors = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        tensors["4.bias"][2] = number
        before = bits(net.state_dict())
        with pytest.raises(UserError, match=r"^best holds numbers in 4\.bias that are not finite"):
            checkpoint.load_module(net, tensors, source="best")
        assert bits(net.state_dict()) == before


def test_half_of_an_optimisers_state_is_refused() -> None:
    """Torch would begin it anew in the middle of a training."""
    net = tiny_net()
    optimizer = adam(net)
    train(net, optimizer, steps=range(1))
    tensors = checkpoint.optimizer_tensors(optimizer, net)
    del tensors["optimizer.4.bias.step"]
    with pytest.raises(UserError, match=r"holds optimiser state of 4\.bias, but step is missing"):
        checkpoint.restore_optimizer(adam(net), net, tensors)


def test_a_file_of_an_older_version_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "old", metadata={"deqpipe": '{"step": 1}'})
    for read in (checkpoint.read, checkpoint.read_metadata):
        with pytest.raises(UserError, match="carries no digest, so an older version of deqpipe wrote it; delete it"):
            read(tmp_path / "old")


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    checkpoint.write(tmp_path / "file", {}, {})
    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(UserError, match=r"Permission denied: .*/file is \S+'s, with permissions -rw"):
        checkpoint.read(tmp_path / "file")


def test_module_takes_all_tensors_or_none() -> None:
    net, other = tiny_net(), tiny_net()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    checkpoint.load_module(net, other.state_dict())
    assert bits(net.state_dict()) == bits(other.state_dict())

    before = bits(net.state_dict())
    tensors = {name: torch.zeros_like(tensor) for name, tensor in net.state_dict().items()}
    for changed, message in (
        ({**tensors, "4.weight": torch.zeros(5, 48)}, r"4\.weight is \[5, 48\], but must be \[4, 48\] \(9 tensors"),
        ({k: v for k, v in tensors.items() if k != "4.bias"}, r"4\.bias is missing \(8 tensors there, 9 in the model"),
        ({**tensors, "5.weight": torch.zeros(1)}, r"the model has no 5\.weight \(10 tensors there, 9"),
    ):
        with pytest.raises(UserError, match=r"best\.safetensors does not fit the model: " + message):
            checkpoint.load_module(net, changed, source="best.safetensors")
        assert bits(net.state_dict()) == before


def test_optimizer_state_of_another_model_is_refused() -> None:
    net = tiny_net()
    optimizer = adam(net)
    train(net, optimizer, steps=range(1))
    tensors = checkpoint.optimizer_tensors(optimizer, net)
    with pytest.raises(UserError, match="holds no optimiser state"):
        checkpoint.restore_optimizer(adam(net), net, {})
    with pytest.raises(UserError, match=r"optimiser state of 9\.weight, which is no parameter here"):
        checkpoint.restore_optimizer(adam(net), net, {**tensors, "optimizer.9.weight.exp_avg": torch.zeros(1)})
    with pytest.raises(UserError, match=r"4\.bias\.exp_avg is \[3\], but must be \[4\]"):
        checkpoint.restore_optimizer(adam(net), net, {**tensors, "optimizer.4.bias.exp_avg": torch.zeros(3)})
