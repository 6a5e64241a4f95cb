"""A defence of one's own that changes the states: two damped steps behind each of them."""

from dataclasses import dataclass, replace
from typing import Any

from deqpipe.extending import Defence

STEPS, DAMPING = 2, 0.3


@dataclass(frozen=True)
class Settled:
    """Undefended dynamics of which every state goes on a little towards the fixed point."""

    plain: Any

    @property
    def termination(self) -> Any:
        """N, and when a solve stops before."""
        return self.plain.termination

    @property
    def is_defended(self) -> bool:
        """The suite then attacks it as a defence: with attacks that know it, and with some that do not."""
        return True

    def up_to(self, index: int) -> "Settled":
        """The dynamics that end at z^[index]."""
        return Settled(self.plain.up_to(index))

    def __call__(self, model: Any, x: Any, *, last_residual: bool = True) -> Any:
        """States of images, without gradient."""
        import torch

        with torch.no_grad():
            return self.settled(self.plain(model, x, last_residual=last_residual))

    def with_gradient(self, model: Any, x: Any, *through: Any) -> Any:
        """The same states, with gradient to the images."""
        return self.settled(self.plain.with_gradient(model, x, *through))

    def settled(self, along: Any) -> Any:
        """What becomes of a trajectory; `along.fn` is f(.; x)."""
        import torch

        states = along.solution.states
        for _ in range(STEPS):
            states = torch.stack([z + DAMPING * (along.fn(z) - z) for z in states])
        unknown = torch.full_like(along.solution.residuals, torch.nan)
        solution = replace(along.solution, states=states, residuals=unknown)
        return replace(along, solution=solution, equilibrium=states[-1])


def settle(plain: Any, settings: Any) -> Settled:
    """The dynamics of this defence, from the undefended ones."""
    return Settled(plain)


SETTLED = Defence("settled", "two damped steps", dynamics=settle, evaluations=1.0 + STEPS)
