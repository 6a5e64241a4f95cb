"""Differentiable stand-ins for a decision that has no gradient: the intermediate-state attacks of Eq. (11)."""

from dataclasses import dataclass

from deqpipe.dynamics import PlainDynamics
from deqpipe.gradient import StateGradient, Unrolled
from deqpipe.model.classifier import DEQClassifier
from deqpipe.shapes import Images, Logits
from deqpipe.specs import GridPoint


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

    def __call__(self, model: DEQClassifier, x: Images) -> Logits:
        """h(z_a^[i + K_a]) with gradient to `x`; z^[i] itself is a constant."""
        fn = model.bind(x)
        z = self.dynamics.state(model, fn, x, index=self.index)
        return model.logits(self.gradient(fn, z))


def surrogate_of(point: GridPoint, *, dynamics: PlainDynamics, lead_step: bool) -> IntermediateState:
    """The surrogate of one (i, K_a, lambda)."""
    gradient = Unrolled(steps=point.steps, damping=point.damping, lead_step=lead_step)
    return IntermediateState(index=point.state, gradient=gradient, dynamics=dynamics)
