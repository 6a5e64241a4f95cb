"""What somebody says of a model: itself, its solver and defence, the state that decides, epsilon, normalisation."""

import math
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
        """Refuse values of another kind, and a ball without a point; what depends on images and states comes later.

        Raises:
            UserError: one of them is.
        """
        if not isinstance(self.model, nn.Module):
            raise UserError(f"model is a {type(self.model).__name__}, but must be a torch.nn.Module")
        if not (_is_number(self.epsilon_255) and 0 < self.epsilon_255 <= 255):
            raise UserError(f"epsilon_255 is {self.epsilon_255!r}, but must be a number above 0 and at most 255")
        if self.solver is not None and not isinstance(self.solver, Mapping):
            raise UserError(f'solver is {self.solver!r}, but must be keys and values such as {{"name": "broyden"}}')
        _refuse_no_defence(self.defence)
        if self.state is not None and not (type(self.state) is int and self.state >= 1):
            raise UserError(f"state is {self.state!r}, but must be a whole number from 1 on, or None for the last")
        _refuse_no_channels("mean", self.mean)
        _refuse_no_channels("std", self.std)
        if not isinstance(self.name, str):
            raise UserError(f"name is {self.name!r}, but must be text")

    @property
    def ball(self) -> LinfBall:
        """The threat model."""
        return LinfBall(self.epsilon_255 / 255)


def _is_number(value: object) -> bool:
    """Whether it is a finite number; True and False are none."""
    return type(value) is not bool and isinstance(value, int | float) and math.isfinite(value)


def _refuse_no_channels(name: str, value: object) -> None:
    if value is None or (isinstance(value, list | tuple) and value and all(map(_is_number, value))):
        return
    raise UserError(f"{name} is {value!r}, but must be a list of numbers, one per channel")


def _refuse_no_defence(value: object) -> None:
    if value is None or isinstance(value, Mapping | Dynamics) or callable(value):
        return
    raise UserError(
        f"defence is {value!r}, but must be a deqpipe.dynamics.Dynamics, a function (plain, ball) -> Dynamics, or keys "
        'of Sec. 3.2 such as {"solver_steps": 2}'
    )


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
    keys = dict(SOLVER if solver is None else solver)
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
