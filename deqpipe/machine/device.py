"""Where a job computes: the device, its precision, its threads."""

import platform
from typing import Literal

import torch
from torch import Tensor

from deqpipe.errors import UserError


def choose(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that a config names; auto is CUDA where there is one.

    Raises:
        UserError: CUDA was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device is cuda, but no CUDA device is available; allowed: auto, cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def set_up(*, precision: Literal["fp32", "tf32", "bf16"], threads: int) -> None:
    """Process-wide numerics: threads of the CPU, and whether convolutions on CUDA may round to TF32."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.fp32_precision = "ieee"  # the solver's and the head's products are never rounded
    mode = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = True  # sizes are few: it is worth to look for the fastest convolution of each


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on a device, without waiting until it is there; one that is there already as it is.

    What is computed with it on the device finds it there.
    """
    where = torch.device(device)
    if tensor.device.type != "cpu":
        return tensor.to(where)  # towards the CPU nobody could tell when it has arrived
    # pinned: the device fetches it by itself
    return (tensor.contiguous().pin_memory() if where.type == "cuda" else tensor).to(where, non_blocking=True)


def describe(device: torch.device) -> str:
    """A device in words, for provenance."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} thread(s)"
