"""What somebody says of a model: itself, its solver and defence, the state that decides, epsilon, normalisation."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from pydantic import ValidationError
from torch import nn

from deqpipe import build
from deqpipe.config import EntropyConfig, parse_solver
from deqpipe.defence.entropy import defended
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.errors import UserError
from deqpipe.model.architecture import reason
from deqpipe.threat_model import LinfBall

Defence: TypeAlias = Dynamics | Callable[[PlainDynamics, LinfBall], Dynamics] | Mapping[str, Any] | None
"""Dynamics; what makes them of the undefended ones and the ball; or keys of Sec. 3.2 (config.yaml, `entropy`)."""

SOLVER: Mapping[str, Any] = {"name": "anderson", "steps": 20}
_REST: Mapping[str, Any] = {"tolerance": 0.0, "scope": "sample", "returned": "last"}
_MEMORY = 5
ENTROPY: Mapping[str, Any] = {
    "solver_steps": 2, "input_steps": 10, "step_size_255": 2.0, "step": "sign", "resolve": "alg1",
    "last_update": "resolve", "state": "last", "final_input": "updated", "controls": False,
}  # fmt: skip
"""Sec. 3.2 as the paper has it."""
EPSILON_255 = 8.0


@dataclass(frozen=True)
class Description:
    """A model and what is said of it.

    Attributes:
        model: with states (`model.interface.UserModel`), or a network images -> logits.
        solver: keys of config.yaml's `solver`; None: `SOLVER`.
        defence: other dynamics; None: none.
        state: that decides, counted from 1; None: the last.
        epsilon_255: radius of the l-infinity ball, in 1/255 of the pixel range.
        mean: is subtracted from images in [0, 1], one number per channel; None: nothing is.
        std: what is left is divided by, likewise.
        name: of the model, for the card.
        source: stands for the code that it is made of, where that is known.
    """

    model: nn.Module
    solver: Mapping[str, Any] | None = None
    defence: Defence = None
    state: int | None = None
    epsilon_255: float | int = EPSILON_255
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    name: str = "model"
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no model, and a ball without a point.

        Raises:
            UserError: it is.
        """
        if not isinstance(self.model, nn.Module):
            raise UserError(f"model is a {type(self.model).__name__}, but must be a torch.nn.Module")
        if not (isinstance(self.epsilon_255, int | float) and 0 < self.epsilon_255 <= 255):
            raise UserError(f"epsilon_255 is {self.epsilon_255!r}, but must be above 0 and at most 255")

    @property
    def ball(self) -> LinfBall:
        """The threat model."""
        return LinfBall(self.epsilon_255 / 255)


SAID = tuple(one.name for one in fields(Description) if one.name != "source")
"""Names that a file may give a value to."""


def named_defence(defence: Defence) -> Any:
    """A defence as JSON values that are the same in every process."""
    if defence is None or isinstance(defence, Mapping):
        return defence if defence is None else dict(defence)
    name = getattr(defence, "__qualname__", None)
    return name or re.sub(r" at 0x[0-9a-f]+", "", repr(defence))


def plain_dynamics(solver: Mapping[str, Any] | None) -> PlainDynamics:
    """The undefended dynamics that a solver's keys ask for.

    Raises:
        UserError: there is no such solver, or it couples the images of a batch.
    """
    keys = dict(solver or SOLVER)
    memory = {"memory": _MEMORY} if keys.get("name") == "anderson" else {}
    try:
        config = parse_solver({**_REST, **memory, **keys})
    except ValidationError as error:
        raise UserError(f"solver is {keys}: {reason(error)}") from None
    plain = PlainDynamics(build.build_solver(config), build.build_termination(config), config.returned)
    if plain.couples_images:
        raise UserError(f"solver is {keys}, which couples the images of a batch: an image must decide by itself")
    return plain


def dynamics(defence: Defence, plain: PlainDynamics, ball: LinfBall) -> Dynamics:
    """The dynamics that decide.

    Raises:
        UserError: they are none.
    """
    if defence is None:
        return plain
    if isinstance(defence, Mapping):
        try:
            return defended(plain, EntropyConfig.model_validate({**ENTROPY, **defence}), ball)
        except ValidationError as error:
            raise UserError(f"defence is {dict(defence)}: {reason(error)}") from None
    made = defence if isinstance(defence, Dynamics) else defence(plain, ball)
    if not isinstance(made, Dynamics):
        raise UserError(f"defence is a {type(made).__name__}, but must be a deqpipe.dynamics.Dynamics")
    return made
