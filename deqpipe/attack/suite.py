"""Runs the attacks of the suite (deqpipe/workflow/suite_attacks.py) on a decision.

What is attacked is a `Victim`; what an attack makes large is built from the name of its gradient and of its loss; every
image that it comes by is judged by the true decision (`attack.judged`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from deqpipe.attack import losses
from deqpipe.attack.ascent import APGD, FixedPGD, Objectives, Starts
from deqpipe.attack.judged import Crafted, Hunt, JudgedObjective, Measured, Rows
from deqpipe.attack.losses import Loss
from deqpipe.attack.pgd import uniform_start
from deqpipe.attack.queries import Noise, RayS, Square
from deqpipe.config.suite import AttackSuiteConfig
from deqpipe.defence.ensemble import Ensemble
from deqpipe.defence.rule import DecisionRule, decision_at
from deqpipe.dynamics import Dynamics, PlainDynamics, Trajectory
from deqpipe.gradient import StateGradient, Unrolled
from deqpipe.gradient.adjoint import SimultaneousAdjoint
from deqpipe.gradient.through import Through, UpdateRule, moved_with
from deqpipe.model.interface import FixedPointModel
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Labels, Logits, State
from deqpipe.threat_model import LinfBall
from deqpipe.workflow.suite_attacks import Kind, SuiteAttack

RECOMPUTED_FROM = 16_384
"""Numbers in a state from which on applications of f are computed again in the backward pass, not kept: an image of
MDEQ-Large (61,440) would take gigabytes through Sec. 3.2."""
UNROLL = Unrolled(steps=5, damping=0.5)
"""Behind states whose own gradient is not taken: of the paper's attacks one of the strongest at every state."""
SHARPNESS = (3.0, 10.0, 1.0)
"""Of smoothed updates, start by start: in units of a pixel's mean gradient."""


@dataclass(frozen=True)
class Victim:
    """A decision under attack.

    Attributes:
        model: in evaluation mode, its parameters frozen.
        ball: the threat model.
        dynamics: that the decision is read off; None: an ordinary network, or an ensemble, which has its members'.
        state: which of its states decides, counted from 1.
        undefended: the dynamics without a defence, for attacks that are blind to it.
        rule: what the decision goes by; None: the logits of its state.
    """

    model: nn.Module
    ball: LinfBall
    dynamics: Dynamics | None = None
    state: int = 1
    undefended: PlainDynamics | None = None
    rule: DecisionRule | None = None

    @property
    def kind(self) -> Kind:
        """What sort of decision it is."""
        if self.dynamics is None:
            return "ensemble" if isinstance(self.model, Ensemble) else "network"
        return "defended" if self.dynamics.is_defended else "plain"

    @property
    def deq(self) -> FixedPointModel:
        """The model, which has states."""
        assert isinstance(self.model, FixedPointModel)
        return self.model

    @property
    def deciding(self) -> Dynamics:
        """The dynamics, up to the state that decides."""
        assert self.dynamics is not None
        return self.dynamics.up_to(self.state)

    @property
    def blind(self) -> PlainDynamics:
        """The dynamics as who knows of no defence sees them."""
        assert self.undefended is not None
        return self.undefended

    @property
    def couples_images(self) -> bool:
        """Whether images of a batch influence each other."""
        return self.undefended is not None and self.undefended.couples_images

    @torch.no_grad()
    def logits(self, x: Images) -> Logits:
        """What decides, without gradient."""
        if self.dynamics is None:
            logits: Tensor = self.model(x)
            return logits
        return self.read(self.deciding(self.deq, x, last_residual=False))

    def read(self, along: Trajectory) -> Logits:
        """What decides, of states that were reached; with gradient where they have one."""
        return decision_at(self.deq, along, self.state, self.rule)

    def through(self, updates: UpdateRule = "constant", sharpness: float = 1.0) -> Through:
        """How its dynamics are differentiated."""
        return Through(updates, sharpness, recompute=self.deq.state_size >= RECOMPUTED_FROM)


@dataclass(frozen=True)
class Batch:
    """The images under attack.

    Attributes:
        x: clean, in [0, 1].
        y: their classes.
        keys: index of each, the key of its random numbers: what is made of an image depends on no other.
        warm: the best images that the attacks before came to, where some start from these; None: nobody knows of any.
    """

    x: Images
    y: Labels
    keys: Sequence[int]
    warm: Images | None = None


def run(attack: SuiteAttack, victim: Victim, batch: Batch, *, stream: Stream, suite: AttackSuiteConfig) -> Crafted:
    """One attack on some images.

    Args:
        attack: which one.
        victim: the decision.
        batch: the images.
        stream: of the repetition's seed; its purpose names the attack.
        suite: how much is spent.

    Raises:
        ValueError: the attack is not made for such a decision, or lacks its starts.
    """
    if victim.kind not in attack.against:
        raise ValueError(f"{attack.name} attacks {' and '.join(attack.against)} decisions, but this is {victim.kind}")
    if attack.warm and batch.warm is None:
        raise ValueError(f"{attack.name} starts from the best images so far, but none were given")
    hunt = Hunt(batch.x, batch.y, victim.logits, victim.ball, together=victim.couples_images)
    if not len(batch.x):
        return hunt.outcome()
    if attack.search in _QUERIES:
        _QUERIES[attack.search](attack, suite)(hunt, stream, batch.keys)
    else:
        _by_gradient(attack, victim, batch, hunt, stream, suite)
    return hunt.outcome()


def _by_gradient(
    attack: SuiteAttack, victim: Victim, batch: Batch, hunt: Hunt, stream: Stream, suite: AttackSuiteConfig
) -> None:
    search = (APGD if attack.search == "apgd" else FixedPGD)(attack.steps(suite))
    logits = victim.logits(batch.x)
    objectives = _objectives(attack, victim, batch, logits)
    starts = _starts(batch, victim, stream, batch.warm if attack.warm else None)
    search(hunt, objectives, starts, count=attack.starts(suite, logits.shape[1] - 1))


_QUERIES: Mapping[str, Callable[[SuiteAttack, AttackSuiteConfig], Noise | Square | RayS]] = {
    "noise": lambda attack, suite: Noise(attack.starts(suite, 1)),
    "square": lambda attack, suite: Square(attack.steps(suite)),
    "rays": lambda attack, suite: RayS(attack.steps(suite)),
}
"""Searches that take no gradient."""


def _starts(batch: Batch, victim: Victim, stream: Stream, warm: Images | None) -> Starts:
    """Uniform draws from the ball, a stream per start and image; or the best images so far, whatever the start."""
    if warm is not None:
        return lambda number, rows: warm[rows]

    def drawn(number: int, rows: Rows) -> Images:
        keys = [batch.keys[row] for row in rows.tolist()]
        own = Stream(stream.seed, f"{stream.purpose}/start{number}")
        return uniform_start(batch.x[rows], ball=victim.ball, stream=own, images=keys, clamp=True)

    return drawn


# --- what is made large ----------------------------------------------------------------------------------------------

Read: TypeAlias = Callable[[Images], tuple[list[Logits], Logits | None]]
"""Images -> logits with gradient, of one state or of several, and the decision's logits where they are known."""


def _objectives(attack: SuiteAttack, victim: Victim, batch: Batch, clean: Logits) -> Objectives:
    """What each start makes large; `clean` are the decision's logits of the clean images."""
    if attack.loss == "features":
        change = _Features(victim, _clean_state(victim, batch.x))
        return lambda number: change
    read = _READS[attack.gradient]

    def objective(number: int) -> JudgedObjective:
        return _Averaged(read(victim, number), _loss(attack, batch, clean, number))

    return objective


@dataclass(frozen=True)
class _Averaged:
    """The mean over the states that are read of a loss.

    Attributes:
        read: gives their logits.
        loss: (logits, rows) -> per image.
    """

    read: Read
    loss: Callable[[Logits, Rows], Tensor]

    def __call__(self, x: Images, rows: Rows) -> Measured:
        """At images that stand for some of the batch."""
        several, decided = self.read(x)
        return Measured(torch.stack([self.loss(logits, rows) for logits in several]).mean(0), decided)


def _loss(attack: SuiteAttack, batch: Batch, clean: Logits, number: int) -> Callable[[Logits, Rows], Tensor]:
    if attack.loss in _TARGETED:
        target, towards = _target(clean, batch.y, number), _TARGETED[attack.loss]
        return lambda logits, rows: towards(logits, batch.y[rows], target[rows])
    away = _UNTARGETED[attack.loss if clean.shape[1] > 2 else "margin"]
    return lambda logits, rows: away(logits, batch.y[rows])


_UNTARGETED: Mapping[str, Loss] = {
    "margin": losses.margin, "cross_entropy": losses.cross_entropy, "dlr": losses.dlr,
}  # fmt: skip
_TARGETED: Mapping[str, losses.TargetedLoss] = {
    "targeted": losses.targeted_margin, "low_entropy": losses.confident_mistake,
}  # fmt: skip


def _target(clean: Logits, y: Labels, number: int) -> Labels:
    """The wrong class that is the most likely but `number` of the clean image."""
    others = clean.scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, number]


def _decision(victim: Victim, number: int, updates: UpdateRule = "constant", sharpness: float = 1.0) -> Read:
    """The decision's own logits: a network's, or those of the deciding state through the way to it."""

    def read(x: Images) -> tuple[list[Logits], Logits | None]:
        if victim.dynamics is None:
            logits = victim.model(x)
        else:
            logits = victim.read(_along(victim, x, victim.through(updates, sharpness)))
        return [logits], logits

    return read


def decision_of(victim: Victim) -> Callable[[Images], Logits]:
    """The decision's own logits, with gradient where that is asked for."""
    read = _decision(victim, 0)
    return lambda x: read(x)[0][0]


def _along(victim: Victim, x: Images, through: Through | None = None) -> Trajectory:
    return victim.deciding.with_gradient(victim.deq, x, through or victim.through())


def _smoothed(victim: Victim, number: int) -> Read:
    """Through updates whose sign is smoothed: the decision itself is asked apart."""
    sharpness = SHARPNESS[number % len(SHARPNESS)]
    read = _decision(victim, number, updates="smoothed", sharpness=sharpness)
    return lambda x: (read(x)[0], None)


def _average(victim: Victim, number: int) -> Read:
    """Every state up to the one that decides."""

    def read(x: Images) -> tuple[list[Logits], Logits | None]:
        if isinstance(victim.model, Ensemble):
            several = victim.model.along(x)
            return several, several[-1]
        along = _along(victim, x)
        return [victim.deq.logits(z) for z in along.solution.states], victim.read(along)

    return read


def _before_update(victim: Victim, number: int) -> Read:
    """What f makes of the states that the updates look at, with the input in force until then; and what decides.

    Who makes them wrong lets the defence lower the entropy of a mistake.
    """

    def read(x: Images) -> tuple[list[Logits], Logits | None]:
        along = _along(victim, x)
        decided = victim.read(along)
        looked_at = [victim.deq.logits(one.fn(one.z)) for one in along.interventions]
        return [*looked_at, decided], decided

    return read


def _unrolled(victim: Victim, number: int) -> Read:
    """An unrolled undefended state, start by start another one."""
    last = victim.blind.termination.max_steps
    index = (1, min(3, last), last, min(5, last))[number % 4]
    return lambda x: ([victim.deq.logits(_undefended(victim, UNROLL, x, index))], None)


def _undefended(victim: Victim, gradient: StateGradient, x: Images, index: int) -> State:
    fn = victim.deq.bind(x)
    return gradient(fn, victim.blind.state(victim.deq, fn, x.detach(), index=index))


def _adjoint(victim: Victim, number: int) -> Read:
    """The undefended state of the decision's number, by an adjoint that is carried along with its solve."""
    gradient = SimultaneousAdjoint(victim.blind.solver, victim.state, victim.through())
    own = victim.dynamics is victim.undefended and victim.rule is None
    decides = own and not victim.blind.termination.may_stop_early

    def read(x: Images) -> tuple[list[Logits], Logits | None]:
        z = gradient(victim.deq.bind(x), victim.deq.initial_state(x))
        logits = victim.deq.logits(z)
        return [logits], logits if decides else None

    return read


def _received(victim: Victim, number: int) -> Read:
    """The deciding state, held constant and unrolled, with the input as received."""

    def read(x: Images) -> tuple[list[Logits], Logits | None]:
        along = victim.deciding(victim.deq, x.detach(), last_residual=False)
        z = along.state(victim.state)
        return [victim.deq.logits(UNROLL(victim.deq.bind(x), z))], _decided(victim, along)

    return read


def _updated(victim: Victim, number: int) -> Read:
    """The same with the input in force there, as if it were the received one moved by a constant."""

    def read(x: Images) -> tuple[list[Logits], Logits | None]:
        along = victim.deciding(victim.deq, x.detach(), last_residual=False)
        z, fn = along.state(victim.state), victim.deq.bind(moved_with(along.x, x))
        return [victim.deq.logits(UNROLL(fn, z))], _decided(victim, along)

    return read


@torch.no_grad()
def _decided(victim: Victim, along: Trajectory) -> Logits:
    return victim.read(along)


_READS: Mapping[str, Callable[[Victim, int], Read]] = {
    "decision": _decision,
    "unrolled": _unrolled,
    "adjoint": _adjoint,
    "received": _received,
    "updated": _updated,
    "straight_through": partial(_decision, updates="straight_through"),
    "smoothed": _smoothed,
    "average": _average,
    "before_update": _before_update,
}


@dataclass(frozen=True)
class _Features:
    """How far the deciding state moves from that of the clean image: sum of absolute changes.

    Attributes:
        victim: the decision.
        clean: its states on the clean images of the batch.
    """

    victim: Victim
    clean: State

    def __call__(self, x: Images, rows: Rows) -> Measured:
        """At images that stand for some of the batch."""
        along = _along(self.victim, x)
        moved = (along.state(self.victim.state) - self.clean[rows]).abs().sum(1)
        return Measured(moved, _decided(self.victim, along))


def _clean_state(victim: Victim, x: Images) -> State:
    return victim.deciding(victim.deq, x, last_residual=False).state(victim.state)
