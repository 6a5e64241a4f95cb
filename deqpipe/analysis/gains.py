"""What a gain is made of: another state to decide at, restarts of the solver, descent of the input, other weights.

Early states are chosen anew for every defence and every model, and a better state alone can be the whole gain. Records
of the grid hold the answers at every state, so that each step from a baseline to a method can be counted on the same
attacked images, one change at a time:

    Sec. 3.2:  undefended at its own state -> undefended at the defence's state -> R = 0 -> the defence
    Sec. 3.3:  weights without at their own state -> the same at the other's state -> weights with

Each step is a difference of minima over the grid, paired by image; the steps of a gain add up to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from deqpipe.analysis.decision import Decision
from deqpipe.analysis.early_states import early_states
from deqpipe.analysis.evaluation import Evaluation
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Correct, Estimate
from deqpipe.workflow import vocabulary
from deqpipe.workflow.defences import MATCHED, PLAIN, ZERO_STEPS, defence_of


@dataclass(frozen=True)
class DefenceGain:
    """What a defence has over the same weights undefended.

    Attributes:
        decision: with the defence.
        undefended: the same weights at their own early state.
        whole: all of it.
        state: deciding at the defence's early state instead, still undefended.
        restarts: solving as the defence does, without its descent, at that state; None: it restarts nothing.
        descent: the rest. Where no control was scored of a defence that restarts its solver, restarts are in it.
    """

    decision: Decision
    undefended: Decision
    whole: Estimate
    state: Estimate
    restarts: Estimate | None
    descent: Estimate


@dataclass(frozen=True)
class TrainingGain:
    """What weights trained with Sec. 3.3 have over those without, with the same defence.

    Attributes:
        decision: with Sec. 3.3.
        baseline: without.
        whole: all of it.
        state: deciding at the other's early state, with the weights without.
        weights: the rest.
    """

    decision: Decision
    baseline: Decision
    whole: Estimate
    state: Estimate
    weights: Estimate


def undefended(decision: Decision) -> Decision | None:
    """The same weights undefended, at their own early state; None for that itself and what only explains a gain."""
    if decision.defence == PLAIN.name or defence_of(decision.defence).beside:
        return None
    whose = vocabulary.MODELS[decision.model].weights_of or decision.model
    return Decision(whose, PLAIN.name)


def own_control(decision: Decision) -> Decision | None:
    """The control without descent steps, at the decision's state; None where a defence has none."""
    if defence_of(ZERO_STEPS.name).control_of != decision.defence:
        return None
    return replace(decision, defence=ZERO_STEPS.name)


def equal_cost(decision: Decision) -> tuple[Decision, ...]:
    """What a defence's cost gives without it, undefended: a longer solve, the networks of all seeds together."""
    rivals = (name for name in MATCHED if defence_of(name).matched_to == decision.defence)
    return tuple(replace(decision, defence=name) for name in rivals)


def without_random_states(decision: Decision) -> Decision | None:
    """The same defence with weights of the same framework that were trained without Sec. 3.3; None for these.

    None as well for what only explains a gain.
    """
    trained = vocabulary.MODELS[decision.model]
    if not trained.random_states or defence_of(decision.defence).beside:
        return None
    alike = replace(trained, random_states=False, name="", weights_of=None, decides_by=(), origin="")
    base = next(name for name in vocabulary.EVERY_DEQ if replace(vocabulary.MODELS[name], name="") == alike)
    if trained.weights_of is None:
        return replace(decision, model=base)
    peers = (name for name, kind in vocabulary.MODELS.items() if kind.weights_of == base)
    return next(
        (replace(decision, model=name) for name in peers if decision.defence in vocabulary.MODELS[name].defences), None
    )


def restarts_solver(decision: Decision, config: Config) -> bool:
    """Whether a defence changes the solve even where the input stays as it is: Algorithm 1 does not."""
    return own_control(decision) is not None and config.entropy.resolve == "quasi_newton"


def states_needed(tree: Tree) -> tuple[int, ...]:
    """All states at which any decision of a DEQ is taken."""
    chosen = (early_states(tree, model) for model in (*vocabulary.DEQS, *vocabulary.own(tree.config)))
    return tuple(sorted({one.state for states in chosen for one in states.values()}))


def of_defence(
    decision: Decision, evaluations: Mapping[Decision, Evaluation], config: Config, bootstrap: Bootstrap
) -> DefenceGain | None:
    """The gain of a decision's defence; None where it has none.

    Args:
        decision: whose.
        evaluations: of all decisions, read at `states_needed`.
        config: says how the defence solves again.
        bootstrap: how intervals are made.
    """
    base = undefended(decision)
    if base is None:
        return None
    with_defence, without = evaluations[decision], evaluations[base]
    start, moved, end = without.right, without.read_at(with_defence.state), with_defence.right
    restarts, before = None, moved
    control = evaluations.get(own_control(decision) or decision)
    if restarts_solver(decision, config) and control is not None and control is not with_defence:
        restarts, before = _step(moved, control.right, bootstrap), control.right
    whole, state, descent = (_step(*pair, bootstrap) for pair in ((start, end), (start, moved), (before, end)))
    return DefenceGain(decision, base, whole, state, restarts, descent)


def of_training(
    decision: Decision, evaluations: Mapping[Decision, Evaluation], bootstrap: Bootstrap
) -> TrainingGain | None:
    """The gain of weights trained with Sec. 3.3; None for weights without.

    Args:
        decision: whose.
        evaluations: of all decisions, read at `states_needed`.
        bootstrap: how intervals are made.
    """
    base = without_random_states(decision)
    if base is None:
        return None
    with_it, without = evaluations[decision], evaluations[base]
    start, moved, end = without.right, without.read_at(with_it.state), with_it.right
    whole, state, weights = (_step(*pair, bootstrap) for pair in ((start, end), (start, moved), (moved, end)))
    return TrainingGain(decision, base, whole, state, weights)


def _step(before: Correct, after: Correct, bootstrap: Bootstrap) -> Estimate:
    """What one change adds to the lowest accuracy over the grid, paired by image."""
    return intervals.minimum_difference(after, before, bootstrap)
