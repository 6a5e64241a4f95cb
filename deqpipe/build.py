"""Resolved settings to objects: the only place where what a spec says becomes what computes.

A defence names the function that makes its dynamics (deqpipe/workflow/defences.py), so that whoever reads the
vocabulary of defences imports no torch; here the name is looked up.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from deqpipe import extending
from deqpipe.config import (
    AndersonConfig,
    AnySolverConfig,
    BroydenConfig,
    Config,
    EntropyConfig,
    FixedPointConfig,
    Section,
    known_images,
    parse_solver,
)
from deqpipe.defence.entropy import defended
from deqpipe.defence.rule import DecisionRule
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.lazy import named
from deqpipe.settings import MissingSettingError, Settings
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import ball_of
from deqpipe.workflow import specs
from deqpipe.workflow.defences import Defence, defence_of
from deqpipe.workflow.gridpoints import FINAL_DAMPING

Build = Callable[[Settings, PlainDynamics, Defence], Dynamics]
"""What a defence's `build` names: its dynamics, from settings, the undefended ones and its value."""


SOLVERS: Mapping[type[Section], Callable[[Any], Solver[Any]]] = {
    BroydenConfig: lambda config: Broyden(room=config.steps),
    AndersonConfig: lambda config: Anderson(memory=config.memory),
    FixedPointConfig: lambda config: FixedPointIteration(),
}
"""The solvers, by their sections of the configuration."""


def build_solver(config: AnySolverConfig) -> Solver[Any]:
    """The solver that a config names."""
    if type(config) in SOLVERS:
        return SOLVERS[type(config)](config)
    piece = extending.find(extending.Solver, config.name)
    assert piece is not None, f"nothing builds a solver {config.name}"
    assert piece.build is not None
    given = {one.name: getattr(config, one.name) for one in fields(piece.build) if one.init}
    solver: Solver[Any] = piece.build(**given)
    return solver


def build_termination(config: AnySolverConfig) -> Termination:
    """When the configured solve stops."""
    return Termination(max_steps=config.steps, rtol=config.tolerance, scope=config.scope)


def plain_dynamics(settings: Settings) -> PlainDynamics:
    """The undefended dynamics."""
    solver = settings.variant("solver", parse_solver)
    return PlainDynamics(build_solver(solver), build_termination(solver), solver.returned)


def dynamics(settings: Settings, defence: str) -> Dynamics:
    """The dynamics of a defence, or of a control.

    Raises:
        UserError: nobody declared the defence.
    """
    value, plain = defence_of(defence), plain_dynamics(settings)
    if value.build is None:
        return plain
    if callable(value.build):
        return _own_dynamics(value, plain, settings)
    build: Build = named(value.build)
    return build(settings, plain, value)


def _own_dynamics(value: Defence, plain: PlainDynamics, settings: Settings) -> Dynamics:
    """The dynamics of a defence from a user's file.

    Raises:
        UserError: what it made is none, or it reads a key that it does not name.
    """
    assert callable(value.build)
    try:
        made = value.build(plain, settings)
    except MissingSettingError as missing:
        keys = ", ".join(value.keys) or "none"
        what = f"dynamics reads {missing.key}, which its keys do not name: they are {keys}"
        raise extending.mistake(extending.Defence, value.name, what) from None
    if not isinstance(made, Dynamics):
        what = f"dynamics made a {type(made).__name__}, but must make a Dynamics"
        raise extending.mistake(extending.Defence, value.name, what)
    return made


def try_rules(config: Config) -> None:
    """Try what a configuration's own defences decide by on logits that are made up.

    Of an image folder, whose classes nobody has counted yet, none is tried: jobs do it.

    Raises:
        UserError: one of them fails, or gives what attacks that know it can make nothing of.
    """
    if (images := known_images(config.data.source)) is None:
        return
    settings = Settings(specs.pick(config.model_dump(mode="json"), "solver"))
    for name in extending.pieces(extending.Defence, config.extensions):
        rule(settings, name, classes=images.classes)


def rule(settings: Settings, defence: str, *, classes: int) -> DecisionRule | None:
    """What decisions with a defence go by; None: the logits of a state.

    Args:
        settings: of the job.
        defence: its name.
        classes: of the images: the rule is tried with so many.

    Raises:
        UserError: nobody declared the defence, or its rule is none.
    """
    value = defence_of(defence)
    if value.decide is None:
        return None
    own = DecisionRule(value.name, value.decide)
    own.check(settings.variant("solver", parse_solver).steps, classes)
    return own


def entropy_dynamics(settings: Settings, entropy: EntropyConfig) -> Dynamics:
    """The dynamics of Sec. 3.2 with keys of its own; the undefended ones where these are the same bit for bit."""
    return defended(plain_dynamics(settings), entropy, ball_of(settings))


def final_unroll(settings: Settings) -> Unrolled:
    """The unroll from z* to the final state."""
    return Unrolled(
        steps=settings["evaluation.final_unroll_steps"],
        damping=FINAL_DAMPING,
        lead_step=settings["attack.unroll"]["lead_step"],
    )
