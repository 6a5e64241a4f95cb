"""Input entropy reduction along the neural dynamics (Sec. 3.2): Algorithm 1, and the variant of the authors' code."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from deqpipe.config import EntropyConfig
from deqpipe.dynamics import Dynamics, Intervention, PlainDynamics, Trajectory
from deqpipe.gradient.through import EXACT, Through, moved_with
from deqpipe.model.interface import FixedPointModel
from deqpipe.settings import Settings
from deqpipe.shapes import Images, Logits, PerImage, Scalar, State
from deqpipe.solver.base import FixedPointMap, Solver
from deqpipe.solver.solve import (
    Lowest,
    Returned,
    Solution,
    Status,
    Termination,
    following,
    lower_of,
    solve_with_gradient,
)
from deqpipe.threat_model import LinfBall, ball_of
from deqpipe.workflow.defences import Defence, entropy_keys
from deqpipe.workflow.equal_cost import undefended


def prediction_entropy(logits: Logits) -> PerImage:
    """H of the softmax, in nats (Eq. 6)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@dataclass(frozen=True)
class InputDescent:
    """Descent of the input on the prediction's entropy at a state that is held constant (Eq. 8).

    Attributes:
        ball: the updated input stays in it around the received one, and in [0, 1].
        steps: R in Algorithm 1.
        step_size: beta in Eq. (8), in units of the pixel range.
        sign: step along the gradient's sign (the authors' code) or the gradient itself (Eq. 8 as written).
    """

    ball: LinfBall
    steps: int
    step_size: float
    sign: bool = True

    def __call__(self, model: FixedPointModel, z: State, x: Images, received: Images) -> Images:
        """The input after `steps` steps from `x` on H(h(f(z; x)))."""
        value = model.holding(z)
        for _ in range(self.steps):
            gradient = _entropy_gradient(model, value, x)
            direction = gradient.sign() if self.sign else gradient
            x = self.ball.project(x - self.step_size * direction, received)
        return x


def _entropy_gradient(model: FixedPointModel, value: Callable[[Images], State], x: Images) -> Tensor:
    """Gradient of H(h(f(z; x))) with respect to x, image by image; `value` is x -> f(z; x)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        entropy = prediction_entropy(model.logits(value(x))).sum()
        (gradient,) = torch.autograd.grad(entropy, x)
    return gradient


Descent: TypeAlias = Callable[[FixedPointModel, State, Images, Images], Images]
"""(model, z, input in force, received input) -> the updated input, as `InputDescent`."""
Bind: TypeAlias = Callable[[Images], FixedPointMap]
"""x -> f(.; x)."""


@dataclass(frozen=True)
class DifferentiableDescent:
    """The same updates with a gradient to the received input, and to the state that they look at.

    Attributes:
        descent: whose updates.
        through: what its gradient is (`gradient.through.Through`).
    """

    descent: InputDescent
    through: Through

    def __call__(self, model: FixedPointModel, z: State, x: Images, received: Images) -> Images:
        """The input after the descent's steps."""
        if self.through.updates == "constant":
            with torch.no_grad():
                value = self.descent(model, z.detach(), x.detach(), received.detach())
            return moved_with(value, received)
        for _ in range(self.descent.steps):
            x = self.through.apply(partial(self._step, model), z, x, received)
        return x

    def _step(self, model: FixedPointModel, z: State, x: Images, received: Images) -> Images:
        gradient = _entropy_gradient_with_graph(model, z, x)
        direction = self._signed(gradient) if self.descent.sign else gradient
        return self.descent.ball.project(x - self.descent.step_size * direction, received)

    def _signed(self, gradient: Tensor) -> Tensor:
        """The gradient's sign as `through` has it."""
        mean = gradient.detach().abs().flatten(1).mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        soft = gradient / mean[:, None, None, None]
        if self.through.updates == "smoothed":
            return torch.tanh(self.through.sharpness * soft)
        return gradient.detach().sign() + (soft - soft.detach())


def _entropy_gradient_with_graph(model: FixedPointModel, z: State, x: Images) -> Tensor:
    """The same with a graph behind it: a second backward pass goes through it, to x and to z.

    z is a constant where the gradient is taken, though it comes from x: hence an input of its own.
    """
    with torch.enable_grad():
        own = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        entropy = prediction_entropy(model.logits(model.bind(own).eager(z))).sum()
        (gradient,) = torch.autograd.grad(entropy, own, create_graph=True)
    model.counter.count_second_pass(gradient)
    return gradient


@dataclass(frozen=True)
class Schedule:
    """When the input is updated, and what of the solve the update looks at.

    Attributes:
        solver_steps: T_f in Algorithm 1: the input is updated after every so many solver steps.
        update_last: update after z^[N] too and solve it again; otherwise that update is left out.
        lowest: the entropy is taken at the state of lowest residual of a round (the steps since the update before), by
            the termination's scope; otherwise at the round's last state.
        final_updated: the final state is unrolled with the updated input, otherwise with the received one.
    """

    solver_steps: int
    update_last: bool = True
    lowest: bool = False
    final_updated: bool = True

    def due(self, n: int, *, last: int) -> bool:
        """Whether the input is updated after z^[n] of z^[last]."""
        return n % self.solver_steps == 0 and (n < last or self.update_last)


@dataclass(frozen=True)
class InputEntropyReduction:
    """Algorithm 1: dynamics that update the input every few steps, so that the prediction's entropy falls.

    After z^[t+1] with t + 1 a multiple of T_f the input descends. Then z^[t+1] is solved again: from z^[t] and the
    memory before that step, with residuals of the new input (line 13). Without descent steps: the plain dynamics.

    Attributes:
        solver: the fixed-point solver.
        termination: N, and when a solve stops before.
        descent: of the input.
        schedule: when it descends.
        returned: which state is z*.
    """

    solver: Solver[Any]
    termination: Termination
    descent: InputDescent
    schedule: Schedule
    returned: Returned = "last"

    @property
    def is_defended(self) -> bool:
        """By updates of the input."""
        return True

    def up_to(self, index: int) -> "InputEntropyReduction":
        """The dynamics that end at z^[index]: line 13 solves every state again that an update follows, so this one."""
        return _up_to(self, index, update_last=True)

    @torch.no_grad()
    def __call__(self, model: FixedPointModel, x: Images, *, last_residual: bool = True) -> Trajectory:
        """States z^[1] .. z^[N] under the updated inputs; z^[t+1] is recorded as solved again."""
        return self._run(model, x, self.descent, model.bind, last_residual=last_residual)

    @torch.enable_grad()
    def with_gradient(self, model: FixedPointModel, x: Images, through: Through = EXACT) -> Trajectory:
        """The same states with gradient through the solver's steps and the updates."""
        return _with_gradient(self, model, x, through)

    def _run(
        self,
        model: FixedPointModel,
        x: Images,
        descent: Descent,
        bind: Bind,
        *,
        last_residual: bool,
        keep: bool = False,
    ) -> Trajectory:
        last, last_residual = self.termination.max_steps, last_residual or self.returned != "last"
        received = bind(x)
        x_now, fn = x, received
        state = self.solver.init(fn, model.initial_state(x))
        lowest: Lowest | None = None
        segments: list[Solution] = []
        interventions: list[Intervention] = []
        for n in range(1, last + 1):
            updated = bool(self.descent.steps) and self.schedule.due(n, last=last)
            if updated:
                z = self._provisional(fn, state, lowest, segments)
                interventions += [Intervention(n, z, fn)] if keep else []
                x_now = descent(model, z, x_now, x)
                fn = bind(x_now)
                state, lowest = self.solver.reevaluate(fn, state), None
            segment, state = self._step(fn, state, segments, residual=last_residual or n < last)
            if not updated and n < last:
                lowest = lower_of(lowest, state, self.termination.scope)
            segments.append(segment)
        solution = _joined(segments)
        final = fn if self.schedule.final_updated else received
        return Trajectory(solution, solution.returned(self.returned), final, x_now, tuple(interventions))

    def _provisional(self, fn: FixedPointMap, state: Any, lowest: Lowest | None, done: list[Solution]) -> State:
        """The state that the entropy is taken at: z^[t+1] before it is solved again, or the lowest of its round."""
        if not self.schedule.lowest:
            return following(
                self.solver, state, termination=self.termination, resumed=bool(done), grown_from=_grown_from(done)
            )
        _, stepped = self._step(fn, state, done)
        return lower_of(lowest, stepped, self.termination.scope).z

    def _step(
        self, fn: FixedPointMap, state: Any, done: list[Solution], *, residual: bool = True
    ) -> tuple[Solution, Any]:
        one, before = replace(self.termination, max_steps=1), _grown_from(done)
        return solve_with_gradient(
            self.solver, fn, state, termination=one, resumed=bool(done), grown_from=before, last_residual=residual
        )


R = TypeVar("R", "InputEntropyReduction", "RestartedEntropyReduction")


def _up_to(dynamics: R, index: int, *, update_last: bool) -> R:
    """The dynamics that end at z^[index]; `update_last`: whether an update that follows it solves it again."""
    last = dynamics.termination.max_steps
    if not 1 <= index <= last:
        return dynamics
    schedule = dynamics.schedule if index == last else replace(dynamics.schedule, update_last=update_last)
    termination = replace(dynamics.termination, max_steps=index)
    return replace(dynamics, termination=termination, returned="last", schedule=schedule)


def _with_gradient(
    dynamics: "InputEntropyReduction | RestartedEntropyReduction", model: FixedPointModel, x: Images, through: Through
) -> Trajectory:
    """Their own loop, with a solver and a descent that can be differentiated."""
    differentiable = replace(dynamics, solver=dynamics.solver.differentiable())
    descent = DifferentiableDescent(dynamics.descent, through)
    return differentiable._run(model, x, descent, partial(through.bind, model), last_residual=False, keep=True)


def _grown_from(done: list[Solution]) -> Scalar | None:
    """The batch's residual after the first step of a solve in segments."""
    return done[0].batch_residuals[0] if done else None


@dataclass(frozen=True)
class RestartedEntropyReduction:
    """Sec. 3.2 as the authors' code has it: every round of T_f steps is a solve of its own.

    A round starts at the last state of the one before (or at its lowest, `Schedule.lowest`). Its first step uses the
    memory that is left, then the memory starts anew. Between rounds the input descends, no state is solved again, and
    the newest entry of the memory is corrected to the new input. So the states differ from the plain ones even if the
    input never changes, and a single round (T_f = N) is the plain solve bit for bit.

    Attributes:
        solver: the fixed-point solver.
        termination: N, and when a round stops before.
        descent: of the input.
        schedule: when it descends. With `update_last` z^[N] is solved again as in Algorithm 1.
        returned: which state of the last round is z*.
    """

    solver: Solver[Any]
    termination: Termination
    descent: InputDescent
    schedule: Schedule
    returned: Returned = "last"

    @property
    def is_defended(self) -> bool:
        """By updates of the input, or by restarts alone."""
        return True

    def up_to(self, index: int) -> "RestartedEntropyReduction":
        """The dynamics that end at z^[index], which remains as it is: only z^[N] is solved again, if at all."""
        return _up_to(self, index, update_last=False)

    @torch.no_grad()
    def __call__(self, model: FixedPointModel, x: Images, *, last_residual: bool = True) -> Trajectory:
        """States z^[1] .. z^[N], round by round."""
        return self._run(model, x, self.descent, model.bind, last_residual=last_residual)

    @torch.enable_grad()
    def with_gradient(self, model: FixedPointModel, x: Images, through: Through = EXACT) -> Trajectory:
        """The same states with gradient through the rounds and the updates."""
        return _with_gradient(self, model, x, through)

    def _run(
        self,
        model: FixedPointModel,
        x: Images,
        descent: Descent,
        bind: Bind,
        *,
        last_residual: bool,
        keep: bool = False,
    ) -> Trajectory:
        last, last_residual = self.termination.max_steps, last_residual or self.returned != "last"
        received = bind(x)
        x_now, fn = x, received
        state = self.solver.init(fn, model.initial_state(x))
        rounds: list[Solution] = []
        interventions: list[Intervention] = []
        for length in self._lengths():
            n = sum(len(done.states) for done in rounds) + length
            due = self.schedule.due(n, last=last)
            before, (solution, state) = state, self._round(fn, state, length, residual=last_residual or n < last or due)
            rounds.append(solution)
            if not due:
                continue
            z = solution.lowest(self.termination.scope) if self.schedule.lowest else solution.z
            interventions += [Intervention(n, z, fn)] if keep else []
            x_now = descent(model, z, x_now, x)
            previous, fn = fn, bind(x_now)
            if n < last:
                # Release: where the lowest state is not the last one, the correction mixes the new residual at the
                # former with the old one and the step of the latter (mdeq_core.py:509-516).
                state = self.solver.rebase(fn, replace(state, z=z))
            else:
                rounds[-1] = self._solved_again(previous, fn, before, length, residual=last_residual)
        final = fn if self.schedule.final_updated else received
        return Trajectory(_joined(rounds), rounds[-1].returned(self.returned), final, x_now, tuple(interventions))

    def _lengths(self) -> list[int]:
        """Steps of each round; what is left over by T_f is a shorter last one."""
        total, length = self.termination.max_steps, self.schedule.solver_steps
        return [min(length, total - start) for start in range(0, total, length)]

    def _round(self, fn: FixedPointMap, state: Any, length: int, *, residual: bool = True) -> tuple[Solution, Any]:
        """A solve from z^[n]: its first step uses the memory there is, the others only what the round has added."""
        first = self.solver.propose(state)
        steps = replace(self.termination, max_steps=length)
        return solve_with_gradient(
            self.solver, fn, self.solver.forget(state), termination=steps, first=first, last_residual=residual
        )

    def _solved_again(
        self, previous: FixedPointMap, fn: FixedPointMap, state: Any, length: int, *, residual: bool
    ) -> Solution:
        """The last round, whose last state is solved again from the one before, with residuals of the new input."""
        if length == 1:
            return self._round(fn, self.solver.reevaluate(fn, state), 1, residual=residual)[0]
        head, state = self._round(previous, state, length - 1)
        tail, _ = solve_with_gradient(
            self.solver, fn, self.solver.reevaluate(fn, state), termination=replace(self.termination, max_steps=1),
            resumed=True, grown_from=_grown_from([head]), last_residual=residual,
        )  # fmt: skip
        return _joined([head, tail])


def _joined(segments: list[Solution]) -> Solution:
    """The states of all segments as one; how the last one ended, unless numbers were lost in any."""
    status = torch.stack([segment.status for segment in segments])
    broken = (status == Status.NONFINITE).any(0)
    return Solution(
        states=torch.cat([segment.states for segment in segments]),
        residuals=torch.cat([segment.residuals for segment in segments]),
        batch_residuals=torch.cat([segment.batch_residuals for segment in segments]),
        moved=torch.cat([segment.moved for segment in segments]),
        status=torch.where(broken, Status.NONFINITE, status[-1]),
    )


def build_entropy_reduction(
    config: EntropyConfig, *, solver: Solver[Any], termination: Termination, ball: LinfBall, returned: Returned
) -> Dynamics:
    """The defence that a config describes."""
    descent = InputDescent(ball, config.input_steps, config.step_size_255 / 255, sign=config.step == "sign")
    schedule = Schedule(
        solver_steps=config.solver_steps,
        update_last=config.last_update == "resolve",
        lowest=config.state == "lowest",
        final_updated=config.final_input == "updated",
    )
    kind = InputEntropyReduction if config.resolve == "alg1" else RestartedEntropyReduction
    return kind(solver, termination, descent, schedule, returned)


def defended(plain: PlainDynamics, config: EntropyConfig, ball: LinfBall) -> Dynamics:
    """Sec. 3.2 on top of the undefended dynamics; these themselves where both are the same bit for bit."""
    if undefended(config, steps=plain.termination.max_steps):
        return plain
    return build_entropy_reduction(
        config, solver=plain.solver, termination=plain.termination, ball=ball, returned=plain.returned
    )


def build(settings: Settings, plain: PlainDynamics, defence: Defence) -> Dynamics:
    """Sec. 3.2, or a control of it, from the settings of a job (`deqpipe.build.dynamics`)."""
    entropy = settings.section("entropy", EntropyConfig)
    keys = entropy_keys(defence.name, entropy, steps=plain.termination.max_steps)
    assert keys is not None, f"{defence.name} is no variant of Sec. 3.2"
    return defended(plain, keys, ball_of(settings))
