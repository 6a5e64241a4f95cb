"""Where a job computes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from deqpipe.errors import UserError
from deqpipe.machine import device


@pytest.fixture
def _settings_restored() -> Iterator[None]:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = (torch.get_num_threads(), matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.benchmark)
    yield
    torch.set_num_threads(before[0])
    matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.benchmark = before[1:]


@pytest.mark.parametrize(
    ("name", "available", "kind"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_device_is_the_one_asked_for_and_auto_takes_cuda_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, name: Any, available: bool, kind: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert device.choose(name).type == kind


def test_cuda_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device is cuda, but no CUDA device is available; allowed: auto, cpu"):
        device.choose("cuda")


@pytest.mark.usefixtures("_settings_restored")
@pytest.mark.parametrize(("precision", "mode"), [("tf32", "tf32"), ("fp32", "ieee"), ("bf16", "ieee")])
def test_set_up_sets_threads_and_the_precision_of_convolutions_alone(precision: Any, mode: str) -> None:
    device.set_up(precision=precision, threads=2)
    assert torch.get_num_threads() == 2
    assert torch.backends.cudnn.conv.fp32_precision == mode  # type: ignore[attr-defined]
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_cpu_is_described_with_its_threads() -> None:
    assert device.describe(torch.device("cpu")).endswith(f"{torch.get_num_threads()} thread(s)")
