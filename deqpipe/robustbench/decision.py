"""Which decisions RobustBench takes, and what a file has to hold of one.

Its rules: a gradient to the images that is not zero in general, nothing random, no optimisation loop at test time. An
image's logits must not depend on its batch-mates either: AutoAttack puts batches together anew for every attack.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deqpipe import build
from deqpipe.api import FINAL, WhichState
from deqpipe.config import (
    AndersonConfig,
    AnySolverConfig,
    BroydenConfig,
    EntropyConfig,
    FixedPointConfig,
    Section,
    parse_solver,
)
from deqpipe.dynamics import PlainDynamics
from deqpipe.errors import UserError
from deqpipe.gradient import Unrolled
from deqpipe.settings import Settings
from deqpipe.solver.solve import Termination
from deqpipe.workflow.defences import PLAIN, DefenceName, defence_of, entropy_keys

METHODS: dict[type[Section], str] = {
    BroydenConfig: "Broyden",
    AndersonConfig: "Anderson",
    FixedPointConfig: "FixedPoint",
}
"""The solvers of standalone/deq.py, by their sections of the configuration."""
_LABELS = {"Broyden": "Broyden", "Anderson": "Anderson", "FixedPoint": "fixed-point"}
_PROBED = 8
"""Images that the gradient is looked at on; of a trained network one has a gradient on any."""


@dataclass(frozen=True)
class Decision:
    """How the undefended logits arise.

    Attributes:
        state: that the head reads, counted from 1, or "final": z*, unrolled.
        method: the class of the solver in standalone/deq.py.
        memory: of Anderson mixing; else None.
        steps: of the solver.
        most_steps: N, of which `steps` are taken.
        tolerance: relative residual at which an image stops; 0: none does.
        lowest: whether the state of lowest residual is read, not the last.
        dampings: of the applications of f behind the solver.
    """

    state: WhichState
    method: str
    memory: int | None
    steps: int
    most_steps: int
    tolerance: float
    lowest: bool
    dampings: tuple[float, ...]

    @property
    def evaluations(self) -> int:
        """How often f is evaluated for a prediction."""
        return self.steps + self.lowest + len(self.dampings)

    @property
    def in_words(self) -> str:
        """What the head reads."""
        solve = f"a {_LABELS[self.method]} solve of {self.most_steps} steps"
        return f"the final state of {solve}" if self.state == FINAL else f"state {self.state} of {solve}"


def decision_of(settings: Settings, *, state: WhichState, defence: DefenceName) -> Decision:
    """The decision at a state, if RobustBench takes it.

    Args:
        settings: as `deqpipe.api.load` gives them.
        state: counted from 1, or "final".
        defence: whose decision; only the undefended one has a chance.

    Raises:
        UserError: there is no such state, or the decision is one that RobustBench does not take; says why.
    """
    _refuse_defence(settings, defence)
    solver, plain = settings.variant("solver", parse_solver), build.plain_dynamics(settings)
    if type(solver) not in METHODS:
        known = ", ".join(METHODS.values())
        raise UserError(f"solver.name is {solver.name!r}, of a user's file, but the exported network solves by {known}")
    last = plain.termination.max_steps
    if state != FINAL and not 1 <= state <= last:
        raise UserError(f"state is {state}, but must be 1 to {last}, or {FINAL}: so many steps has the solve")
    dynamics = plain if state == FINAL else plain.up_to(state)
    if dynamics.couples_images:
        raise UserError(f"{_coupling(solver)} couples the images of a batch, and RobustBench takes no such decision")
    if settings["precision"] != "fp32":
        raise UserError(f"precision is {settings['precision']}, but the exported network computes in fp32")
    return _decision(solver, dynamics.termination, state, build.final_unroll(settings) if state == FINAL else None)


def _decision(
    solver: AnySolverConfig, termination: Termination, state: WhichState, unroll: Unrolled | None
) -> Decision:
    return Decision(
        state=state,
        method=METHODS[type(solver)],
        memory=solver.memory if isinstance(solver, AndersonConfig) else None,
        steps=termination.max_steps,
        most_steps=solver.steps,
        tolerance=termination.rtol,
        lowest=unroll is not None and solver.returned == "lowest_sample",
        dampings=() if unroll is None else (1.0,) * unroll.lead_step + (unroll.damping,) * unroll.steps,
    )


def _coupling(solver: AnySolverConfig) -> str:
    """The key that couples images."""
    return f"solver.scope {solver.scope}" if solver.scope == "batch" else f"solver.returned {solver.returned}"


def _refuse_defence(settings: Settings, name: DefenceName) -> None:
    if name == PLAIN.name:
        return
    if defence_of(name).of_seeds:
        raise UserError(f"defence {name} is the decision of several networks together, but one is exported")
    if defence_of(name).decide is not None:
        raise UserError(f"defence {name} is a rule of a user's file, and the exported network holds the plain decision")
    if isinstance(build.dynamics(settings, name), PlainDynamics):  # Sec. 3.2 without steps is no defence
        return
    reason = _reason(entropy_keys(name, settings.section("entropy", EntropyConfig), steps=settings["solver"]["steps"]))
    raise UserError(f"defence {name} {reason}; the undefended decision is exported with --defence {PLAIN.name}")


def _reason(entropy: EntropyConfig | None) -> str:
    if entropy is not None and entropy.input_steps > 0:
        return "optimises the input at test time (Sec. 3.2), and RobustBench takes no decision with such a loop"
    return "is another solve than the plain one, which is all that the exported network holds"


def refuse_without_gradient(network: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Refuse a network whose logits have no usable gradient to its images.

    Args:
        network: in evaluation mode, on the CPU.
        image_shape: channels, height and width.

    Raises:
        UserError: on random images it is zero, or no number.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(_PROBED, *image_shape, generator=generator).requires_grad_()
    with torch.enable_grad():
        spread: Tensor = network(x).var(dim=1).sum()
    size = float(torch.autograd.grad(spread, x)[0].abs().max()) if spread.requires_grad else 0.0
    if not 0 < size < float("inf"):
        raise UserError(
            f"the logits' gradient to the images is {size:g}, and RobustBench takes no decision without one"
        )
