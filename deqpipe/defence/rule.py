"""What a decision goes by, where that is more than the logits of one state."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deqpipe import extending
from deqpipe.dynamics import Trajectory
from deqpipe.errors import UserError
from deqpipe.machine import faults
from deqpipe.model.interface import FixedPointModel
from deqpipe.shapes import Logits

Along = Float[Tensor, "step batch classes"]
"""What the head reads off z^[1], z^[2], ..."""
_IMAGES = 4


@dataclass(frozen=True)
class DecisionRule:
    """A rule from a user's file.

    Attributes:
        defence: whose, for messages.
        decide: logits (n, batch, classes) of z^[1] .. z^[n] -> logits (batch, classes) of the decision at state n.
    """

    defence: str
    decide: Callable[[Along], Logits]

    def __call__(self, along: Along) -> Logits:
        """What the decision at the last of some states goes by.

        Raises:
            UserError: the user's function ends with an exception, or gives something else than logits of every image.
        """
        try:
            decided = self.decide(along)
        except Exception as error:
            mistake = extending.explained(error)
            if mistake is None or faults.is_out_of_memory(error):
                raise
            raise UserError(
                f"{mistake} (decide of defence {self.defence}, logits of shape {tuple(along.shape)})"
            ) from error
        if not isinstance(decided, Tensor) or decided.shape != along.shape[1:]:
            gave = f"shape {tuple(decided.shape)}" if isinstance(decided, Tensor) else f"a {type(decided).__name__}"
            raise self._error(f"gives {gave} for logits of shape {tuple(along.shape)}", tuple(along.shape[1:]))
        return decided

    def at_every_state(self, along: Along) -> Along:
        """What the decision would go by at each of the states."""
        return torch.stack([self(along[:n]) for n in range(1, len(along) + 1)])

    def at_final(self, along: Along) -> Logits:
        """What the decision at the final state goes by; `along` holds z^[1] .. z^[N] and that one.

        It takes the place of z^[N], which it goes on from: no rule is asked about more than N states.
        """
        return self(torch.cat([along[:-2], along[-1:]]))

    @torch.enable_grad()
    def check(self, states: int, classes: int) -> None:
        """Try it on logits that are made up, at every state.

        Args:
            states: N.
            classes: of the images.

        Raises:
            UserError: it fails, gives something else than logits or what is no number, draws at random, has no
                gradient, or lets images influence each other.
        """
        generator = torch.Generator().manual_seed(0)
        along = torch.randn(states, _IMAGES, classes, generator=generator)
        for n in range(1, states + 1):
            together = self(along[:n].clone().requires_grad_())
            if not together.isfinite().all():
                raise self._error("gives what is no number for finite logits", "finite ones")
            if not torch.equal(self(along[:n]), together):
                raise self._error("gives other logits when it is asked again", "the same")
            alone = torch.cat([self(along[:n, image : image + 1]) for image in range(_IMAGES)])
            if not torch.allclose(together, alone, atol=1e-5):
                raise self._error("gives an image other logits beside others than alone", "the same")
            if not together.requires_grad:
                raise self._error("has no gradient", "one: attacks that know the defence need it")

    def _error(self, what: str, allowed: object) -> UserError:
        return extending.mistake(extending.Defence, self.defence, f"decide {what}, but must give {allowed}")


def decision_at(model: FixedPointModel, along: Trajectory, state: int, rule: DecisionRule | None) -> Logits:
    """What a decision at one state goes by, with gradient where the states have one.

    Raises:
        IndexError: there is no such state.
    """
    z = along.state(state)
    return model.logits(z) if rule is None else rule(model.trajectory_logits(along.solution.states[:state]))


def decided_along(along: Along, rule: DecisionRule | None, *, with_final: bool = False) -> Along:
    """What decisions go by at each state: without a rule, the logits of that state.

    Args:
        along: what the head reads off each.
        rule: of the decisions.
        with_final: whether the last is the final state.
    """
    if rule is None:
        return along
    if not with_final:
        return rule.at_every_state(along)
    return torch.cat([rule.at_every_state(along[:-1]), rule.at_final(along)[None]])
