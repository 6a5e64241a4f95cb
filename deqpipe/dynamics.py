"""Model and solver put together: the states z^[1] .. z^[N] that images give rise to (Eq. 3)."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch

from deqpipe.gradient import Unrolled
from deqpipe.gradient.through import EXACT, Through
from deqpipe.model.interface import FixedPointModel
from deqpipe.shapes import Images, State
from deqpipe.solver.base import FixedPointMap, Solver
from deqpipe.solver.solve import Returned, Solution, Termination, reach, solve_with_gradient


@dataclass(frozen=True)
class Intervention:
    """An update of the input along the dynamics.

    Attributes:
        after: n, it follows z^[n].
        z: the state that it looks at, before z^[n] is solved again.
        fn: f(.; x) for the input in force until then.
    """

    after: int
    z: State
    fn: FixedPointMap


@dataclass(frozen=True)
class Trajectory:
    """States of the dynamics, without gradient unless they were asked for with one.

    Attributes:
        solution: the recorded states and how the solve went.
        equilibrium: z*, the state that stands for the fixed point: z^[N], or the one with the lowest residual.
        fn: f(.; x) for the input that a state behind z^[N] is computed with.
        x: the input in force at the end; differs from the received one under input entropy reduction.
        interventions: the updates of the input; kept only of states with gradient.
    """

    solution: Solution
    equilibrium: State
    fn: FixedPointMap
    x: Images
    interventions: tuple[Intervention, ...] = ()

    def state(self, n: int) -> State:
        """z^[n], counted from 1.

        Raises:
            IndexError: no such state was recorded.
        """
        recorded = len(self.solution.states)
        if not 1 <= n <= recorded:
            raise IndexError(f"state {n} was asked for, but the solver recorded states 1 to {recorded}")
        return self.solution.states[n - 1]

    @torch.no_grad()
    def final_state(self, unroll: Unrolled) -> State:
        """The final state: z*, unrolled."""
        return unroll(self.fn, self.equilibrium)


@runtime_checkable
class Dynamics(Protocol):
    """How states arise from images."""

    @property
    def termination(self) -> Termination:
        """N, and when a solve stops before."""
        ...

    @property
    def is_defended(self) -> bool:
        """Whether a defence changes the solve, so that an attack may know more than the solver's steps."""
        ...

    def up_to(self, index: int) -> "Dynamics":
        """Dynamics that share z^[1] .. z^[index] bit for bit and end there, with z^[index] as z*.

        Where there is no such state, all of them: whoever asks for the state is told.
        """
        ...

    def __call__(self, model: FixedPointModel, x: Images, *, last_residual: bool = True) -> Trajectory:
        """All states of the model on `x`, without gradient.

        Without `last_residual` the residual of z^[N] is no number, for one evaluation of f less, unless z* depends on
        it.
        """
        ...

    def with_gradient(self, model: FixedPointModel, x: Images, through: Through = EXACT) -> Trajectory:
        """All states with gradient to `x`, through the way to them; but for smoothed updates the same states.

        On a CPU they are equal bit for bit. The residual of z^[N] is no number, unless z* depends on it.
        """
        ...


@dataclass(frozen=True)
class PlainDynamics:
    """The undefended dynamics: one solve with the input as received.

    Attributes:
        solver: the fixed-point solver.
        termination: N, and when a solve stops before.
        returned: which state is z*.
    """

    solver: Solver[Any]
    termination: Termination
    returned: Returned = "last"

    @property
    def is_defended(self) -> bool:
        """By nothing."""
        return False

    @property
    def couples_images(self) -> bool:
        """Whether the states of an image depend on its batch-mates."""
        return self.termination.scope == "batch" or self.returned == "lowest_batch"

    def up_to(self, index: int) -> "PlainDynamics":
        """The dynamics that end at z^[index]."""
        if not 1 <= index <= self.termination.max_steps:
            return self
        return replace(self, termination=replace(self.termination, max_steps=index), returned="last")

    @torch.no_grad()
    def __call__(self, model: FixedPointModel, x: Images, *, last_residual: bool = True) -> Trajectory:
        """States z^[1] .. z^[N] from z^[0] = 0; N + 1 evaluations of f, without `last_residual` N."""
        return self._solved(self.solver, model.bind(x), model.initial_state(x), x, last_residual=last_residual)

    @torch.enable_grad()
    def with_gradient(self, model: FixedPointModel, x: Images, through: Through = EXACT) -> Trajectory:
        """The same states with gradient through the solver's steps."""
        start, solver = model.initial_state(x), self.solver.differentiable()
        return self._solved(solver, through.bind(model, x), start, x, last_residual=False)

    def _solved(
        self, solver: Solver[Any], fn: FixedPointMap, z0: State, x: Images, *, last_residual: bool
    ) -> Trajectory:
        start, last_residual = solver.init(fn, z0), last_residual or self.returned != "last"
        solution, _ = solve_with_gradient(solver, fn, start, termination=self.termination, last_residual=last_residual)
        return Trajectory(solution, solution.returned(self.returned), fn, x)

    def state(self, model: FixedPointModel, fn: FixedPointMap, x: Images, *, index: int) -> State:
        """z^[index] alone, with `index` evaluations of f.

        States are causal: this is bit for bit the state that the whole solve records.

        Raises:
            IndexError: the dynamics have no such state.
        """
        last = self.termination.max_steps
        if not 1 <= index <= last:
            raise IndexError(f"state {index} was asked for, but the dynamics have states 1 to {last}")
        termination = replace(self.termination, max_steps=index)
        return reach(self.solver, fn, model.initial_state(x), termination=termination)
