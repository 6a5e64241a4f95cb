"""Closed formulas: how often each operation evaluates f for one image, forward and backward (docs/method.md).

Solves take all their steps. Nothing here runs a model: tests/planning/test_formulas.py compares every formula with what
the counter of a real one says.
"""

from dataclasses import dataclass

from deqpipe.config import Config, EntropyConfig, SolverConfig
from deqpipe.counts import Evaluations, Number
from deqpipe.evaluation.judge import EVERYTHING, Wanted
from deqpipe.workflow import equal_cost, vocabulary
from deqpipe.workflow.defences import defence_of, entropy_keys

GRADIENT = Evaluations(forward=1, backward_input=1)
"""An application of f with the gradient back through it."""
TRAINED = GRADIENT + Evaluations(backward_weights=1)
"""The same with the gradient to its weights."""


# Solves and decisions


def reached(solver: SolverConfig, steps: Number) -> Evaluations:
    """A solve whose z* alone is wanted; z^[n] is proposed before its residual is known."""
    return Evaluations(steps if solver.returned == "last" else steps + 1)


def dynamics(solver: SolverConfig, entropy: EntropyConfig | None = None, *, residual: bool = True) -> Evaluations:
    """The whole dynamics, undefended or with Sec. 3.2; `residual`: with that of the last state, which z* may need."""
    whole = Evaluations(solver.steps + (residual or solver.returned != "last"))
    return whole if entropy is None else whole + equal_cost.added(entropy, steps=solver.steps)


def up_to(config: Config, entropy: EntropyConfig | None, state: int) -> Evaluations:
    """The dynamics as far as one state, which is read without its residual."""
    if entropy is None:
        return Evaluations(state)
    return equal_cost.way_to(entropy, state, steps=config.solver.steps)


def keys(config: Config, defence: str) -> EntropyConfig | None:
    """The keys of Sec. 3.2 that a defence or a control runs with; None: the plain dynamics."""
    entropy = entropy_keys(defence, config.entropy, steps=config.solver.steps)
    return None if entropy is None or equal_cost.undefended(entropy, steps=config.solver.steps) else entropy


def decision(config: Config, defence: str, wanted: Wanted = EVERYTHING) -> Evaluations:
    """One decision of a DEQ, as far as it is looked at."""
    entropy, cost, times = keys(config, defence), defence_of(defence).cost, _times_as_long(config, defence)
    if wanted.only is not None:
        return up_to(config, entropy, times * wanted.only) * cost
    solver = config.solver.model_copy(update={"steps": times * config.solver.steps})
    whole = dynamics(solver, entropy, residual=wanted.residuals) * cost
    return whole + final(config) if wanted.final else whole


def _times_as_long(config: Config, defence: str) -> int:
    """How many of the solver's steps there are for each recorded state."""
    longer = defence_of(defence).longer
    return 1 if longer is None else longer(config.entropy, config.solver.steps)


def final(config: Config) -> Evaluations:
    """The final state behind z*."""
    return Evaluations(config.evaluation.final_unroll_steps + config.attack.unroll.lead_step)


# Attacks


def surrogate(config: Config, state: Number, steps: Number) -> Evaluations:
    """The logits of z^[state], unrolled `steps` times."""
    return Evaluations(state + steps + config.attack.unroll.lead_step)


def surrogate_gradient(config: Config, state: Number, steps: Number) -> Evaluations:
    """The same with the gradient back to the image, through the unroll."""
    return Evaluations(state) + GRADIENT * (steps + config.attack.unroll.lead_step)


def through_defence(config: Config, defence: str, state: int) -> Evaluations:
    """What a surrogate takes more when its z^[state] comes from the dynamics of a defence."""
    return up_to(config, keys(config, defence), state) * defence_of(defence).cost - Evaluations(state)


CHECKS = 7
"""Forward passes of the library's checks: five for randomness, one for the range, one for gradients within."""


# Training


@dataclass(frozen=True)
class DrawnStates:
    """The states that a training step reads, as numbers of solver steps: those of one step, or on average.

    Attributes:
        crafting: of the attacked images, the average over the attack's steps.
        longest: the latest one of the natural images while crafting.
        different: how many of them there are.
        adversarial: of the loss at attacked images.
        natural: of the loss at natural images (TRADES).
    """

    crafting: Number
    longest: Number
    different: Number
    adversarial: Number
    natural: Number


def drawn(config: Config, model: str, *, extra: Number = 0) -> DrawnStates:
    """What a training step draws on average; `extra`: how much longer the solves of its loss are."""
    last, attack_steps = config.solver.steps, config.training.attack.steps
    length = last + extra
    random = _Random.of(config, model)
    return DrawnStates(
        crafting=_mean(last) if random.crafting else last,
        longest=_expected_largest(last, attack_steps) if random.targets else last,
        different=_expected_different(last, attack_steps) if random.targets else 1,
        adversarial=_mean(length) if random.loss else length,
        natural=_mean(length) if random.natural else length,
    )


@dataclass(frozen=True)
class _Random:
    """What of a training step reads random states.

    Attributes:
        loss: the loss at attacked images.
        natural: that at natural images.
        crafting: attacked images while they are crafted.
        targets: natural images meanwhile.
    """

    loss: bool
    natural: bool
    crafting: bool
    targets: bool

    @classmethod
    def of(cls, config: Config, model: str) -> "_Random":
        loss = vocabulary.MODELS[model].random_states
        natural = loss and config.random_state.natural != "final"
        crafting = config.random_state.in_attack
        return cls(loss=loss, natural=natural, crafting=loss and crafting, targets=natural and crafting)


def _mean(last: Number) -> Number:
    """Of a draw from 1 to `last`."""
    return (last + 1) / 2


def _expected_largest(last: int, draws: int) -> float:
    """The largest of some draws from 1 to `last`: a sum over n of the probability that it is at least n."""
    return sum(1 - ((n - 1) / last) ** draws for n in range(1, last + 1))


def _expected_different(last: int, draws: int) -> float:
    """How many different numbers some draws from 1 to `last` are."""
    return last * (1 - (1 - 1 / last) ** draws)


def training_step(
    config: Config, model: str, states: DrawnStates, *, regularised: Number = 0, perturbed: Number = 0
) -> Evaluations:
    """A training step of a DEQ.

    Args:
        config: the experiment.
        model: the DEQ.
        states: that the step reads.
        regularised: whether it carries the Jacobian term, or on what share of steps.
        perturbed: whether weights are perturbed, which takes the loss and its gradient once more, or on what share.
    """
    random = _Random.of(config, model)
    crafted = _state(config, states.crafting, random=random.crafting) + _made_differentiable(config, trained=False)
    adversarial = _state(config, states.adversarial, random=random.loss) + _made_differentiable(config, trained=True)
    step, losses = crafted * config.training.attack.steps, 1 + perturbed
    if vocabulary.MODELS[model].framework == "pgd_at":
        return step + adversarial * losses + _jacobian_term(config) * regularised
    natural = _state(config, states.natural, random=random.natural) + _made_differentiable(config, trained=True)
    terms = 2 if config.jacobian.trades_terms == "both" else 1
    targets = _natural_targets(config, states, random=random.targets)
    return step + targets + (adversarial + natural) * losses + _jacobian_term(config) * (terms * regularised)


def _state(config: Config, length: Number, *, random: bool) -> Evaluations:
    """Reaching z*, or a random state by its own rule."""
    if not random:
        return reached(config.solver, length)
    return Evaluations(length + (config.random_state.pick != "iterate"))


def _made_differentiable(config: Config, *, trained: bool) -> Evaluations:
    """A state with gradient, to the image or also to the weights."""
    once = TRAINED if trained else GRADIENT
    gradient = config.training.gradient
    if gradient.name == "exact":  # f twice; the adjoint equation's steps go through one, the rest the other
        return once + Evaluations(forward=1, backward_input=gradient.steps)
    return once * training_unroll(config)


def training_unroll(config: Config) -> int:
    """Applications of f behind a state in training."""
    return config.training.unroll.steps + config.training.unroll.lead_step


def _natural_targets(config: Config, states: DrawnStates, *, random: bool) -> Evaluations:
    """The natural logits that TRADES' attack moves away from: one solve, and one reading of every state drawn."""
    forward = 1 if config.training.gradient.name == "exact" else training_unroll(config)
    return _state(config, states.longest, random=random) + Evaluations(states.different * forward)


def _jacobian_term(config: Config) -> Evaluations:
    """One application, a product per probe, and the gradient through all of them (compute/evaluations.py)."""
    probes = config.jacobian.probes
    return Evaluations(1, 2 * probes + 1, probes + 1)


def pretraining_step(config: Config) -> Evaluations:
    """A training step of the trunk."""
    return TRAINED * config.pretrain.layers


def pretraining_validation(config: Config) -> Evaluations:
    """Clean accuracy of the trunk after an epoch."""
    return Evaluations(config.pretrain.layers)


def validation(config: Config, model: str, *, state: Number | None = None) -> Evaluations:
    """Clean accuracy and accuracy under PGD of a DEQ after an epoch.

    Args:
        config: the experiment.
        model: the DEQ.
        state: the state that the attack sees on average, where it sees random ones; None: on average over all draws.
    """
    last, unroll = config.solver.steps, training_unroll(config)
    random = vocabulary.MODELS[model].random_states and config.selection.attack_random_state
    seen = _mean(last) if random else last
    final = reached(config.solver, last) + Evaluations(unroll)
    crafted = _state(config, seen if state is None else state, random=random) + GRADIENT * unroll
    return final * 2 + crafted * config.selection.attack.steps
