"""Inputs rounded to a few levels before the solve (Guo et al., 2018)."""

from dataclasses import dataclass

from deqpipe.dynamics import PlainDynamics, Trajectory
from deqpipe.model.classifier import DEQClassifier
from deqpipe.settings import Settings
from deqpipe.shapes import Images
from deqpipe.solver.solve import Termination
from deqpipe.workflow.defences import Defence

LEVELS = 16


@dataclass(frozen=True)
class RoundedInput:
    """The undefended dynamics of a rounded input."""

    plain: PlainDynamics

    @property
    def termination(self) -> Termination:
        """As undefended."""
        return self.plain.termination

    def up_to(self, index: int) -> "RoundedInput":
        """The dynamics that end at z^[index]."""
        return RoundedInput(self.plain.up_to(index))

    def __call__(self, model: DEQClassifier, x: Images, *, last_residual: bool = True) -> Trajectory:
        """States of the rounded input."""
        rounded = (x * (LEVELS - 1)).round() / (LEVELS - 1)
        return self.plain(model, rounded, last_residual=last_residual)


def build(settings: Settings, plain: PlainDynamics, defence: Defence) -> RoundedInput:
    """As the configuration's solver has it."""
    return RoundedInput(plain)
