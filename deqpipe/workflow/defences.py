"""Defences at test time, one value each: what the program needs to know of a defence stands here, and nowhere else.

A defence of a DEQ is a `Dynamics` (deqpipe/dynamics.py). Its value names the function that makes it, as nothing here
imports torch; `deqpipe.build` looks it up where a job computes. What is not declared here is no defence: an error, and
never the undefended model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from deqpipe import extending
from deqpipe.config import PROTOCOLS, EntropyConfig
from deqpipe.errors import UserError
from deqpipe.workflow.equal_cost import times_as_long

DefenceName: TypeAlias = str
"""A key of `DEFENCES`, or the name of a defence of one's own (deqpipe/extending)."""

Adjust: TypeAlias = Callable[[EntropyConfig, int], EntropyConfig]
"""The keys of Sec. 3.2 that a variant of it runs with, from the configured ones and N."""


@dataclass(frozen=True)
class Defence:
    """How states arise from images when a decision is taken.

    Attributes:
        name: in records, specs and file names.
        label: in tables, behind the name of the training method.
        build: `module:function` that makes its dynamics (see `deqpipe.build.dynamics`), or of one's own the function
            itself; None: the undefended ones.
        keys: of the configuration that its dynamics depend on, beside the solver's.
        adjust: of the keys of Sec. 3.2, if it is a variant of that.
        cost: evaluations of f of a decision, as a multiple of the undefended one's, if it is no such variant: those
            are counted by formulas.
        published: whether the paper has numbers of it.
        control_of: the defence whose point it lacks, if it is a control: attacked images are scored on it beside that
            one, and it decides at that one's early state.
        attacked: when the suite attacks it as a decision of its own, if it is a control; None: never.
        matched_to: the defence that it costs at most as much as, if it is a baseline of that cost: the suite alone
            attacks it, at its last state if it is a longer solve.
        of_seeds: whether the networks of all seeds take it together, each undefended and at its own early state: it
            belongs to none of them, and there is none of one seed.
        longer: how many times N steps its solve takes, from the keys of Sec. 3.2 and N; None: N.
        decide: logits (n, batch, classes) of z^[1] .. z^[n] -> logits (batch, classes) that the decision at state n
            goes by; None: those of z^[n].
    """

    name: DefenceName
    label: str
    build: str | Callable[[Any, Any], Any] | None = None
    keys: tuple[str, ...] = ()
    adjust: Adjust | None = None
    cost: float = 1.0
    published: bool = False
    control_of: DefenceName | None = None
    attacked: Callable[[EntropyConfig], bool] | None = None
    matched_to: DefenceName | None = None
    of_seeds: bool = False
    longer: Callable[[EntropyConfig, int], int] | None = None
    decide: Callable[[Any], Any] | None = None

    @property
    def beside(self) -> DefenceName | None:
        """The defence that it explains, as a control or a baseline of at most its cost; None: it stands for itself."""
        return self.control_of or self.matched_to


def _as_configured(entropy: EntropyConfig, steps: int) -> EntropyConfig:
    return entropy


def _without_descent(entropy: EntropyConfig, steps: int) -> EntropyConfig:
    return entropy.model_copy(update={"input_steps": 0})


def restarts_alone(entropy: EntropyConfig, steps: int) -> EntropyConfig:
    """The restarts of the authors' solver, without a descent of the input."""
    return _as_released(entropy).model_copy(update={"input_steps": 0})


def _one_round(entropy: EntropyConfig, steps: int) -> EntropyConfig:
    return _as_released(entropy).model_copy(update={"solver_steps": steps})


def _as_released(entropy: EntropyConfig) -> EntropyConfig:
    """With the keys of the authors' code."""
    released = PROTOCOLS["release"].items()
    return entropy.model_copy(
        update={key.removeprefix("entropy."): value for key, value in released if key.startswith("entropy.")}
    )


_SEC_32, _KEYS = "deqpipe.defence.entropy:build", ("entropy", "threat_model")
PLAIN = Defence("plain", "", published=True)
ENTROPY = Defence("entropy", "Sec. 3.2", _SEC_32, _KEYS, _as_configured, published=True)
# Sec. 3.2 without its point: no descent steps; and with the authors' code's keys, the restarts of the solver without
# descent, and a single round (T_f = N), after which nothing follows.
ZERO_STEPS = Defence(
    "entropy_zero_steps", "control: R = 0", _SEC_32, _KEYS, _without_descent, control_of="entropy",
    attacked=lambda entropy: True,  # what the choice of the state alone gives
)  # fmt: skip
RESTART_ONLY = Defence(
    "entropy_restart_only", "control: restart only", _SEC_32, _KEYS, restarts_alone, control_of="entropy",
    attacked=lambda entropy: entropy.resolve == "quasi_newton",  # the defence's own restarts
)  # fmt: skip
ONE_ROUND = Defence(
    "entropy_one_round", "control: T_f = N", _SEC_32, _KEYS, _one_round, control_of="entropy",
    attacked=lambda entropy: entropy.resolve == "quasi_newton",  # where R = 0 still restarts: the choice of the state
)  # fmt: skip
# What the cost of Sec. 3.2 gives without it.
LONGER = Defence(
    "longer_solve", "longer solve", "deqpipe.defence.strided:build", ("entropy",), matched_to="entropy",
    longer=times_as_long,
)  # fmt: skip
ENSEMBLE = Defence("ensemble", "ensemble", matched_to="entropy", of_seeds=True)
DEFENCES: Mapping[str, Defence] = {
    one.name: one for one in (PLAIN, ENTROPY, ZERO_STEPS, RESTART_ONLY, ONE_ROUND, LONGER, ENSEMBLE)
}
CONTROLS: tuple[DefenceName, ...] = tuple(one.name for one in DEFENCES.values() if one.control_of)
MATCHED: tuple[DefenceName, ...] = tuple(one.name for one in DEFENCES.values() if one.matched_to)
"""Baselines of at most the cost of a defence."""
DECIDING: tuple[DefenceName, ...] = tuple(one.name for one in DEFENCES.values() if not one.beside)
"""Those that decide for themselves: every adversarially trained DEQ is evaluated with each."""


def own_defence(piece: extending.Defence) -> Defence:
    """The value of a defence that a user's file defines."""
    return Defence(piece.name, piece.label, piece.dynamics, piece.keys, cost=piece.evaluations, decide=piece.decide)


def is_own(name: DefenceName) -> bool:
    """Whether a defence comes from a user's file."""
    return name not in DEFENCES


def defence_of(name: str) -> Defence:
    """The defence of a name.

    Raises:
        UserError: nobody declared it.
    """
    if name in DEFENCES:
        return DEFENCES[name]
    if (piece := extending.find(extending.Defence, name)) is not None:
        return own_defence(piece)
    known = (*DEFENCES, *extending.pieces(extending.Defence))
    raise UserError(f"defence is {name!r}, but must be one of {', '.join(known)}")


def entropy_keys(name: str, entropy: EntropyConfig, *, steps: int) -> EntropyConfig | None:
    """The keys of Sec. 3.2 that a defence runs with; None: it makes no use of Sec. 3.2.

    Args:
        name: of the defence.
        entropy: as configured.
        steps: N.
    """
    adjust = defence_of(name).adjust
    return None if adjust is None else adjust(entropy, steps)
