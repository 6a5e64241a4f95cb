"""What the device does while a training goes on: its memory, and the share of its peak that is used."""

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deqpipe.config import ModelConfig
from deqpipe.counts import Evaluations
from deqpipe.model.classifier import DEQClassifier

_MAKER = "NVIDIA "
_MIB = 2**20

PEAKS: Mapping[str, Mapping[str, float]] = {
    "NVIDIA H200": {"fp32": 67e12, "tf32": 494.7e12, "bf16": 989.4e12},
    "NVIDIA H100 80GB HBM3": {"fp32": 67e12, "tf32": 494.7e12, "bf16": 989.4e12},
    "NVIDIA H100 NVL": {"fp32": 60e12, "tf32": 417e12, "bf16": 835e12},
    "NVIDIA H100 PCIe": {"fp32": 51e12, "tf32": 378e12, "bf16": 756e12},
    "NVIDIA A100-SXM4-40GB": {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    "NVIDIA A100-SXM4-80GB": {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    "NVIDIA A100-PCIE-40GB": {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    "NVIDIA A100 80GB PCIe": {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
    "NVIDIA A10": {"fp32": 31.2e12, "tf32": 62.5e12, "bf16": 125e12},
    "NVIDIA A30": {"fp32": 10.3e12, "tf32": 82e12, "bf16": 165e12},
    "NVIDIA A40": {"fp32": 37.4e12, "tf32": 74.8e12, "bf16": 149.7e12},
    "NVIDIA RTX A6000": {"fp32": 38.7e12, "tf32": 77.4e12, "bf16": 154.8e12},
    "NVIDIA GeForce RTX 3090": {"fp32": 35.6e12, "tf32": 35.6e12, "bf16": 71e12},
    "NVIDIA GeForce RTX 4090": {"fp32": 82.6e12, "tf32": 82.6e12, "bf16": 165e12},
    "NVIDIA L4": {"fp32": 30.3e12, "tf32": 60e12, "bf16": 121e12},
    "NVIDIA L40S": {"fp32": 91.6e12, "tf32": 183e12, "bf16": 362e12},
    "Tesla V100-SXM2-16GB": {"fp32": 15.7e12},
    "Tesla V100-SXM2-32GB": {"fp32": 15.7e12},
    "Tesla V100-PCIE-16GB": {"fp32": 14e12},
    "Tesla V100-PCIE-32GB": {"fp32": 14e12},
    "Tesla T4": {"fp32": 8.1e12},
}
"""Operations per second of dense arithmetic, by what torch calls a GPU and by precision, from the makers' data sheets.

A multiplication and an addition are two operations. GPUs that are not here, and CPUs, have no share of a peak.
"""


@dataclass(frozen=True)
class Meter:
    """What is known of a training's arithmetic and its device.

    Attributes:
        model: which is trained.
        seed: of the repetition.
        device: where it computes; None: nothing is asked of it.
        flops: operations of one evaluation of f on one image; None: the model has no f.
        peak: operations per second that the device can do; None: not known.
    """

    model: str = ""
    seed: int = 0
    device: torch.device | None = None
    flops: float | None = None
    peak: float | None = None

    def share(self, evaluations: Evaluations, seconds: float) -> float | None:
        """The share of the peak that some evaluations of f took; stem and head are left out, a percent of it."""
        if self.flops is None or self.peak is None or seconds <= 0:
            return None
        return round(evaluations.total * self.flops / seconds / self.peak, 6)

    @property
    def memory(self) -> float | None:
        """The most memory so far, in MiB; asking does not wait for the device."""
        if self.device is None:
            return None
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self.device) / _MIB, 1)
        unit = 1 if sys.platform == "darwin" else 1024
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB, 1)


NOTHING_KNOWN = Meter()


def peak(device: torch.device, precision: str) -> float | None:
    """Operations per second that a device can do at most; None where that is not known."""
    if device.type != "cuda":
        return None
    # Drivers differ in whether names begin with the maker's.
    known = {name.removeprefix(_MAKER): peaks for name, peaks in PEAKS.items()}
    return known.get(torch.cuda.get_device_name(device).removeprefix(_MAKER), {}).get(precision)


def flops_of_f(architecture: Mapping[str, Any]) -> float | None:
    """Operations of one evaluation of f on one image, forward; None for a model that has no f.

    They are counted on a model without numbers (device meta): nothing is computed, and nothing random is drawn.
    """
    if architecture["type"] != "deq":
        return None
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    with torch.device("meta"), torch.no_grad():
        model = DEQClassifier(
            ModelConfig.model_validate(architecture["model"]),
            image_shape=tuple(architecture["image_shape"]),
            classes=len(architecture["classes"]),
        ).eval()
        x = torch.empty(1, *architecture["image_shape"])
        f, z = model.bind(x), model.initial_state(x)
        with FlopCounterMode(display=False) as counter:
            f(z)
    return float(counter.get_total_flops())
