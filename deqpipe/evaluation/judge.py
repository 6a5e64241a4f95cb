"""What a decision makes of images: one value per image and state for everything that a record holds."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from deqpipe.defence.entropy import prediction_entropy
from deqpipe.dynamics import Dynamics
from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier
from deqpipe.shapes import Images, Labels
from deqpipe.solver.base import residual_ratio

StatesWithFinal = Float[Tensor, "states batch state"]
"""z^[1] .. z^[N] and the final state."""


@dataclass(frozen=True)
class Judgement:
    """Per image and state, (batch, states), the final state last; as `records.PER_STATE`.

    Attributes:
        columns: predicted, margin, entropy, residual, deviation.
        states: the states themselves; None for a network without any.
        status: how the solve of each image ended (`solver.solve.Status`); 0 where there was none.
    """

    columns: dict[str, np.ndarray]
    states: StatesWithFinal | None
    status: np.ndarray

    def part(self, images: slice) -> "Judgement":
        """The judgement of some of the images, without their states."""
        columns = {name: column[images] for name, column in self.columns.items()}
        return Judgement(columns, None, self.status[images])

    def measured_from(self, reference: StatesWithFinal | None) -> "Judgement":
        """The same with the deviation from other states of the same images; None: with none."""
        if self.states is None or reference is None:
            return replace(self, columns=self.columns | {"deviation": np.full_like(self.columns["margin"], np.nan)})
        deviation = relative_deviation(self.states, reference).T.cpu().numpy()
        return replace(self, columns=self.columns | {"deviation": deviation})


@runtime_checkable
class Judge(Protocol):
    """A decision: weights and a test-time defence."""

    @property
    def decides_for(self) -> str:
        """Name of the model, in `specs.MODELS`."""
        ...

    @property
    def defence(self) -> str:
        """Name of the defence, as records have it."""
        ...

    @property
    def behaviour(self) -> Hashable:
        """What the judgement depends on beside the images: judges of equal behaviour judge alike, bit for bit."""
        ...

    def __call__(self, x: Images, y: Labels, reference: StatesWithFinal | None) -> Judgement:
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
    """

    model: DEQClassifier
    dynamics: Dynamics
    defence: str
    unroll: Unrolled
    decides_for: str = ""

    @property
    def behaviour(self) -> Hashable:
        """Model, dynamics and unroll."""
        return self.model, self.dynamics, self.unroll

    @torch.no_grad()
    def __call__(self, x: Images, y: Labels, reference: StatesWithFinal | None) -> Judgement:
        """The judgement of images at every state."""
        trajectory = self.dynamics(self.model, x)
        final = trajectory.final_state(self.unroll)
        states = torch.cat([trajectory.solution.states, final[None]])
        image = trajectory.fn(final)
        last = residual_ratio(image - final, image)
        residual = torch.cat([trajectory.solution.residuals, last[None]])
        columns = readings(self.model.trajectory_logits(states), y)
        columns["residual"] = residual
        columns["deviation"] = relative_deviation(states, reference)
        status = trajectory.solution.status.cpu().numpy()
        return Judgement({name: column.T.cpu().numpy() for name, column in columns.items()}, states, status)


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

    @torch.no_grad()
    def __call__(self, x: Images, y: Labels, reference: StatesWithFinal | None) -> Judgement:
        """The judgement of images."""
        columns = readings(self.model(x)[None], y)
        nothing = torch.full((1, len(x)), torch.nan)
        columns |= {"residual": nothing, "deviation": nothing}
        arrays = {name: column.T.cpu().numpy() for name, column in columns.items()}
        return Judgement(arrays, None, status=np.zeros(len(x), np.int8))


def readings(logits: Float[Tensor, "states batch classes"], y: Labels) -> dict[str, Tensor]:
    """Predicted class, margin (logit of the label minus the largest other), entropy in nats; (states, batch) each.

    Logits that are not all finite predict no class: -1, which is never right.
    """
    label = y.expand(len(logits), -1)[..., None]
    own = logits.gather(2, label).squeeze(2)
    others = logits.scatter(2, label, -torch.inf).amax(2)
    entropy = torch.stack([prediction_entropy(of_state) for of_state in logits])
    return {
        "predicted": torch.where(logits.isfinite().all(2), logits.argmax(2), -1),
        "margin": own - others,
        "entropy": entropy,
    }


def relative_deviation(states: StatesWithFinal, reference: StatesWithFinal | None) -> Float[Tensor, "states batch"]:
    """norm(z - z_clean) / norm(z_clean) of every image and state (Fig. 3c); NaN without a reference."""
    if reference is None:
        return torch.full(states.shape[:2], torch.nan)
    change: Tensor = (states - reference).norm(dim=2) / reference.norm(dim=2)
    return change
