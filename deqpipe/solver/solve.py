"""The one loop that runs a solver, and the one place that decides when an image stops."""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deqpipe.shapes import PerImage, Scalar, State
from deqpipe.solver.base import (
    FixedPointMap,
    Residuals,
    Solver,
    SolverState,
    batch_relative_residual,
    relative_residual,
    where_images,
)

Scope: TypeAlias = Literal["sample", "batch"]
"""Over what a residual's norm is taken where it decides: every image by itself, or all of them at once."""
Returned: TypeAlias = Literal["last", "lowest_sample", "lowest_batch"]
"""Which state is z*: the last one, or the one with the lowest residual of each image or of the batch."""

GROWTH = 1e3  # the release gives a solve up when its residual is this many times that of the first step


class Status(enum.IntEnum):
    """Why an image's solve ended."""

    CONVERGED = 1
    """Its relative residual reached the tolerance."""
    MAX_STEPS = 2
    NONFINITE = 3
    """Some number of its state is not finite; nothing was replaced."""
    DIVERGED = 4
    """The residual of its batch grew `GROWTH`-fold (only with scope batch)."""


@dataclass(frozen=True)
class Termination:
    """When to stop.

    Attributes:
        max_steps: N.
        rtol: relative residual at which an image stops and keeps its state; 0: never before `max_steps` (with scope
            batch, growth still ends a solve).
        scope: whose residual: sample stops image by image; batch couples the images, which then stop together. It is
            there to match the release, which looks at one norm over the batch after every step, but before none.
    """

    max_steps: int
    rtol: float = 0.0
    scope: Scope = "sample"

    def __post_init__(self) -> None:
        """Refuse what is no length and what is no tolerance.

        Raises:
            ValueError: one of them is out of range.
        """
        if self.max_steps < 1:
            raise ValueError(f"{self.max_steps} solver steps were asked for, but there must be at least 1")
        if not self.rtol >= 0:
            raise ValueError(f"the tolerance is {self.rtol}, but must not be negative")

    @property
    def may_stop_early(self) -> bool:
        """Whether a solve may end before `max_steps`: residuals are looked at after every step only then."""
        return self.rtol > 0 or self.scope == "batch"


@dataclass(frozen=True)
class Lowest:
    """The state of lowest residual so far, and that residual, per image; of equals the earlier one."""

    z: State
    residual: PerImage

    @classmethod
    def unknown(cls, z: State) -> "Lowest":
        """No residual seen yet; `z` remains where no residual is a number."""
        return cls(z, torch.full_like(z[:, 0], torch.inf))

    def or_lower(self, z: State, residual: Tensor) -> "Lowest":
        """With a further state taken into account; `residual` is one per image, or one of the whole batch."""
        residual = residual.expand(len(z))
        lower = residual < self.residual
        return Lowest(where_images(lower, z, self.z), where_images(lower, residual, self.residual))


@dataclass(frozen=True)
class Solution:
    """The states of a solve.

    Attributes:
        states: `states[n - 1]` is z^[n]; an image that has stopped keeps its state.
        residuals: relative residual of each of these states.
        batch_residuals: the same with the norms taken over the batch.
        moved: whether an image took the step to this state, or had stopped.
        status: a `Status` per image.
    """

    states: Float[Tensor, "step batch state"]
    residuals: Float[Tensor, "step batch"]
    batch_residuals: Float[Tensor, " step"]
    moved: Bool[Tensor, "step batch"]
    status: Int[Tensor, " batch"]

    @property
    def z(self) -> State:
        """z^[N]."""
        return self.states[-1]

    @property
    def steps(self) -> Int[Tensor, " batch"]:
        """Steps taken per image."""
        return self.moved.sum(0)

    def lowest(self, scope: Scope) -> State:
        """The state of lowest residual, of every image by itself or of the batch; of equals the earlier one."""
        lowest = Lowest.unknown(self.states[0])
        for z, residual in zip(self.states, self.residuals if scope == "sample" else self.batch_residuals, strict=True):
            lowest = lowest.or_lower(z, residual)
        return lowest.z

    def returned(self, which: Returned) -> State:
        """z*."""
        return self.z if which == "last" else self.lowest(_scope_of(which))


def lowest_of(scope: Scope) -> Literal["lowest_sample", "lowest_batch"]:
    """The rule that takes the state of lowest residual by a scope."""
    return "lowest_sample" if scope == "sample" else "lowest_batch"


def _scope_of(which: Returned) -> Scope:
    return "sample" if which == "lowest_sample" else "batch"


def solve_with_gradient(
    solver: Solver[Any],
    fn: FixedPointMap,
    state: Any,
    *,
    termination: Termination,
    first: State | None = None,
    resumed: bool = False,
    grown_from: Scalar | None = None,
    last_residual: bool = True,
) -> tuple[Solution, Any]:
    """Run `max_steps` steps from `state` and keep every state.

    The returned solver state continues the solve exactly: two segments give the states of one, the second
    with `resumed` and `grown_from`. Calls `fn` once a step. Where gradients are recorded the states carry them, if the
    solver writes nothing in place; residuals carry none.

    Args:
        solver: the method.
        fn: z -> f(z).
        state: of the solver, at z^[0] or further on.
        termination: when to stop.
        first: where the first step leads, if not where the solver would propose.
        resumed: whether a solve goes on here, so that with scope batch it may have ended before the first step.
        grown_from: with `resumed`, the batch's residual after that solve's first step, which growth is measured from.
        last_residual: whether the last state is evaluated. Otherwise `fn` is called once less: the residuals of that
            state are no numbers, its status says nothing of them, and the returned solver state is the one before.
    """
    frames: list[_Frame] = []
    status = _before(state, termination, resumed=resumed, grown_from=grown_from)
    march = _march(
        solver,
        fn,
        state,
        termination,
        steps=termination.max_steps - (not last_residual),
        first=first,
        resumed=resumed,
        grown_from=grown_from,
    )
    for moment in march:  # only what is recorded is kept: a solver's state is many times as large as z
        state, status = moment.state, moment.status
        frames.append(_Frame.judged(state, moment.moved))
    finite = _finite(state.z) & _finite(state.residual)
    if not last_residual:
        going = status == Status.MAX_STEPS
        z = _next(solver, state, going, termination, first=None if frames else first)
        frames.append(_Frame.unjudged(z, going))
        finite = finite & _finite(z)
    return _solution(frames, torch.where(finite, status, Status.NONFINITE)), state


solve = torch.no_grad()(solve_with_gradient)
"""The same without any gradient."""


@dataclass(frozen=True)
class _Frame:
    """What is recorded of one state."""

    z: State
    residual: PerImage
    batch_residual: Scalar
    moved: Bool[Tensor, " batch"]

    @classmethod
    @torch.no_grad()
    def judged(cls, state: SolverState, moved: Tensor) -> "_Frame":
        norms = Residuals.of(state)
        return cls(state.z, norms.relative, norms.of_batch, moved)

    @classmethod
    def unjudged(cls, z: State, moved: Tensor) -> "_Frame":
        unknown = torch.full_like(z[:, 0], torch.nan)
        return cls(z, unknown, unknown.sum(), moved)


def _solution(frames: Sequence[_Frame], status: Tensor) -> Solution:
    return Solution(
        states=torch.stack([frame.z for frame in frames]),
        residuals=torch.stack([frame.residual for frame in frames]),
        batch_residuals=torch.stack([frame.batch_residual for frame in frames]),
        moved=torch.stack([frame.moved for frame in frames]),
        status=status,
    )


def _finite(vectors: State) -> Tensor:
    """Whether all numbers of an image are finite: one pass, nothing of the size of a state is made."""
    largest: Tensor = torch.linalg.vector_norm(vectors, ord=torch.inf, dim=1)
    return largest.isfinite()


@torch.no_grad()
def reach(
    solver: Solver[Any], fn: FixedPointMap, z0: State, *, termination: Termination, returned: Returned = "last"
) -> State:
    """z* of a solve from `z0`; for z^[N] with N calls of `fn`: the residual of the last state is not computed."""
    state = solver.init(fn, z0)
    if returned != "last":
        return _reach_lowest(solver, fn, state, termination, _scope_of(returned))
    going = _running(state, termination, resumed=False)
    for moment in _march(solver, fn, state, termination, steps=termination.max_steps - 1):
        state, going = moment.state, moment.going
    return _next(solver, state, going, termination)


def _reach_lowest(solver: Solver[Any], fn: FixedPointMap, state: Any, termination: Termination, scope: Scope) -> State:
    """The state of lowest residual, without the others being kept."""
    lowest: Lowest | None = None
    for moment in _march(solver, fn, state, termination, steps=termination.max_steps):
        lowest = lower_of(lowest, moment.state, scope)
    assert lowest is not None, "a solve has at least one step"
    return lowest.z


def lower_of(lowest: Lowest | None, state: Any, scope: Scope) -> Lowest:
    """The state of lowest residual with the one that a solver is at taken into account; None: it is the first."""
    residual = relative_residual(state) if scope == "sample" else batch_relative_residual(state)
    return (lowest or Lowest.unknown(state.z)).or_lower(state.z, residual)


def following(
    solver: Solver[Any],
    state: Any,
    *,
    termination: Termination,
    resumed: bool = True,
    grown_from: Scalar | None = None,
) -> State:
    """z^[n+1] of the images whose solve goes on, z^[n] of those that have stopped; no function is called."""
    return _next(solver, state, _running(state, termination, resumed=resumed, grown_from=grown_from), termination)


def _next(
    solver: Solver[Any], state: Any, going: Tensor, termination: Termination, *, first: State | None = None
) -> State:
    proposed = solver.propose(state) if first is None else first
    return where_images(going, proposed, state.z) if termination.may_stop_early else proposed


@dataclass(frozen=True)
class _Moment:
    """The solve after a step: who took it, and who goes on."""

    state: Any
    moved: Tensor
    status: Tensor

    @property
    def going(self) -> Tensor:
        return self.status == Status.MAX_STEPS


def _march(
    solver: Solver[Any],
    fn: FixedPointMap,
    state: Any,
    termination: Termination,
    *,
    steps: int,
    first: State | None = None,
    resumed: bool = False,
    grown_from: Scalar | None = None,
) -> Iterator[_Moment]:
    stops = termination.may_stop_early
    status = _before(state, termination, resumed=resumed, grown_from=grown_from)
    going = status == Status.MAX_STEPS
    for number in range(steps):
        state = _moved(solver, fn, state, going, termination, first if number == 0 else None)
        moved = going
        if stops:
            status = torch.where(going, _verdict(state, termination, grown_from), status)
            going = status == Status.MAX_STEPS
        if number == 0 and not resumed and termination.scope == "batch":
            grown_from = batch_relative_residual(state)
        yield _Moment(state, moved, status)


def _moved(
    solver: Solver[Any], fn: FixedPointMap, state: Any, going: Tensor, termination: Termination, target: State | None
) -> Any:
    if termination.scope == "batch" and not going.any():
        return state
    stepped = solver.step(fn, state) if target is None else solver.advance(fn, state, target)
    some_may_have_stopped = termination.scope == "sample" and termination.may_stop_early
    return solver.keep(state, stepped, going) if some_may_have_stopped else stepped


def _judged(termination: Termination, resumed: bool) -> bool:
    """Whether a state may be found to have stopped before any step; the release never asks before the first one."""
    return resumed or termination.scope == "sample"


def _running(state: Any, termination: Termination, *, resumed: bool, grown_from: Scalar | None = None) -> Tensor:
    return _before(state, termination, resumed=resumed, grown_from=grown_from) == Status.MAX_STEPS


def _before(state: Any, termination: Termination, *, resumed: bool, grown_from: Scalar | None) -> Tensor:
    """The status of each image before any step is taken from a state."""
    judged = termination.may_stop_early and _judged(termination, resumed)
    return _verdict(state, termination, grown_from) if judged else _nobody(state)


def _nobody(state: Any) -> Tensor:
    """The status of images none of which has stopped."""
    return torch.full((len(state.z),), Status.MAX_STEPS, dtype=torch.int64, device=state.z.device)


@torch.no_grad()
def _verdict(state: Any, termination: Termination, grown_from: Scalar | None = None) -> Tensor:
    """The status of each image; MAX_STEPS while it goes on.

    A residual that is no number stops nothing: it is reported as NONFINITE in the end.
    """
    going = _nobody(state)
    if termination.scope == "sample":
        return torch.where(relative_residual(state) <= termination.rtol, Status.CONVERGED, going)
    residual = batch_relative_residual(state)
    if grown_from is not None:
        going = torch.where(residual > GROWTH * grown_from, Status.DIVERGED, going)
    return torch.where(residual < termination.rtol, Status.CONVERGED, going)
