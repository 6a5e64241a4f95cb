"""How many GPUs a job asks for."""

from pathlib import Path

import pytest

from deqpipe.machine import hardware


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a GPU; the returned folder is all there is on PATH."""
    monkeypatch.setattr(hardware, "NVIDIA_DEVICE", tmp_path / "nvidia0")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def tool(folder: Path, *, status: int) -> None:
    """An `nvidia-smi` that ends with this exit status."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\nexit {status}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_without_a_gpu_auto_asks_for_none() -> None:
    assert hardware.gpus_per_job("auto") == 0


def test_a_device_file_is_enough_for_auto(bare_machine: Path) -> None:
    (bare_machine / "nvidia0").touch()
    assert hardware.gpus_per_job("auto") == 1


def test_the_driver_tool_counts_only_if_it_finds_a_gpu(bare_machine: Path) -> None:
    tool(bare_machine, status=9)
    assert hardware.gpus_per_job("auto") == 0
    tool(bare_machine, status=0)
    assert hardware.gpus_per_job("auto") == 1


def test_what_is_asked_for_is_not_second_guessed(bare_machine: Path) -> None:
    assert hardware.gpus_per_job("cuda") == 1
    (bare_machine / "nvidia0").touch()
    assert hardware.gpus_per_job("cpu") == 0


def test_a_request_of_the_user_goes_before_what_the_device_needs(bare_machine: Path) -> None:
    assert hardware.gpus_per_job("cpu", 1) == 1
    assert hardware.gpus_per_job("cuda", 0) == 0
    assert hardware.gpus_per_job("cuda", "auto") == 1
