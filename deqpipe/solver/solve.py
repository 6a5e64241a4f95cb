"""The one loop that runs a solver, and the one place that decides when an image stops."""

import enum
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deqpipe.config import Solver as SolverConfig
from deqpipe.shapes import State
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import FixedPointMap, Solver, relative_residual
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration


class Status(enum.IntEnum):
    """Why an image's solve ended."""

    CONVERGED = 1
    """Its relative residual reached the tolerance."""
    MAX_STEPS = 2
    NONFINITE = 3
    """Some number of its state is not finite; nothing was replaced."""


@dataclass(frozen=True)
class Termination:
    """When to stop, image by image.

    Attributes:
        max_steps: N.
        rtol: relative residual at which an image stops and keeps its state; 0: never before `max_steps`.
    """

    max_steps: int
    rtol: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no length and what is no tolerance.

        Raises:
            ValueError: one of them is out of range.
        """
        if self.max_steps < 1:
            raise ValueError(f"{self.max_steps} solver steps were asked for, but there must be at least 1")
        if not self.rtol >= 0:
            raise ValueError(f"the tolerance is {self.rtol}, but must not be negative")


@dataclass(frozen=True)
class Solution:
    """The states of a solve.

    Attributes:
        states: `states[n - 1]` is z^[n].
        residuals: relative residual of each of these states.
        status: a `Status` per image.
        steps: steps taken per image.
    """

    states: Float[Tensor, "step batch state"]
    residuals: Float[Tensor, "step batch"]
    status: Int[Tensor, " batch"]
    steps: Int[Tensor, " batch"]

    @property
    def z(self) -> State:
        """z^[N]."""
        return self.states[-1]


@torch.no_grad()
def solve(solver: Solver[Any], fn: FixedPointMap, state: Any, *, termination: Termination) -> tuple[Solution, Any]:
    """Run `max_steps` steps from `state` and keep every state.

    The returned solver state continues the solve exactly: two segments give the states of one. Calls `fn` once a step.
    """
    states, residuals = [], []
    steps = torch.zeros(len(state.z), dtype=torch.int64, device=state.z.device)
    for _ in range(termination.max_steps):
        steps = steps + _running(state, termination)
        state = _step(solver, fn, state, termination)
        states.append(state.z)
        residuals.append(relative_residual(state))
    status = torch.where(_running(state, termination), Status.MAX_STEPS, Status.CONVERGED)
    status = torch.where(state.z.isfinite().all(1) & state.residual.isfinite().all(1), status, Status.NONFINITE)
    return Solution(torch.stack(states), torch.stack(residuals), status, steps), state


@torch.no_grad()
def reach(solver: Solver[Any], fn: FixedPointMap, z0: State, *, termination: Termination) -> State:
    """z^[N] alone, with N calls of `fn`: the residual of the last state is not computed."""
    state = solver.init(fn, z0)
    for _ in range(termination.max_steps - 1):
        state = _step(solver, fn, state, termination)
    return following(solver, state, termination=termination)


def following(solver: Solver[Any], state: Any, *, termination: Termination) -> State:
    """z^[n+1] of the images whose solve goes on, z^[n] of those that have stopped; no function is called."""
    proposed = solver.propose(state)
    return proposed if termination.rtol == 0 else _where(_running(state, termination), proposed, state.z)


def _step(solver: Solver[Any], fn: FixedPointMap, state: Any, termination: Termination) -> Any:
    stepped = solver.step(fn, state)
    return stepped if termination.rtol == 0 else keep_stopped(state, stepped, _running(state, termination))


def _running(state: Any, termination: Termination) -> Tensor:
    if termination.rtol == 0:
        return torch.ones(len(state.z), dtype=torch.bool, device=state.z.device)
    # "not at most" keeps an image with a residual that is no number running, to be reported as NONFINITE
    return ~(relative_residual(state) <= termination.rtol)


def keep_stopped(old: Any, new: Any, running: Tensor) -> Any:
    """`new`, except that stopped images keep all that `old` says of them (and so stay stopped).

    Where the memory grew, a stopped image gets an entry of zeros, which no solver's next step notices.
    """
    kept = {field.name: _keep(getattr(old, field.name), getattr(new, field.name), running) for field in fields(new)}
    return replace(new, **kept)


def _keep(old: Tensor, new: Tensor, running: Tensor) -> Tensor:
    if old.shape != new.shape:
        old = torch.cat([old, torch.zeros_like(new[:, :1])], dim=1)
    return _where(running, new, old)


def _where(images: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(images.view(-1, *[1] * (new.dim() - 1)), new, old)


def build_solver(config: SolverConfig) -> Solver[Any]:
    """The solver that a config names."""
    if config.name == "anderson":
        return Anderson(memory=config.anderson_memory)
    return Broyden() if config.name == "broyden" else FixedPointIteration()


def build_termination(config: SolverConfig) -> Termination:
    """When the configured solve stops."""
    return Termination(max_steps=config.steps, rtol=config.tolerance)
