"""Which states a training step reads: how they are drawn, how long the solve is, and what of it is taken."""

import itertools
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier
from deqpipe.solver.base import FixedPointMap, Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Returned, Scope, Termination
from deqpipe.training.forward import DEQForward, DEQPass, LossStates, PlainForward, RandomStates, StateChoice, draws
from deqpipe.training.jacobian import JacobianRegularisation, gaussian_probes, jacobian_loss
from tests.reference.tiny import images, tiny_model
from tests.training.slow_states import slow_batch_residuals, slow_residuals, slow_returned

LENGTH = 8
FINAL = StateChoice(LENGTH, "lowest_batch")
RETURNED: tuple[Returned, ...] = ("last", "lowest_sample", "lowest_batch")
NEVER = JacobianRegularisation(weight=1.0, frequency=0.0, last_step=100, probes=1, length_jitter=(0, 0))
JITTERED = JacobianRegularisation(weight=2.0, frequency=1.0, last_step=1000, probes=2, length_jitter=(2, 2))


def drawn(rule: RandomStates, count: int = 800) -> list[LossStates]:
    """The states of many steps."""
    return [rule.draw(draws(3, step).states, final=FINAL) for step in range(count)]


def chi_square(values: list[int]) -> float:
    expected = len(values) / LENGTH
    return sum((values.count(i) - expected) ** 2 / expected for i in range(1, LENGTH + 1))


def test_states_are_uniform_between_1_and_n() -> None:
    adversarial = [states.adversarial.steps for states in drawn(RandomStates(in_attack=True, natural="final"))]
    assert set(adversarial) == set(range(1, LENGTH + 1))
    assert chi_square(adversarial) < 24.3  # 99.9 % of a chi-square variable with 7 degrees of freedom


def test_natural_branch_has_the_final_state_its_own_or_the_other_ones() -> None:
    assert {states.natural for states in drawn(RandomStates(in_attack=True, natural="final"))} == {FINAL}
    shared = drawn(RandomStates(in_attack=True, natural="shared"))
    assert all(states.natural == states.adversarial for states in shared)
    independent = drawn(RandomStates(in_attack=True, natural="independent"))
    assert chi_square([states.natural.steps for states in independent]) < 24.3
    together = [((states.natural.steps - states.adversarial.steps) % LENGTH) + 1 for states in independent]
    assert chi_square(together) < 24.3


@pytest.mark.parametrize("natural", ["final", "independent", "shared"])
@pytest.mark.parametrize("returned", RETURNED)
def test_lengths_of_the_adversarial_branch_depend_neither_on_the_natural_one_nor_on_what_is_read(
    natural: Literal["final", "independent", "shared"], returned: Returned
) -> None:
    reference = drawn(RandomStates(in_attack=True, natural="final"), 20)
    others = drawn(RandomStates(in_attack=True, natural=natural, returned=returned), 20)
    assert [states.adversarial.steps for states in others] == [states.adversarial.steps for states in reference]


@pytest.mark.parametrize("returned", RETURNED)
def test_drawn_states_are_read_by_the_rule_of_the_draw_and_the_final_one_by_its_own(returned: Returned) -> None:
    independent = drawn(RandomStates(in_attack=True, natural="independent", returned=returned), 20)
    assert {choice.returned for states in independent for choice in (states.natural, states.adversarial)} == {returned}
    final = drawn(RandomStates(in_attack=True, natural="final", returned=returned), 20)
    assert {states.natural.returned for states in final} == {FINAL.returned}
    assert {states.adversarial.returned for states in final} == {returned}


def numbers(step: int, seed: int = 3) -> tuple[float, ...]:
    sources = draws(seed, step)
    return tuple(
        float(torch.rand((), generator=source)) for source in (sources.states, sources.dropout, sources.jacobian)
    )


def test_draws_are_keyed_by_the_step_and_not_by_the_order_of_steps() -> None:
    forwards = {step: numbers(step) for step in range(6)}
    backwards = {step: numbers(step) for step in reversed(range(6))}
    assert forwards == backwards


def test_draws_differ_between_steps_seeds_and_purposes() -> None:
    values = list(itertools.chain(*(numbers(step, seed) for step in range(5) for seed in range(3))))
    assert len(set(values)) == len(values)


def forward(
    random: RandomStates | None = None, jacobian: JacobianRegularisation = NEVER, *, returned: Returned = "last"
) -> DEQForward:
    return DEQForward(
        solver=Broyden(),
        termination=Termination(max_steps=LENGTH),
        gradient=Unrolled(steps=2, damping=0.5),
        random_states=random,
        jacobian=jacobian,
        returned=returned,
    )


def prepared(whole: DEQForward, count: int = 1) -> list[DEQPass]:
    """The passes of the first steps."""
    model = tiny_model()
    return [whole.prepare(model, draws(3, step)) for step in range(count)]


@pytest.mark.parametrize("returned", RETURNED)
def test_without_random_states_every_branch_and_every_attack_step_reads_z_star(returned: Returned) -> None:
    star = StateChoice(LENGTH, returned)
    whole = forward(returned=returned)
    (passes,) = prepared(whole)
    assert whole.final == star
    assert passes.loss_states == passes.crafting_states() == LossStates(natural=star, adversarial=star)


@pytest.mark.parametrize("returned", RETURNED)
def test_an_attack_that_sees_no_random_states_sees_z_star(returned: Returned) -> None:
    random = RandomStates(in_attack=False, natural="independent", returned="lowest_sample")
    (passes,) = prepared(forward(random, returned=returned))
    star = StateChoice(LENGTH, returned)
    assert passes.crafting_states() == LossStates(natural=star, adversarial=star)
    assert passes.loss_states.adversarial.returned == "lowest_sample"


def test_an_attack_that_sees_random_states_draws_anew_at_every_step() -> None:
    random = RandomStates(in_attack=True, natural="independent", returned="lowest_batch")
    (passes,) = prepared(forward(random))
    seen = [passes.crafting_states() for _ in range(200)]
    for branch in ([states.natural for states in seen], [states.adversarial for states in seen]):
        assert set(branch) == {StateChoice(steps, "lowest_batch") for steps in range(1, LENGTH + 1)}


def test_a_regularised_step_lengthens_the_solves_of_the_loss_but_not_those_of_the_attack() -> None:
    (passes,) = prepared(forward(jacobian=JITTERED, returned="lowest_batch"))
    longer = StateChoice(LENGTH + 2, "lowest_batch")
    assert passes.loss_states == LossStates(natural=longer, adversarial=longer)
    assert passes.crafting_states().adversarial == StateChoice(LENGTH, "lowest_batch")


def test_random_states_of_a_regularised_step_come_from_its_longer_solve() -> None:
    random = RandomStates(in_attack=True, natural="final", returned="lowest_sample")
    longer = prepared(forward(random, JITTERED), 200)
    assert {passes.loss_states.adversarial.steps for passes in longer} == set(range(1, LENGTH + 3))
    assert {passes.loss_states.natural for passes in longer} == {StateChoice(LENGTH + 2, "last")}
    assert {passes.crafting_states().adversarial.steps for passes in longer} == set(range(1, LENGTH + 1))


def test_an_ordinary_network_reads_no_state() -> None:
    passes = PlainForward().prepare(torch.nn.Linear(1, 1), draws(3, 0))
    assert passes.loss_states == passes.crafting_states()
    assert passes.loss_states.natural.steps == 0


# What is read of a solve, against a slow version: the solver is run step by step, and every residual taken by hand.

SOLVERS: tuple[Solver[Any], ...] = (Broyden(), FixedPointIteration())


def slow_states(solver: Solver[Any], fn: FixedPointMap, z0: Tensor, steps: int) -> list[Tensor]:
    with torch.no_grad():
        state, states = solver.init(fn, z0), []
        for _ in range(steps):
            state = solver.step(fn, state)
            states.append(state.z)
    return states


def slow_choice(solver: Solver[Any], fn: FixedPointMap, z0: Tensor, choice: StateChoice) -> Tensor:
    return slow_returned(fn, slow_states(solver, fn, z0, choice.steps), choice.returned)


def slow_logits(model: DEQClassifier, fn: FixedPointMap, z: Tensor) -> Tensor:
    for _ in range(2):
        z = 0.5 * z + 0.5 * fn(z)
    return model.logits(z)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("returned", RETURNED)
def test_logits_are_those_behind_the_slowly_chosen_state(solver: Solver[Any], returned: Returned) -> None:
    model, x = tiny_model(seed=1), images(3)
    whole, fn = replace(forward(), solver=solver), model.bind(x)
    passes = whole.prepare(model, draws(3, 0))
    for steps in range(1, LENGTH + 1):
        choice = StateChoice(steps, returned)
        z = slow_choice(solver, fn, model.initial_state(x), choice)
        torch.testing.assert_close(whole.solve(model, fn, x, choice), z, rtol=0, atol=1e-12)
        expected = slow_logits(model, fn, z)
        torch.testing.assert_close(passes.crafting(choice)(x), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(whole.logits(model, x, choice), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_where_the_lowest_residual_is_not_the_last_the_three_readings_differ(solver: Solver[Any]) -> None:
    """On this model the images have their lowest residuals at different steps, and the batch has its own."""
    model, x = tiny_model(seed=1), images(3)
    last, by_sample, by_batch = (
        replace(forward(), solver=solver).logits(model, x, StateChoice(5, returned)) for returned in RETURNED
    )
    for left, right in itertools.combinations((last, by_sample, by_batch), 2):
        assert (left - right).abs().max() > 1e-2


@pytest.mark.parametrize("returned", RETURNED)
def test_image_is_read_alone_as_in_its_batch_unless_the_batch_decides(returned: Returned) -> None:
    model, x = tiny_model(seed=1), images(3)
    choice = StateChoice(5, returned)
    together = forward().logits(model, x, choice)
    alone = torch.cat([forward().logits(model, image[None], choice) for image in x])
    assert torch.allclose(together, alone, rtol=0, atol=1e-9) is (returned != "lowest_batch")


@pytest.mark.parametrize(
    ("scope", "returned"),
    [("sample", "last"), ("sample", "lowest_sample"), *(("batch", returned) for returned in RETURNED)],
)
def test_a_solve_that_reaches_the_tolerance_is_read_as_far_as_it_went(scope: Scope, returned: Returned) -> None:
    """To the first state below the tolerance, of every image or of the batch."""
    model, x, rtol = tiny_model(seed=1), images(3), 0.53
    whole, fn = replace(forward(), termination=Termination(LENGTH, rtol=rtol, scope=scope)), model.bind(x)
    found = whole.solve(model, fn, x, StateChoice(LENGTH, returned))
    states = slow_states(whole.solver, fn, model.initial_state(x), LENGTH)
    batch = slow_batch_residuals(fn, states)[:, None].expand(-1, 3)
    below = (slow_residuals(fn, states) if scope == "sample" else batch) < rtol
    ends = [next((n for n in range(1, LENGTH) if below[n - 1, image]), LENGTH) for image in range(3)]
    assert min(ends) < LENGTH
    for image, end in enumerate(ends):
        expected = slow_choice(whole.solver, fn, model.initial_state(x), StateChoice(end, returned))
        torch.testing.assert_close(found[image], expected[image], rtol=0, atol=1e-12)


def test_reading_costs_one_evaluation_more_where_residuals_decide() -> None:
    """z^[N] is proposed without its residual; the lowest of N states needs all N residuals."""
    model, x = tiny_model(), images(3)
    counts = []
    for returned in RETURNED:
        before = model.counter.counted.forward
        forward().solve(model, model.bind(x), x, StateChoice(4, returned))
        counts.append((model.counter.counted.forward - before) // len(x))
    assert counts == [4, 5, 5]


@pytest.mark.parametrize("returned", RETURNED)
def test_jacobian_term_is_taken_at_the_state_that_is_read(returned: Returned) -> None:
    model, x = tiny_model(seed=1), images(3)
    choice, sources = StateChoice(5, returned), draws(3, 0)
    passes = forward(jacobian=JITTERED).prepare(model, sources)
    state = sources.jacobian.get_state()
    output = passes.training(x, choice, penalised=True)
    sources.jacobian.set_state(state)
    fn = model.bind(x)
    z = slow_choice(Broyden(), fn, model.initial_state(x), choice)
    probes = gaussian_probes(z, count=2, generator=sources.jacobian)
    torch.testing.assert_close(output.penalty, 2.0 * jacobian_loss(fn, z, probes), rtol=1e-9, atol=0)
    torch.testing.assert_close(output.logits, slow_logits(model, fn, z), rtol=0, atol=1e-12)
    assert passes.training(x, choice, penalised=False).penalty == 0
