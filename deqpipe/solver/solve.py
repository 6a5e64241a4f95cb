"""The one loop that runs a solver, and the one place that decides when an image stops."""

import enum
from dataclasses import dataclass, replace
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
        running = _running(state, termination)
        state = keep_stopped(state, solver.step(fn, state), running)
        steps = steps + running
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
        state = keep_stopped(state, solver.step(fn, state), _running(state, termination))
    running = _running(state, termination)
    return torch.where(running[:, None], solver.propose(state), state.z)


def _running(state: Any, termination: Termination) -> Tensor:
    if termination.rtol == 0:
        return torch.ones(len(state.z), dtype=torch.bool, device=state.z.device)
    # "not at most" keeps an image with a residual that is no number running, to be reported as NONFINITE
    return ~(relative_residual(state) <= termination.rtol)


def keep_stopped(old: Any, new: Any, running: Tensor) -> Any:
    """`new`, except that stopped images keep the iterate and the residual of `old` (and so stay stopped)."""
    pick = running[:, None]
    z, residual = torch.where(pick, new.z, old.z), torch.where(pick, new.residual, old.residual)
    return replace(new, z=z, residual=residual)


def build_solver(config: SolverConfig) -> Solver[Any]:
    """The solver that a config names."""
    if config.name == "anderson":
        return Anderson(memory=config.anderson_memory)
    return Broyden() if config.name == "broyden" else FixedPointIteration()


def build_termination(config: SolverConfig) -> Termination:
    """When the configured solve stops."""
    return Termination(max_steps=config.steps, rtol=config.tolerance)
