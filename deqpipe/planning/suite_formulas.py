"""Closed formulas of the suite: how often its attacks evaluate f for an image that nothing turns.

tests/planning/test_suite_formulas.py compares every one with what the counter of a real model says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deqpipe.config import AttackSuiteConfig, Config
from deqpipe.counts import NO_EVALUATIONS, Evaluations, sum_of
from deqpipe.evaluation.judge import at
from deqpipe.planning import formulas
from deqpipe.planning.formulas import GRADIENT
from deqpipe.workflow.suite_attacks import Kind, SuiteAttack

UNROLL = 5
"""Applications of f behind an unrolled state (`attack.suite.UNROLL`)."""


@dataclass(frozen=True)
class Decided:
    """A decision at a state, and what is to be known of its dynamics.

    Attributes:
        state: that decides.
        last: N.
        decision: evaluations of it.
        solves: applications of f in its solves that its state follows from.
        updates: of the input on the way.
        descents: applications of f in each update, every one with its gradient.
        defended: whether a defence changes its dynamics.
        longer: whether its dynamics are the undefended ones with more steps.
        may_stop_early: whether a solve may end before N, as the one that the adjoint is carried along with does not.
        restarts: of the first evaluation, which nothing follows from once the input is updated behind z^[1].
    """

    state: int
    last: int
    decision: Evaluations
    solves: int
    updates: int = 0
    descents: int = 0
    defended: bool = False
    longer: bool = False
    may_stop_early: bool = False
    restarts: bool = False

    @property
    def kind(self) -> Kind:
        """What sort of decision it is."""
        return "defended" if self.defended else "plain"


def decided(config: Config, defence: str, state: int) -> Decided:
    """A decision of a DEQ at a state."""
    entropy, evaluations = formulas.keys(config, defence), formulas.decision(config, defence, at(state))
    last, stops = config.solver.steps, config.solver.tolerance > 0 or config.solver.scope == "batch"
    if entropy is None:
        solves = int(evaluations.forward)
        return Decided(state, last, evaluations, solves, longer=solves > state, may_stop_early=stops)
    every, looks_ahead = entropy.solver_steps, entropy.resolve == "alg1"
    solved_again = looks_ahead or (state == last and entropy.last_update == "resolve")
    due = [n for n in range(every, state + 1, every) if n < state or solved_again]
    ahead = len(due) if looks_ahead and entropy.state == "lowest" else 0
    solves = int(evaluations.forward) - entropy.input_steps * len(due) - ahead
    wasted = looks_ahead and every == 1
    return Decided(state, last, evaluations, solves, len(due), entropy.input_steps, defended=True, restarts=wasted)


def spent(attack: SuiteAttack, suite: AttackSuiteConfig, one: Decided, *, others: int) -> Evaluations:
    """An attack on an image that withstands it.

    Args:
        attack: which one.
        suite: how much is spent.
        one: the decision.
        others: wrong classes.
    """
    starts, steps = attack.starts(suite, others), attack.steps(suite)
    if attack.search in ("noise", "square", "rays"):
        return one.decision * (starts * steps)
    each = [_gradient(attack, one, number) for number in range(starts)]
    measured = steps + (attack.search == "apgd")  # where it starts as well
    last = starts * (attack.search == "pgd")  # where each start ends; of APGD it was measured
    asked = last + 1 + (attack.loss == "features")  # and the clean image
    return sum_of(each) * measured + one.decision * asked


def _gradient(attack: SuiteAttack, one: Decided, number: int) -> Evaluations:
    """What is made large from a start, with its gradient, and the decision's answer."""
    return _GRADIENTS[attack.gradient](one, number)


def _exact(one: Decided, number: int) -> Evaluations:
    return one.decision + Evaluations(backward_input=one.solves - one.restarts)


def _straight_through(one: Decided, number: int) -> Evaluations:
    """A second backward pass goes through every gradient of the descent, and reaches f's value there."""
    return one.decision + Evaluations(backward_input=one.solves + 2 * one.updates * one.descents)


def _smoothed(one: Decided, number: int) -> Evaluations:
    return _straight_through(one, number) + one.decision


def _before_update(one: Decided, number: int) -> Evaluations:
    return one.decision + Evaluations(backward_input=one.solves) + GRADIENT * one.updates


def _unrolled(one: Decided, number: int) -> Evaluations:
    index = (1, min(3, one.last), one.last, min(5, one.last))[number % 4]
    return Evaluations(index) + GRADIENT * UNROLL + one.decision


def _adjoint(one: Decided, number: int) -> Evaluations:
    """The solve and its first residual, a product at every state, and the gradient of f at the last one."""
    asked = one.decision if one.defended or one.longer or one.may_stop_early else NO_EVALUATIONS
    return GRADIENT * (one.state + 1) + asked


def _bpda(one: Decided, number: int) -> Evaluations:
    return one.decision + GRADIENT * UNROLL


_GRADIENTS: Mapping[str, Callable[[Decided, int], Evaluations]] = {
    "decision": _exact,
    "average": _exact,
    "unrolled": _unrolled,
    "adjoint": _adjoint,
    "received": _bpda,
    "updated": _bpda,
    "straight_through": _straight_through,
    "smoothed": _smoothed,
    "before_update": _before_update,
}
