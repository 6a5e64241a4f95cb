"""Plain fixed-point iteration, z^[n+1] = f(z^[n]) (Eq. 2)."""

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from deqpipe.shapes import State
from deqpipe.solver.base import FixedPointMap, keep_tensors


@dataclass(frozen=True)
class FixedPointState:
    """An iterate and its residual; there is no memory."""

    z: State
    residual: State


@dataclass(frozen=True)
class FixedPointIteration:
    """The weight-tied network of Eq. (2) as a solver."""

    def init(self, fn: FixedPointMap, z0: State) -> FixedPointState:
        """The solve at z^[0]."""
        return FixedPointState(z=z0, residual=fn(z0) - z0)

    def propose(self, state: FixedPointState) -> State:
        """f(z^[n])."""
        return state.z + state.residual

    def step(self, fn: FixedPointMap, state: FixedPointState) -> FixedPointState:
        """The solve at f(z^[n])."""
        return self.init(fn, self.propose(state))

    def advance(self, fn: FixedPointMap, state: FixedPointState, z: State) -> FixedPointState:
        """The solve at `z`."""
        return self.init(fn, z)

    def forget(self, state: FixedPointState) -> FixedPointState:
        """The same: there is no memory."""
        return state

    def reevaluate(self, fn: FixedPointMap, state: FixedPointState) -> FixedPointState:
        """The same iterate under a changed function."""
        return self.init(fn, state.z)

    def rebase(self, fn: FixedPointMap, state: FixedPointState) -> FixedPointState:
        """The same iterate under a changed function: without memory there is nothing to correct."""
        return self.reevaluate(fn, state)

    def differentiable(self) -> "FixedPointIteration":
        """This one: it writes nothing in place."""
        return self

    def keep(self, old: FixedPointState, new: FixedPointState, running: Bool[Tensor, " batch"]) -> FixedPointState:
        """`new` for the images that run, `old` for the others."""
        return keep_tensors(old, new, running)
