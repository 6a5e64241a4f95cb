"""Surrogates are Eq. (11) written out, over i, K_a, lambda and the leading step."""

import itertools
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from deqpipe.attack.surrogate import (
    IntermediateState,
    StackedStates,
    defended_surrogate_of,
    stacked_surrogate_of,
    surrogate_of,
)
from deqpipe.defence.entropy import InputDescent, InputEntropyReduction, RestartedEntropyReduction, Schedule
from deqpipe.defence.rule import DecisionRule
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.workflow.gridpoints import GridPoint
from tests.reference import slow_mdeq, textbook
from tests.reference.tiny import images, tiny_model
from tests.sampling import one_in

N = 4
MODEL = tiny_model(2, size=4)
DYNAMICS = PlainDynamics(Broyden(), Termination(N))
GRID = list(itertools.product((1, 2, 4), (1, 3), (0.5, 1.0), (False, True)))


def by_hand(x: torch.Tensor, *, state: int, steps: int, damping: float, lead_step: bool) -> torch.Tensor:
    """Logits of one image."""
    weights, shapes = MODEL.state_dict(), MODEL.function.shapes

    def f(z: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return slow_mdeq.f(weights, z, image, shapes=shapes, groups=4)

    start = torch.zeros(MODEL.state_size, dtype=torch.float64)
    z = textbook.broyden(lambda z: f(z, x.detach()), start, N)[state - 1]
    z = f(z, x) if lead_step else z
    for _ in range(steps):
        z = (1 - damping) * z + damping * f(z, x)
    return slow_mdeq.head(weights, z, shapes=shapes)


@pytest.mark.parametrize(("state", "steps", "damping", "lead_step"), GRID)
def test_logits_and_their_gradient_are_equation_11(state: int, steps: int, damping: float, lead_step: bool) -> None:
    point = GridPoint(damping=damping, state=state, steps=steps)
    surrogate = surrogate_of(point, dynamics=DYNAMICS, lead_step=lead_step)
    x, x_hand = images(2, size=4).requires_grad_(), images(2, size=4).requires_grad_()
    logits = surrogate(MODEL, x)
    rows = [by_hand(image, state=state, steps=steps, damping=damping, lead_step=lead_step) for image in x_hand]
    expected = torch.stack(rows)
    torch.testing.assert_close(logits, expected, rtol=1e-7, atol=1e-8)
    mixture = torch.arange(1.0, logits.numel() + 1, dtype=torch.float64).view_as(logits)
    (gradient,) = torch.autograd.grad((logits * mixture).sum(), x)
    (expected_gradient,) = torch.autograd.grad((expected * mixture).sum(), x_hand)
    assert (gradient - expected_gradient).norm() <= 1e-6 * expected_gradient.norm()


def test_every_point_of_the_grid_has_logits_of_its_own() -> None:
    x = images(1, size=4)
    with torch.no_grad():
        logits = [
            surrogate_of(GridPoint(damping=d, state=i, steps=k), dynamics=DYNAMICS, lead_step=False)(MODEL, x)
            for i, k, d, lead in GRID
            if not lead
        ]
    assert not any(torch.allclose(a, b, rtol=1e-6) for a, b in itertools.combinations(logits, 2))


def test_point_is_taken_by_name() -> None:
    surrogate = surrogate_of(GridPoint(damping=0.3, state=2, steps=7), dynamics=DYNAMICS, lead_step=True)
    assert surrogate == IntermediateState(2, Unrolled(steps=7, damping=0.3, lead_step=True), DYNAMICS)


@pytest.mark.parametrize(("state", "steps"), [(1, 1), (3, 2), (4, 5)])
def test_logits_cost_as_many_evaluations_as_states_and_steps(state: int, steps: int) -> None:
    model, x = tiny_model(1, size=4), images(2, size=4)
    surrogate_of(GridPoint(damping=0.5, state=state, steps=steps), dynamics=DYNAMICS, lead_step=False)(model, x)
    assert model.counter.counted.forward == 2 * (state + steps)


@pytest.mark.parametrize("state", [0, N + 1])
def test_state_that_the_dynamics_do_not_have_is_refused(state: int) -> None:
    surrogate = surrogate_of(GridPoint(damping=0.5, state=state, steps=1), dynamics=DYNAMICS, lead_step=False)
    with pytest.raises(IndexError, match=f"state {state} was asked for, but the dynamics have states 1 to {N}"):
        surrogate(MODEL, images(1, size=4))


DEFENDED: dict[str, tuple[Any, ...]] = {
    "Algorithm 1": (InputEntropyReduction, Schedule(2)),
    "Algorithm 1 without the last update": (InputEntropyReduction, Schedule(2, update_last=False)),
    "Algorithm 1 at the lowest state": (InputEntropyReduction, Schedule(3, lowest=True)),
    "authors' code": (RestartedEntropyReduction, Schedule(2, update_last=False, lowest=True, final_updated=False)),
    "authors' code, last state solved again": (RestartedEntropyReduction, Schedule(2)),
    "authors' code, uneven rounds": (RestartedEntropyReduction, Schedule(3, lowest=True)),
}
TERMINATIONS = (Termination(6), Termination(6, rtol=0.05), Termination(6, rtol=0.05, scope="batch"))


def defended(which: str, termination: Termination) -> Dynamics:
    kind, schedule = DEFENDED[which]
    descent = InputDescent(LinfBall(0.1), steps=2, step_size=0.03)
    built: Dynamics = kind(Broyden(), termination, descent, schedule, "lowest_batch")
    return built


@pytest.mark.parametrize("termination", one_in(2, TERMINATIONS))
@pytest.mark.parametrize("which", one_in(2, sorted(DEFENDED), first=1))
def test_first_states_of_defended_dynamics_are_those_of_the_whole_solve(which: str, termination: Termination) -> None:
    dynamics, x = defended(which, termination), images(3, size=4)
    whole = dynamics(MODEL, x)
    plain = PlainDynamics(Broyden(), termination)(MODEL, x)
    assert not torch.equal(whole.state(5), plain.state(5)), "the defence does something"
    for index in range(1, 7):
        shortened = dynamics.up_to(index)(MODEL, x)
        assert torch.equal(shortened.solution.states, whole.solution.states[:index])


@pytest.mark.parametrize("termination", TERMINATIONS)
@pytest.mark.parametrize("which", one_in(2, sorted(DEFENDED)))
def test_defended_dynamics_without_the_last_residual_differ_in_nothing_else(
    which: str, termination: Termination
) -> None:
    dynamics, x = cast(Any, defended(which, termination)), images(3, size=4)
    for returned, index in (("last", 6), ("last", 5), ("lowest_sample", 6)):
        counts, found = [], []
        for last_residual in (True, False):
            before = MODEL.counter.counted.forward
            one = replace(dynamics, termination=replace(termination, max_steps=index), returned=returned)
            found.append(one(MODEL, x, last_residual=last_residual))
            counts.append(MODEL.counter.counted.forward - before)
        whole, spared = found
        assert torch.equal(spared.solution.states, whole.solution.states)
        assert torch.equal(spared.solution.moved, whole.solution.moved)
        assert torch.equal(spared.solution.residuals[:-1], whole.solution.residuals[:-1])
        assert torch.equal(spared.equilibrium, whole.equilibrium)
        assert torch.equal(spared.x, whole.x)
        stopped = termination.scope == "batch" and not whole.solution.moved[-1].any()
        spares = returned == "last"
        assert counts[0] - counts[1] == (3 if spares and not stopped else 0)
        assert bool(spared.solution.residuals[-1].isnan().all()) == spares


def test_first_states_of_other_dynamics_are_theirs() -> None:
    x = images(2, size=4)
    for index in range(1, N + 1):
        found = DYNAMICS.up_to(index)(MODEL, x)
        assert torch.equal(found.solution.states, DYNAMICS(MODEL, x).solution.states[:index])


@pytest.mark.parametrize("which", sorted(DEFENDED))
@pytest.mark.parametrize(("state", "lead_step"), [(1, False), (4, True), (6, False)])
def test_surrogate_through_the_defence_starts_there_and_unrolls_at_the_received_input(
    which: str, state: int, lead_step: bool
) -> None:
    dynamics, x = defended(which, Termination(6)), images(2, size=4).requires_grad_()
    surrogate = defended_surrogate_of(
        GridPoint(damping=0.5, state=state, steps=2), dynamics=dynamics, lead_step=lead_step
    )
    z, fn = dynamics(MODEL, x.detach()).state(state), MODEL.bind(x)
    z = fn(z) if lead_step else z
    for _ in range(2):
        z = 0.5 * z + 0.5 * fn(z)
    expected, logits = MODEL.logits(z), surrogate(MODEL, x)
    assert torch.equal(logits, expected)
    weights = torch.arange(1.0, logits.numel() + 1, dtype=torch.float64).view_as(logits)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), x)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(gradient, expected_gradient)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("state", [1, 2, N])
def test_a_decision_rule_gets_the_states_before_as_constants_and_the_unrolled_one(state: int) -> None:
    """The mean of all states: its value is the mean, and its gradient that of the last one, by its share."""
    x, point = images(2, size=4).requires_grad_(), GridPoint(damping=0.5, state=state, steps=2)
    mean = DecisionRule("mean", lambda logits: logits.mean(0))
    ruled, blind = (
        defended_surrogate_of(point, dynamics=DYNAMICS, lead_step=False, rule=rule)(MODEL, x) for rule in (mean, None)
    )
    before = [MODEL.logits(z) for z in DYNAMICS(MODEL, x.detach()).solution.states[: state - 1]]
    torch.testing.assert_close(ruled, torch.stack([*before, blind]).mean(0))
    weights = torch.arange(1.0, ruled.numel() + 1, dtype=ruled.dtype).view_as(ruled)
    (gradient,), (of_last,) = (torch.autograd.grad((one * weights).sum(), x) for one in (ruled, blind))
    torch.testing.assert_close(gradient, of_last / state)
    assert gradient.abs().sum() > 0


def test_surrogate_through_the_defence_is_spared_what_comes_after_its_state() -> None:
    dynamics, x, counts = defended("Algorithm 1", Termination(6)), images(2, size=4), []
    for index in (1, 6):
        model = tiny_model(2, size=4)
        point = GridPoint(damping=0.5, state=index, steps=1)
        defended_surrogate_of(point, dynamics=dynamics, lead_step=False)(model, x)
        counts.append(model.counter.counted.forward)
    assert counts[0] == 2 * (1 + 1), "z^[0], and the unroll"
    assert counts[1] == 2 * (6 + 3 * (2 + 1) + 1), "z^[0] .. z^[5], three updates of two steps and their new inputs"


@pytest.mark.parametrize("state", [0, 7])
def test_state_that_defended_dynamics_do_not_have_is_refused(state: int) -> None:
    point, dynamics = GridPoint(damping=0.5, state=state, steps=1), defended("Algorithm 1", Termination(6))
    with pytest.raises(IndexError, match=f"state {state} was asked for, but the solver recorded states 1 to 6"):
        defended_surrogate_of(point, dynamics=dynamics, lead_step=False)(MODEL, images(1, size=4))


@pytest.mark.parametrize(("state", "damping", "lead_step"), [(1, 0.5, False), (3, 0.5, True), (4, 1.0, False)])
@pytest.mark.parametrize("lengths", [(3,), (5, 2, 1), (4, 3, 1)])
def test_stacked_surrogates_are_each_of_them(
    state: int, damping: float, lead_step: bool, lengths: tuple[int, ...]
) -> None:
    points = [GridPoint(damping=damping, state=state, steps=steps) for steps in lengths]
    stacked = stacked_surrogate_of(points, dynamics=DYNAMICS, lead_step=lead_step)
    batches = [images(2, size=4, seed=seed) for seed in range(len(points))]
    x = torch.cat(batches).requires_grad_()
    logits = stacked(MODEL, x)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    for number, (point, batch) in enumerate(zip(points, batches, strict=True)):
        alone = batch.requires_grad_()
        expected = surrogate_of(point, dynamics=DYNAMICS, lead_step=lead_step)(MODEL, alone)
        (expected_gradient,) = torch.autograd.grad(expected.square().sum(), alone)
        own = slice(2 * number, 2 * number + 2)
        torch.testing.assert_close(logits[own], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient[own], expected_gradient, rtol=1e-10, atol=1e-12)


def test_stacked_surrogates_share_the_solve_and_stop_unrolling_one_after_the_other() -> None:
    points = [GridPoint(damping=0.5, state=3, steps=steps) for steps in (5, 2, 1)]
    before = MODEL.counter.counted
    stacked_surrogate_of(points, dynamics=DYNAMICS, lead_step=False)(MODEL, images(6, size=4))
    assert (MODEL.counter.counted - before).forward == 6 * 3 + 2 * (5 + 2 + 1)


@pytest.mark.parametrize(
    "gradients",
    [
        (Unrolled(1, 0.5), Unrolled(2, 0.5)),
        (Unrolled(2, 0.5), Unrolled(1, 1.0)),
        (Unrolled(2, 0.5, True), Unrolled(1, 0.5)),
    ],
)
def test_surrogates_that_cannot_be_stacked_are_refused(gradients: tuple[Unrolled, ...]) -> None:
    with pytest.raises(ValueError, match="must differ in steps only, the longest first"):
        StackedStates(index=1, gradients=gradients, dynamics=DYNAMICS)
