"""In which way our f is computed: precision, layout, compiled or not, captured or not."""

from dataclasses import dataclass, field

import torch

from deqpipe.compute.precision import Precision, PrecisionName
from deqpipe.compute.replay import DIRECT, Graphs, Runner
from deqpipe.compute.ways import PLAIN, Way
from deqpipe.machine import device
from deqpipe.model.classifier import DEQClassifier


@dataclass(frozen=True)
class Computed:
    """A way to compute f. Only precision changes results beyond rounding.

    Attributes:
        precision: of its convolutions.
        way: its layout, whether it is compiled, and whether attack steps are captured in CUDA graphs.
    """

    precision: PrecisionName = "fp32"
    way: Way = field(default=PLAIN)

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.precision}, {self.way.name}"

    @property
    def plain(self) -> "Computed":
        """The same precision in the plain way."""
        return Computed(self.precision)

    def missing(self, where: torch.device) -> str:
        """Why this cannot be done on a device, in words; empty if it can."""
        if where.type == "cuda":
            return ""
        if self.way.graphs:
            return "graphs are of CUDA devices"
        return "tf32 is a mode of CUDA devices" if self.precision == "tf32" else ""

    def enter(self, threads: int) -> None:
        """Set what is process-wide."""
        device.set_up(precision=self.precision, threads=threads)

    def taken_by(self, network: DEQClassifier) -> DEQClassifier:
        """The network, which computes this way from here on."""
        network.compute_with(Precision(self.precision), self.way)
        return network

    def runner(self, network: DEQClassifier) -> Runner:
        """What runs the attack steps on a network."""
        return Graphs(network.counter) if self.way.graphs else DIRECT
