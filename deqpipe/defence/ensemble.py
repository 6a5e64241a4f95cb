"""Several undefended networks that decide together: what the cost of a defence gives without it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deqpipe.compute.evaluations import Counter
from deqpipe.dynamics import Dynamics
from deqpipe.gradient.through import EXACT, Through
from deqpipe.model.interface import FixedPointModel
from deqpipe.shapes import Images, Logits, State


@dataclass(frozen=True)
class Member:
    """A network, and where it is read.

    Attributes:
        model: in evaluation mode.
        dynamics: that end at the state where it decides.
        through: how they are differentiated.
    """

    model: FixedPointModel
    dynamics: Dynamics
    through: Through = EXACT

    def along(self, x: Images) -> list[Logits]:
        """The logits of its states, the deciding one last; with gradient where that is asked for."""
        return [self.model.logits(z) for z in self._states(x)]

    def logits(self, x: Images) -> Logits:
        """Those of the deciding state alone."""
        return self.model.logits(self._states(x)[-1])

    def _states(self, x: Images) -> Sequence[State]:
        if torch.is_grad_enabled():
            return list(self.dynamics.with_gradient(self.model, x, self.through).solution.states)
        return list(self.dynamics(self.model, x, last_residual=False).solution.states)


class Ensemble(nn.Module):
    """Its logits are the logarithm of the mean of its members' softmax.

    Attributes:
        members: the networks.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Refuse what is no ensemble.

        Raises:
            ValueError: there are not two members, or they see other images or classes.
        """
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"an ensemble has {len(members)} members, but must have at least 2")
        first, *others = ((one.model.image_shape, one.model.classes) for one in members)
        for number, other in enumerate(others, start=2):
            if other != first:
                raise ValueError(f"member {number} of an ensemble has {_seen(*other)}, but the first {_seen(*first)}")
        self.members = tuple(members)

    def forward(self, x: Images) -> Logits:
        """What they decide by together; differentiable."""
        return mean_probability([member.logits(x) for member in self.members])

    def along(self, x: Images) -> list[Logits]:
        """The same at every state, of members that have decided before at their last one; the decision last."""
        every = [member.along(x) for member in self.members]
        last = max(map(len, every))
        return [mean_probability([one[min(n, len(one)) - 1] for one in every]) for n in range(1, last + 1)]


def _seen(image_shape: tuple[int, int, int], classes: int) -> str:
    return f"images of shape {image_shape} and {classes} classes"


def mean_probability(several: Sequence[Logits]) -> Logits:
    """The logarithm of the mean of some softmaxes."""
    stacked: Tensor = torch.stack([logits.log_softmax(1) for logits in several])
    return stacked.logsumexp(0) - math.log(len(several))


def counters(network: nn.Module) -> tuple[Counter, ...]:
    """Those of the evaluations of f that a network makes; none of one without an f."""
    if isinstance(network, Ensemble):
        return tuple(member.model.counter for member in network.members)
    return (network.counter,) if isinstance(network, FixedPointModel) else ()
