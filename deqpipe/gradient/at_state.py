"""Gradients at a state: what becomes of a state that is held constant.

A state comes out of the solver without gradient. A `StateGradient` turns it into one at or near it that carries
gradient to whatever the map closes over: the parameters, the images or both.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from deqpipe.model.interface import eager
from deqpipe.shapes import State
from deqpipe.solver.base import FixedPointMap, Solver
from deqpipe.solver.solve import Termination, reach


@runtime_checkable
class StateGradient(Protocol):
    """How a state is made differentiable."""

    def __call__(self, fn: FixedPointMap, z: State) -> State:
        """A state at or near `z` with gradient; none flows into `z` itself."""
        ...


@dataclass(frozen=True)
class Unrolled:
    """Phantom gradient (Geng et al., 2021): damped steps behind the state, Eq. (11).

    Attributes:
        steps: K_a in Eq. (11).
        damping: lambda in Eq. (11).
        lead_step: one undamped step first, as in the authors' code.
    """

    steps: int
    damping: float
    lead_step: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no unroll.

        Raises:
            ValueError: a negative number of steps, or a damping that does not move towards f(z).
        """
        if self.steps < 0:
            raise ValueError(f"{self.steps} unroll steps were asked for, but there cannot be fewer than 0")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping is {self.damping}, but must be above 0 and at most 1")

    def __call__(self, fn: FixedPointMap, z: State) -> State:
        """z_a^[i + K_a]."""
        return self.onwards(fn, z.detach())

    def onwards(self, fn: FixedPointMap, z: State) -> State:
        """The same steps from a state whose gradient is kept."""
        if self.lead_step:
            z = fn(z)
        for _ in range(self.steps):
            z = _damped_step(fn, z, self.damping)
        return z


def _damped_step(fn: FixedPointMap, z: Tensor, damping: float) -> Tensor:
    return fn(z) if damping == 1 else (1 - damping) * z + damping * fn(z)


@dataclass(frozen=True)
class Implicit:
    """Exact gradient by the implicit function theorem (Bai et al., 2019), valid where z is an equilibrium.

    The incoming gradient v is replaced by the solution u of u = J^T u + v, J being the Jacobian of f at z.

    Attributes:
        solver: solves the adjoint equation.
        steps: how many steps it takes.
    """

    solver: Solver[Any]
    steps: int

    def __call__(self, fn: FixedPointMap, z: State) -> State:
        """f(z), whose gradient is that of the equilibrium."""
        fn = eager(fn)  # its backward pass is run many times
        value = fn(z.detach())
        if not value.requires_grad:
            return value
        at = z.detach().requires_grad_()
        image = fn(at)

        def adjoint(v: Tensor) -> Tensor:
            def transposed(u: Tensor) -> Tensor:
                (product,) = torch.autograd.grad(image, at, u, retain_graph=True)
                return product + v

            return reach(self.solver, transposed, torch.zeros_like(v), termination=Termination(max_steps=self.steps))

        value.register_hook(adjoint)
        return value
