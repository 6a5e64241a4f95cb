"""The simultaneous adjoint (Yang et al., 2022, Sec. 4.1): an adjoint state carried along with the solver's steps.

The gradient of an equilibrium takes the solution of u = J^T u + v, v being the gradient of the loss at the state. It
is solved along with the state itself, one step for each of the solver's, with the solver's own inverse Jacobian:

    u^[t+1] = u^[t] - B_t^-T (J(z^[t])^T u^[t] + v - u^[t]),   u^[0] = 0,   t = 1, .., n

where B_t^-1 is Broyden's approximation to the inverse Jacobian of g(z) = f(z; x) - z behind z^[t]. The gradient to x is
that of f(z^[n]; x) in the direction u^[n+1].

Public text leaves open what follows, and this is what is taken here. v is that of the attacked state z^[n] throughout,
not one of its own for every z^[t]: so it is known only once the state is, and the adjoint runs behind the solve, over
the states and memories that were recorded. It takes one step at each of z^[1] .. z^[n], so that at the first one, where
B_1^-1 has one pair, it has one. Solvers without an inverse Jacobian take B^-1 = -I: u^[t+1] = J(z^[t])^T u^[t] + v.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqpipe.gradient.through import EXACT, Through
from deqpipe.model.interface import eager
from deqpipe.shapes import State
from deqpipe.solver.base import FixedPointMap, Solver
from deqpipe.solver.broyden import BroydenState
from deqpipe.solver.pairs import low_rank


@dataclass(frozen=True)
class SimultaneousAdjoint:
    """A state whose gradient is that of an adjoint state carried along with its solve.

    f is evaluated once at each state, in the solve, and its gradient taken there. So n + 1 evaluations, and as many
    gradients, are all that it costs.

    Attributes:
        solver: that the state is solved with.
        steps: n, its number.
        through: whether what f's gradients need is kept, or computed again.
    """

    solver: Solver[Any]
    steps: int
    through: Through = EXACT

    def __call__(self, fn: FixedPointMap, z: State) -> State:
        """z^[n], solved from 0, with gradient to what `fn` closes over; `z` gives the shape alone."""
        applied = _Applied(eager(fn), self.through, [])
        with torch.no_grad():
            passed = self._solved(applied, torch.zeros_like(z))
        last: Tensor = passed[-1].z
        if not torch.is_grad_enabled():
            return last
        _, image = applied.at(last)
        value = image.view_as(image)  # a node of its own: the adjoint's own gradients of f's value call no hook
        value.register_hook(lambda v: _adjoint(applied, passed, v))
        return last + (value - value.detach())  # z^[n] itself, with f's gradient at it

    def _solved(self, fn: FixedPointMap, z0: State) -> list[Any]:
        state, passed = self.solver.init(fn, z0), []
        for _ in range(self.steps):
            state = self.solver.step(fn, state)
            passed.append(state)
        return passed


@dataclass(frozen=True)
class _Applied:
    """f, with what it was evaluated at, and the values with their graphs.

    Attributes:
        fn: f.
        through: whether a graph holds all that its gradient needs.
        pairs: arguments, each the leaf of its value's graph, and values.
    """

    fn: FixedPointMap
    through: Through
    pairs: list[tuple[State, Tensor]]

    def __call__(self, z: State) -> Tensor:
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            value = self.through.apply(self.fn, leaf)
        self.pairs.append((leaf, value))
        return value.detach()

    def at(self, z: State) -> tuple[State, Tensor]:
        """The argument and the value at a state: of the solve, or evaluated now where that did not ask for it."""
        for leaf, value in reversed(self.pairs):
            if leaf.data_ptr() == z.data_ptr():
                return leaf, value
        self(z)
        return self.pairs[-1]


def _adjoint(applied: _Applied, passed: list[Any], v: Tensor) -> Tensor:
    """u^[n+1] for the gradient that arrives at the state."""
    u = torch.zeros_like(v)
    for state in passed:
        leaf, value = applied.at(state.z)
        (product,) = torch.autograd.grad(value, leaf, u, retain_graph=True)
        u = u - _transposed_inverse(state, product + v - u)
    return u


def _transposed_inverse(state: Any, vector: State) -> State:
    """B^-T times a vector, per image."""
    return low_rank(state.right, state.left, vector) if isinstance(state, BroydenState) else -vector
