"""How a model turns images into logits while it trains, and what is random about it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from deqpipe.gradient import StateGradient
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.interface import BoundFunction, FixedPointModel
from deqpipe.seeding import Stream
from deqpipe.shapes import Images, Logits, State
from deqpipe.solver.base import Solver
from deqpipe.solver.solve import Returned, Termination, reach
from deqpipe.solver.trajectory import GrowingSolve
from deqpipe.training.jacobian import JacobianRegularisation, gaussian_probes, jacobian_loss


@dataclass(frozen=True)
class Draws:
    """Random sources of one training step, keyed by the step alone: nothing carries over to the next.

    Attributes:
        step: training step, counted from 0 over pretraining and adversarial training.
        states: picks random intermediate states.
        dropout: dropout masks.
        jacobian: whether a step is regularised, its solver length, its probes.
    """

    step: int
    states: torch.Generator
    dropout: torch.Generator
    jacobian: torch.Generator

    @contextmanager
    def drawn_again(self) -> Iterator[None]:
        """What is drawn inside the block is drawn once more behind it."""
        kept = [(source, source.get_state()) for source in (self.states, self.dropout, self.jacobian)]
        yield
        for source, state in kept:
            source.set_state(state)


def draws(seed: int, step: int) -> Draws:
    """The sources of a step."""

    def source(purpose: str) -> torch.Generator:
        return Stream(seed, f"training/{purpose}").generator(step)

    return Draws(step=step, states=source("states"), dropout=source("dropout"), jacobian=source("jacobian"))


@dataclass(frozen=True)
class Output:
    """Logits, and what is added to the loss."""

    logits: Logits
    penalty: Tensor


@dataclass(frozen=True)
class StateChoice:
    """Which state of the dynamics is read.

    Attributes:
        steps: length of the solve.
        returned: its last state, or that of lowest residual.
    """

    steps: int
    returned: Returned = "last"


@dataclass(frozen=True)
class LossStates:
    """Which state each branch reads (an ordinary network has none and ignores them)."""

    natural: StateChoice
    adversarial: StateChoice


LogitsOf: TypeAlias = Callable[[Tensor], Tensor]
"""Images to logits, differentiable."""
Reader: TypeAlias = Callable[[StateChoice], Logits]
"""Which state to the logits behind it, without gradient; nothing is computed twice."""


@runtime_checkable
class Pass(Protocol):
    """The forward passes of one training step."""

    @property
    def loss_states(self) -> LossStates:
        """The states that the loss is computed from."""
        ...

    def crafting_states(self) -> LossStates:
        """The states that one attack step sees."""
        ...

    def crafting(self, state: StateChoice) -> LogitsOf:
        """Images to logits while an attack is crafted (evaluation mode); equal for passes that do the same work."""
        ...

    def reader(self, x: Images) -> Reader:
        """The logits that `crafting` gives on images that stay the same, for one state after another."""
        ...

    def training(self, x: Images, state: StateChoice, *, penalised: bool) -> Output:
        """Logits and, where due, penalty for the loss (training mode)."""
        ...


@runtime_checkable
class Forward(Protocol):
    """The architecture's part of a training step."""

    def prepare(self, model: nn.Module, sources: Draws) -> Pass:
        """The passes of one step, its random choices made."""
        ...


@dataclass(frozen=True)
class PlainForward:
    """An ordinary network: nothing random, no penalty."""

    def prepare(self, model: nn.Module, sources: Draws) -> "PlainPass":
        """The passes of one step."""
        return PlainPass(model)


@dataclass(frozen=True)
class PlainPass:
    """The forward passes of one training step of an ordinary network."""

    model: nn.Module
    loss_states: LossStates = LossStates(natural=StateChoice(0), adversarial=StateChoice(0))

    def crafting_states(self) -> LossStates:
        """No states."""
        return self.loss_states

    def crafting(self, state: StateChoice) -> LogitsOf:
        """The network itself."""
        return self.model

    @torch.no_grad()
    def reader(self, x: Images) -> Reader:
        """The network's logits, computed now."""
        logits = self.model(x)
        return lambda state: logits

    def training(self, x: Images, state: StateChoice, *, penalised: bool) -> Output:
        """The network's logits."""
        return Output(self.model(x), x.new_zeros(()))


@dataclass(frozen=True)
class UnrolledForward:
    """A DEQ as the weight-tied network that it is pretrained as: f applied `layers` times, no solver."""

    layers: int

    def logits(self, model: DEQClassifier, x: Images, sources: Draws | None) -> Logits:
        """Logits with gradient through all layers; `sources` is needed in training mode."""
        fn = model.bind(x, sources.dropout if sources else None)
        z = model.initial_state(x)
        for _ in range(self.layers):
            z = fn(z)
        return model.logits(z)


@dataclass(frozen=True)
class RandomStates:
    """Loss from random intermediate states (Sec. 3.3): i ~ U[1, N], one draw per batch (Eq. 10).

    Attributes:
        in_attack: crafting sees random states too, drawn anew at every attack step.
        natural: state of the natural TRADES branch: the final one, a draw of its own, or the adversarial branch's.
        returned: what is read of a solve of i steps: z^[i], or the state of lowest residual (the authors' code).
    """

    in_attack: bool
    natural: Literal["final", "independent", "shared"]
    returned: Returned = "last"

    def draw(self, generator: torch.Generator, *, final: StateChoice) -> LossStates:
        """States of 1 to `final.steps` steps; two numbers are drawn whatever `natural` is."""
        first, second = (self._draw(generator, final.steps) for _ in range(2))
        return LossStates(
            natural={"final": final, "independent": second, "shared": first}[self.natural], adversarial=first
        )

    def _draw(self, generator: torch.Generator, length: int) -> StateChoice:
        return StateChoice(int(torch.randint(1, length + 1, (), generator=generator)), self.returned)


@dataclass(frozen=True)
class DEQForward:
    """A DEQ in adversarial training: the solve without gradient, then a state gradient behind the chosen state.

    Attributes:
        solver: the fixed-point solver.
        termination: N, and when an image stops before.
        gradient: makes the chosen state differentiable.
        random_states: None: always z*.
        jacobian: the regularisation.
        returned: which state is z*.
    """

    solver: Solver[Any]
    termination: Termination
    gradient: StateGradient
    random_states: RandomStates | None
    jacobian: JacobianRegularisation
    returned: Returned = "last"

    def prepare(self, model: nn.Module, sources: Draws) -> "DEQPass":
        """The passes of one step: whether it is regularised, its solver length and the states of its loss."""
        assert isinstance(model, FixedPointModel)
        regularised = self.jacobian.due(sources.step, sources.jacobian)
        extra = self.jacobian.extra_steps(sources.jacobian) if regularised else 0
        states = self.states(sources, length=self.termination.max_steps + extra, random=True)
        return DEQPass(self, model, sources, regularised, states)

    def states(self, sources: Draws, *, length: int, random: bool) -> LossStates:
        """z* of `length` steps for both branches, or a draw if the states are random."""
        final = StateChoice(length, self.returned)
        if self.random_states is None or not random:
            return LossStates(natural=final, adversarial=final)
        return self.random_states.draw(sources.states, final=final)

    @property
    def final(self) -> StateChoice:
        """z* of N steps."""
        return StateChoice(self.termination.max_steps, self.returned)

    def logits(self, model: FixedPointModel, x: Images, state: StateChoice) -> Logits:
        """Logits behind the chosen state, for a model in evaluation mode."""
        fn = model.bind(x)
        return model.logits(self.gradient(fn, self.solve(model, fn, x, state)))

    def solve(self, model: FixedPointModel, fn: BoundFunction, x: Images, state: StateChoice) -> State:
        """The chosen state, without gradient."""
        termination = replace(self.termination, max_steps=state.steps)
        return reach(self.solver, fn, model.initial_state(x), termination=termination, returned=state.returned)


@dataclass(frozen=True)
class CraftingLogits:
    """Images to the logits behind a state; equal for one model, one way to compute it and one state."""

    forward: DEQForward
    model: FixedPointModel
    state: StateChoice

    def __call__(self, x: Images) -> Logits:
        """The logits, differentiable."""
        return self.forward.logits(self.model, x, self.state)


class DEQReader:
    """Logits of fixed images behind one state after another.

    Stem and weights are prepared once, one solve serves all states, and each is unrolled when it is first asked for.
    """

    @torch.no_grad()
    def __init__(self, forward: DEQForward, model: FixedPointModel, x: Images) -> None:
        """Begin the solve; `model` in evaluation mode."""
        self._model, self._gradient, self._fn = model, forward.gradient, model.bind(x)
        start = model.initial_state(x)
        self._solve = GrowingSolve(forward.solver, self._fn, start, termination=forward.termination)
        self._known: dict[StateChoice, Logits] = {}

    @torch.no_grad()
    def __call__(self, state: StateChoice) -> Logits:
        """Bit for bit what `DEQForward.logits` gives."""
        if state not in self._known:
            z = self._solve.reach(state.steps, state.returned)
            self._known[state] = self._model.logits(self._gradient(self._fn, z))
        return self._known[state]


@dataclass(frozen=True)
class DEQPass:
    """The forward passes of one training step of a DEQ.

    Attributes:
        forward: what is the same for all steps.
        model: the classifier.
        sources: random sources of the step.
        regularised: whether the Jacobian term is due.
        loss_states: states of the loss.
    """

    forward: DEQForward
    model: FixedPointModel
    sources: Draws
    regularised: bool
    loss_states: LossStates

    def crafting_states(self) -> LossStates:
        """z*, or a new draw where crafting sees random states."""
        random, length = self.forward.random_states, self.forward.termination.max_steps
        return self.forward.states(self.sources, length=length, random=random is not None and random.in_attack)

    def crafting(self, state: StateChoice) -> LogitsOf:
        """Images to logits behind the chosen state."""
        return CraftingLogits(self.forward, self.model, state)

    def reader(self, x: Images) -> Reader:
        """Logits behind one state after another, in one solve."""
        return DEQReader(self.forward, self.model, x)

    def training(self, x: Images, state: StateChoice, *, penalised: bool) -> Output:
        """Logits behind the chosen state, and the weighted Jacobian term at that state if due and wanted."""
        fn = _bound(self.model, x, self.sources)
        z = self.forward.solve(self.model, fn, x, state)
        logits = self.model.logits(self.forward.gradient(fn, z))
        jacobian = self.forward.jacobian
        if not (self.regularised and penalised):
            return Output(logits, logits.new_zeros(()))
        probes = gaussian_probes(z, count=jacobian.probes, generator=self.sources.jacobian)
        term = jacobian_loss(fn, z, probes, counter=self.model.counter)
        return Output(logits, jacobian.weight * term)


def _bound(model: FixedPointModel, x: Images, sources: Draws) -> BoundFunction:
    """f(.; x) in training mode; a model of a user's file draws nothing."""
    return model.bind(x, sources.dropout) if isinstance(model, DEQClassifier) else model.bind(x)
