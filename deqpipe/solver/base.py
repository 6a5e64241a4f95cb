"""What a solver is: a frozen value of hyperparameters, and pure functions from one state of the solve to the next."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from torch import Tensor

from deqpipe.shapes import PerImage, Scalar, State

FixedPointMap: TypeAlias = Callable[[Tensor], Tensor]
"""z -> f(z), (batch, state) -> (batch, state)."""


@runtime_checkable
class SolverState(Protocol):
    """What every solver's state holds: an iterate and its residual. A frozen dataclass."""

    @property
    def z(self) -> State:
        """z^[n]."""
        ...

    @property
    def residual(self) -> State:
        """f(z^[n]) - z^[n]."""
        ...


S = TypeVar("S", bound=Any)

_TINY = 1e-9  # f(z) = 0 would otherwise divide by zero


@runtime_checkable
class Solver(Protocol[S]):
    """One fixed-point iteration scheme. No method changes the state that it is given."""

    def init(self, fn: FixedPointMap, z0: State) -> S:
        """The solve at z^[0]. Calls `fn` once."""
        ...

    def propose(self, state: S) -> State:
        """z^[n+1], without calling any function: it follows from z^[n], its residual and the memory."""
        ...

    def step(self, fn: FixedPointMap, state: S) -> S:
        """The solve at z^[n+1]. Calls `fn` once, at z^[n+1], for its residual."""
        ...

    def advance(self, fn: FixedPointMap, state: S, z: State) -> S:
        """The solve moved to `z`, whoever proposed it, and the memory richer by this move. Calls `fn` once, at `z`."""
        ...

    def forget(self, state: S) -> S:
        """The same z^[n] and residual without memory."""
        ...

    def reevaluate(self, fn: FixedPointMap, state: S) -> S:
        """The same z^[n] and memory, the residual taken of a changed function. Calls `fn` once."""
        ...

    def rebase(self, fn: FixedPointMap, state: S) -> S:
        """The same z^[n] for a changed function, the newest entry of the memory corrected to it. Calls `fn` once."""
        ...


def relative_residual(state: SolverState) -> PerImage:
    """norm(f(z) - z) / norm(f(z)) of every image (Fig. 2a)."""
    return residual_ratio(state.residual, state.residual + state.z)


def batch_relative_residual(state: SolverState) -> Scalar:
    """The same with both norms taken over all images at once. Every image has a say in it."""
    ratio: Tensor = state.residual.norm() / ((state.residual + state.z).norm() + _TINY)
    return ratio


def residual_ratio(residual: State, value: State) -> PerImage:
    """Of a residual f(z) - z and a value f(z)."""
    ratio: Tensor = residual.norm(dim=1) / (value.norm(dim=1) + _TINY)
    return ratio
