"""In which way our f is computed: precision, layout, compiled or not, captured or not."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from deqpipe import device
from deqpipe.compute.precision import Precision, PrecisionName
from deqpipe.model.cell import CellFunction, Layout
from deqpipe.model.classifier import DEQClassifier

GRAPHS = "deqpipe.compute.graphs"


@dataclass(frozen=True)
class Way:
    """A way to compute f. None of them changes the mathematics; only precision changes results beyond rounding.

    Attributes:
        precision: of its convolutions.
        layout: of its state.
        compiled: by torch.compile.
        graphs: whole steps captured in CUDA graphs.
    """

    precision: PrecisionName = "fp32"
    layout: Layout = "channels_first"
    compiled: bool = False
    graphs: bool = False

    @property
    def name(self) -> str:
        """In words."""
        extras = [word for word, on in (("compiled", self.compiled), ("graphs", self.graphs)) if on]
        return ", ".join([self.precision, self.layout.replace("_", " "), *extras])

    def missing(self, where: torch.device) -> str:
        """Why this way cannot be taken on a device, in words; empty if it can."""
        if where.type == "cpu" and self.precision == "tf32":
            return "tf32 is a mode of CUDA devices"
        if self.graphs and where.type == "cpu":
            return "graphs are of CUDA devices"
        if self.graphs and importlib.util.find_spec(GRAPHS) is None:
            return "this version captures no graphs"
        return ""

    def enter(self, threads: int) -> None:
        """Set what is process-wide."""
        device.set_up(precision="tf32" if self.precision == "tf32" else "fp32", threads=threads)

    def taken_by(self, network: DEQClassifier) -> DEQClassifier:
        """The network, which computes this way from here on."""
        compiled = compiled_function if self.compiled else None
        network.compute_with(precision=Precision(self.precision), layout=self.layout, compiled=compiled)
        return network


def compiled_function(function: CellFunction) -> Callable[..., Any]:
    """f, compiled for the shapes that it meets."""
    return torch.compile(function, dynamic=False)
