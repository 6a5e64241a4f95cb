"""What a decision makes of images: one value per image and state for everything that a record holds.

A judge looks at images on the device (`Seen`); what it saw goes to the host in one copy (`Judgement`).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from deqpipe.compute.host import to_host
from deqpipe.defence.entropy import prediction_entropy
from deqpipe.defence.rule import DecisionRule, decided_along, decision_at
from deqpipe.dynamics import Dynamics, Trajectory
from deqpipe.gradient import Unrolled
from deqpipe.machine import stopping
from deqpipe.model.interface import FixedPointModel
from deqpipe.results.records import NOT_COMPUTED, PER_STATE
from deqpipe.shapes import Images, Labels

StatesWithFinal = Float[Tensor, "states batch state"]
"""z^[1] .. z^[N] and the final state."""


@dataclass(frozen=True)
class Wanted:
    """What of a decision is read later on. Nothing else is computed, and a judgement has no number for it.

    Attributes:
        final: the final state, beside z^[1] .. z^[N].
        residuals: of z^[1] .. z^[N]; that of z^[N] takes an evaluation of f.
        only: one state, counted from 1, and nothing behind it.
    """

    final: bool = True
    residuals: bool = True
    only: int | None = None


EVERYTHING = Wanted()
CLASSES = Wanted(residuals=False)
"""What the head reads off all states and the final one."""
CLASSES_ALONG = Wanted(final=False, residuals=False)
"""The same without the final state."""


def at(state: int) -> Wanted:
    """What the head reads off one state."""
    return Wanted(final=False, residuals=False, only=state)


@dataclass(frozen=True)
class Judgement:
    """Per image and state, (batch, states), the final state last; as `records.PER_STATE`.

    Attributes:
        columns: predicted, margin, entropy, residual, deviation; of what was not wanted, as records have it.
        status: how the solve of each image ended (`solver.solve.Status`); 0 where there was none.
    """

    columns: dict[str, np.ndarray]
    status: np.ndarray

    def part(self, images: slice) -> "Judgement":
        """The judgement of some of the images."""
        return Judgement({name: column[images] for name, column in self.columns.items()}, self.status[images])


@dataclass(frozen=True)
class Seen:
    """A judgement on the device.

    Attributes:
        columns: those that were computed, each (some, batch), of states that follow each other.
        first: the first of these states, counted from 1.
        count: how many states a record has, the final one included.
        status: as in `Judgement`.
        states: the states themselves where all were computed; None for a network without any.
    """

    columns: Mapping[str, Tensor]
    first: int
    count: int
    status: Tensor
    states: StatesWithFinal | None = None

    def measured_from(self, reference: StatesWithFinal | None) -> "Seen":
        """The same with the deviation from other states of the same images; None: with none."""
        if self.states is None or reference is None:
            return self
        return replace(self, columns={**self.columns, "deviation": relative_deviation(self.states, reference)})

    def on_host(self) -> Judgement:
        """The judgement, by one copy."""
        copied = to_host({**self.columns, "status": self.status})
        return Judgement({name: self._column(copied, name) for name in PER_STATE}, copied["status"])

    def _column(self, copied: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        like, nothing = copied["predicted" if name == "predicted" else "margin"], _NOTHING.get(name, np.nan)
        column = np.full((like.shape[1], self.count), nothing, dtype=like.dtype)
        if name in copied:
            column[:, self.first - 1 : self.first - 1 + len(copied[name])] = copied[name].T
        return column


_NOTHING = {"predicted": NOT_COMPUTED}


@runtime_checkable
class Judge(Protocol):
    """A decision: weights and a test-time defence."""

    @property
    def decides_for(self) -> str:
        """Name of the model, in `vocabulary.MODELS`."""
        ...

    @property
    def defence(self) -> str:
        """Name of the defence, as records have it."""
        ...

    @property
    def behaviour(self) -> Hashable:
        """What the judgement depends on beside the images: judges of equal behaviour judge alike, bit for bit."""
        ...

    def restricted(self, wanted: Wanted) -> "Judge":
        """The same decision, of which less is looked at."""
        ...

    def states(self, x: Images) -> StatesWithFinal | None:
        """The states that images lead to, on the device; None for an ordinary network."""
        ...

    def see(self, x: Images, y: Labels) -> Seen:
        """The judgement of images, on the device."""
        ...

    def __call__(self, x: Images, y: Labels, reference: StatesWithFinal | None = None) -> Judgement:
        """The judgement of images; `reference` are the states of the clean images, for the deviation."""
        ...


@dataclass(frozen=True)
class DEQJudge:
    """A DEQ under some dynamics.

    Attributes:
        model: in evaluation mode.
        dynamics: plain or defended.
        defence: its name.
        unroll: from z^[N] to the final state.
        decides_for: name of the model; "" where no records are made.
        wanted: what is looked at.
        rule: what the decision goes by; None: the logits of its state. The final state stands in the place of z^[N].
    """

    model: FixedPointModel
    dynamics: Dynamics
    defence: str
    unroll: Unrolled
    decides_for: str = ""
    wanted: Wanted = EVERYTHING
    rule: DecisionRule | None = None

    @property
    def behaviour(self) -> Hashable:
        """Model, dynamics, unroll and rule, and what is looked at."""
        return self.model, self.dynamics, self.unroll, self.rule, self.wanted

    def restricted(self, wanted: Wanted) -> "DEQJudge":
        """The same decision, of which less is looked at."""
        return replace(self, wanted=wanted)

    @torch.no_grad()
    def states(self, x: Images) -> StatesWithFinal:
        """All states, and nothing about them."""
        return self._with_final(self.dynamics(self.model, x, last_residual=False))

    def __call__(self, x: Images, y: Labels, reference: StatesWithFinal | None = None) -> Judgement:
        """The judgement of images at every state that is wanted."""
        return self.see(x, y).measured_from(reference).on_host()

    @torch.no_grad()
    def see(self, x: Images, y: Labels) -> Seen:
        """The judgement, on the device."""
        if self.wanted.only is not None:
            return self._see_one(x, y, self.wanted.only)
        trajectory = self.dynamics(self.model, x, last_residual=self.wanted.residuals)
        solution = trajectory.solution
        states = self._with_final(trajectory) if self.wanted.final else solution.states
        decided = decided_along(self.model.trajectory_logits(states), self.rule, with_final=self.wanted.final)
        columns = readings(decided, y)
        columns |= {"residual": solution.residuals} if self.wanted.residuals else {}
        count = len(solution.states) + 1
        return Seen(columns, first=1, count=count, status=solution.status, states=states if self.wanted.final else None)

    def _see_one(self, x: Images, y: Labels, state: int) -> Seen:
        trajectory = self.dynamics.up_to(state)(self.model, x, last_residual=False)
        columns = readings(decision_at(self.model, trajectory, state, self.rule)[None], y)
        count = self.dynamics.termination.max_steps + 1
        return Seen(columns, first=state, count=count, status=trajectory.solution.status)

    def _with_final(self, trajectory: Trajectory) -> StatesWithFinal:
        return torch.cat([trajectory.solution.states, trajectory.final_state(self.unroll)[None]])


@dataclass(frozen=True)
class NetworkJudge:
    """An ordinary network: its only state is the final one."""

    model: nn.Module
    decides_for: str = ""
    defence: str = "plain"

    @property
    def behaviour(self) -> Hashable:
        """The network."""
        return self.model

    def restricted(self, wanted: Wanted) -> "NetworkJudge":
        """The same: there is one state alone."""
        return self

    def states(self, x: Images) -> StatesWithFinal | None:
        """None: there are no states."""
        return None

    def __call__(self, x: Images, y: Labels, reference: StatesWithFinal | None = None) -> Judgement:
        """The judgement of images."""
        return self.see(x, y).on_host()

    @torch.no_grad()
    def see(self, x: Images, y: Labels) -> Seen:
        """The judgement, on the device."""
        stopping.check()
        columns = readings(self.model(x)[None], y)
        return Seen(columns, first=1, count=1, status=torch.zeros(len(x), dtype=torch.int8, device=x.device))


def readings(logits: Float[Tensor, "states batch classes"], y: Labels) -> dict[str, Tensor]:
    """Predicted class, margin (logit of the label minus the largest other), entropy in nats; (states, batch) each.

    Logits that are not all finite predict no class: -1, which is never right.
    """
    label = y.expand(len(logits), -1)[..., None]
    own = logits.gather(2, label).squeeze(2)
    others = logits.scatter(2, label, -torch.inf).amax(2)
    return {
        "predicted": torch.where(logits.isfinite().all(2), logits.argmax(2), -1),
        "margin": own - others,
        "entropy": prediction_entropy(logits.flatten(0, 1)).unflatten(0, logits.shape[:2]),
    }


def relative_deviation(states: StatesWithFinal, reference: StatesWithFinal) -> Float[Tensor, "states batch"]:
    """norm(z - z_clean) / norm(z_clean) of every image and state (Fig. 3c)."""
    change: Tensor = (states - reference).norm(dim=2) / reference.norm(dim=2)
    return change
