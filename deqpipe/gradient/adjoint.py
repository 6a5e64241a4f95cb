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

from deqpipe.model.classifier import eager
from deqpipe.shapes import State
from deqpipe.solver.base import FixedPointMap, Solver
from deqpipe.solver.broyden import BroydenState
from deqpipe.solver.pairs import low_rank


@dataclass(frozen=True)
class SimultaneousAdjoint:
    """A state whose gradient is that of an adjoint state carried along with its solve.

    Attributes:
        solver: that the state is solved with.
        steps: n, its number.
    """

    solver: Solver[Any]
    steps: int

    def __call__(self, fn: FixedPointMap, z: State) -> State:
        """z^[n], solved from 0, with gradient to what `fn` closes over; `z` gives the shape alone."""
        fn = eager(fn)
        with torch.no_grad():
            passed = self._solved(fn, torch.zeros_like(z))
        last: Tensor = passed[-1].z
        value = fn(last)
        if not value.requires_grad:
            return last
        value.register_hook(lambda v: self._adjoint(fn, passed, v))
        return last + (value - value.detach())  # z^[n] itself, with f's gradient at it

    def _solved(self, fn: FixedPointMap, z0: State) -> list[Any]:
        state, passed = self.solver.init(fn, z0), []
        for _ in range(self.steps):
            state = self.solver.step(fn, state)
            passed.append(state)
        return passed

    def _adjoint(self, fn: FixedPointMap, passed: list[Any], v: Tensor) -> Tensor:
        """u^[n+1] for the gradient that arrives at the state."""
        u = torch.zeros_like(v)
        for state in passed:
            at = state.z.detach().requires_grad_()
            with torch.enable_grad():
                image = fn(at)
            (product,) = torch.autograd.grad(image, at, u)
            u = u - _transposed_inverse(state, product + v - u)
        return u


def _transposed_inverse(state: Any, vector: State) -> State:
    """B^-T times a vector, per image."""
    return low_rank(state.right, state.left, vector) if isinstance(state, BroydenState) else -vector
