"""Differentiable stand-ins for a decision that has no gradient: the intermediate-state attacks of Eq. (11)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from deqpipe.defence.rule import DecisionRule
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.gradient import StateGradient, Unrolled
from deqpipe.model.interface import FixedPointModel
from deqpipe.shapes import Images, Logits, State
from deqpipe.workflow.gridpoints import GridPoint


@dataclass(frozen=True)
class IntermediateState:
    """Logits of z^[i], made differentiable.

    Attributes:
        index: i in Eq. (11), counted from 1.
        gradient: the unroll behind it.
        dynamics: the undefended dynamics that z^[i] belongs to.
    """

    index: int
    gradient: StateGradient
    dynamics: PlainDynamics

    def __call__(self, model: FixedPointModel, x: Images) -> Logits:
        """h(z_a^[i + K_a]) with gradient to `x`; z^[i] itself is a constant."""
        fn = model.bind(x)
        z = self.dynamics.state(model, fn, x, index=self.index)
        return model.logits(self.gradient(fn, z))


@dataclass(frozen=True)
class StackedStates:
    """Logits of several surrogates of one state, each on its own part of the batch.

    They share the solve, and every application of f in the unroll is one for all parts that are still unrolled.

    Attributes:
        index: i in Eq. (11), counted from 1.
        gradients: the unrolls, the longest first; they differ in their steps only.
        dynamics: the undefended dynamics that z^[i] belongs to.
    """

    index: int
    gradients: tuple[Unrolled, ...]
    dynamics: PlainDynamics

    def __post_init__(self) -> None:
        """Refuse unrolls that cannot be stacked.

        Raises:
            ValueError: they differ in more than their steps, or a longer one follows a shorter one.
        """
        steps = [one.steps for one in self.gradients]
        same = {(one.damping, one.lead_step) for one in self.gradients}
        if len(same) != 1 or steps != sorted(steps, reverse=True):
            raise ValueError(f"unrolls are {self.gradients}, but must differ in steps only, the longest first")

    def __call__(self, model: FixedPointModel, x: Images) -> Logits:
        """h(z_a^[i + K_a]) of each part of `x` (equal parts, one per unroll), with gradient to `x`."""
        fn, part = model.bind(x), len(x) // len(self.gradients)
        z = self.dynamics.state(model, fn, x, index=self.index).detach()
        done: list[State] = []
        before, lead = 0, self.gradients[0].lead_step
        for number in reversed(range(len(self.gradients))):  # the shortest unroll lies last, and leaves first
            count, steps = (number + 1) * part, self.gradients[number].steps
            more = replace(self.gradients[number], steps=steps - before, lead_step=lead and not done)
            z = more.onwards(fn.of_first(count) if count < len(x) else fn, z)
            done.append(z[number * part :])
            z, before = z[: number * part], steps
        return model.logits(torch.cat(done[::-1]))


@dataclass(frozen=True)
class DefendedState:
    """Logits of z^[i] of any dynamics, made differentiable at the input as received.

    z^[i] has seen every update of the input up to its step; its unroll, and so the gradient, is of f(.; x), x as
    received.

    Attributes:
        index: i in Eq. (11), counted from 1.
        gradient: the unroll behind it.
        dynamics: what z^[i] belongs to.
        rule: what decisions go by; None: the logits of a state. It gets those of z^[1] .. z^[i-1], which are constants,
            and of the unrolled z^[i].
    """

    index: int
    gradient: StateGradient
    dynamics: Dynamics
    rule: DecisionRule | None = None

    def __call__(self, model: FixedPointModel, x: Images) -> Logits:
        """h(U(z^[i], x)) with gradient to `x`; z^[i] itself is a constant."""
        along = self.dynamics.up_to(self.index)(model, x, last_residual=False)
        last = model.logits(self.gradient(model.bind(x), along.state(self.index)))
        if self.rule is None:
            return last
        before = [model.logits(along.state(number)).detach() for number in range(1, self.index)]
        return self.rule(torch.stack([*before, last]))


def stacked_surrogate_of(points: Sequence[GridPoint], *, dynamics: PlainDynamics, lead_step: bool) -> StackedStates:
    """The surrogates of several (i, K_a, lambda) with one i and one lambda, the largest K_a first."""
    return StackedStates(
        index=points[0].state, gradients=tuple(_unroll(point, lead_step) for point in points), dynamics=dynamics
    )


def surrogate_of(point: GridPoint, *, dynamics: PlainDynamics, lead_step: bool) -> IntermediateState:
    """The surrogate of one (i, K_a, lambda)."""
    return IntermediateState(index=point.state, gradient=_unroll(point, lead_step), dynamics=dynamics)


def defended_surrogate_of(
    point: GridPoint, *, dynamics: Dynamics, lead_step: bool, rule: DecisionRule | None = None
) -> DefendedState:
    """The surrogate of one (i, K_a, lambda) that is computed through a defence."""
    return DefendedState(index=point.state, gradient=_unroll(point, lead_step), dynamics=dynamics, rule=rule)


def _unroll(point: GridPoint, lead_step: bool) -> Unrolled:
    return Unrolled(steps=point.steps, damping=point.damping, lead_step=lead_step)
