"""What a solver is: a frozen value of hyperparameters, and pure functions from one state of the solve to the next."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool
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

    def differentiable(self) -> "Solver[S]":
        """The same method, bit for bit on a CPU, without writing in place: gradients can be taken through its steps."""
        ...

    def keep(self, old: S, new: S, running: Bool[Tensor, " batch"]) -> S:
        """`new`, except that images which do not run keep all that `old` says of them (and so stay stopped).

        Where the memory grew, such an image gets an entry of zeros, which no solver's next step notices. It is the
        oldest one, so that the newest remains that of the image's last step.
        """
        ...


def keep_tensors(old: S, new: S, running: Bool[Tensor, " batch"]) -> S:
    """`Solver.keep` for states that hold nothing but tensors, the memory along their second axis."""
    kept = {one.name: _keep(getattr(old, one.name), getattr(new, one.name), running) for one in fields(new)}
    return replace(new, **kept)


def _keep(old: Tensor, new: Tensor, running: Tensor) -> Tensor:
    if old.shape != new.shape:
        old = torch.cat([torch.zeros_like(new[:, :1]), old], dim=1)
    return where_images(running, new, old)


def where_images(images: Bool[Tensor, " batch"], new: Tensor, old: Tensor | float | int) -> Tensor:
    """`new` for some images, `old` for the others."""
    return torch.where(images.view(-1, *[1] * (new.dim() - 1)), new, old)


@dataclass(frozen=True)
class Residuals:
    """Norms at one state.

    Attributes:
        difference: norm(f(z) - z) of every image.
        value: norm(f(z)).
    """

    difference: PerImage
    value: PerImage

    @classmethod
    def of(cls, state: SolverState) -> "Residuals":
        """At the state that a solver is at."""
        return cls(_norm(state.residual), _norm(state.residual + state.z))

    @property
    def relative(self) -> PerImage:
        """norm(f(z) - z) / norm(f(z)) of every image (Fig. 2a)."""
        return self.difference / (self.value + _TINY)

    @property
    def of_batch(self) -> Scalar:
        """The same with both norms taken over all images at once. Every image has a say in it."""
        ratio: Tensor = self.difference.norm() / (self.value.norm() + _TINY)
        return ratio


def _norm(vectors: State) -> PerImage:
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return norm


def relative_residual(state: SolverState) -> PerImage:
    """norm(f(z) - z) / norm(f(z)) of every image (Fig. 2a)."""
    return Residuals.of(state).relative


def batch_relative_residual(state: SolverState) -> Scalar:
    """The same with both norms taken over all images at once."""
    return Residuals.of(state).of_batch


def residual_ratio(residual: State, value: State) -> PerImage:
    """Of a residual f(z) - z and a value f(z)."""
    return Residuals(_norm(residual), _norm(value)).relative
