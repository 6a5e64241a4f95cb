"""Relaxed fixed-point iteration: half of every step (Krasnoselskii, 1955)."""

from dataclasses import dataclass

from deqpipe.shapes import State
from deqpipe.solver.fixed_point import FixedPointIteration, FixedPointState


@dataclass(frozen=True)
class Relaxed(FixedPointIteration):
    """z^[n+1] = (z^[n] + f(z^[n])) / 2."""

    def propose(self, state: FixedPointState) -> State:
        """Half way to f(z^[n])."""
        return state.z + state.residual / 2
