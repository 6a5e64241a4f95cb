"""A solver of one's own: Anderson mixing of which every step is damped."""

from dataclasses import dataclass

from deqpipe.extending import Solver
from deqpipe.shapes import State
from deqpipe.solver.anderson import Anderson, AndersonState


@dataclass(frozen=True)
class Damped(Anderson):
    """z^[n+1] = z^[n] + mixing * (Anderson's proposal - z^[n])."""

    mixing: float = 0.7

    def propose(self, state: AndersonState) -> State:
        """A part of the way to what Anderson proposes."""
        proposed: State = super().propose(state)
        return state.z + self.mixing * (proposed - state.z)

    def differentiable(self) -> "Damped":
        """This one: it writes nothing in place."""
        return self


DAMPED = Solver("damped_anderson", "damped Anderson mixing", build=Damped)
