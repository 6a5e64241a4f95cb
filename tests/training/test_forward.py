import itertools

import pytest
import torch

from deqpipe.training.forward import RandomStates, draws

LENGTH = 8


def drawn(rule: RandomStates, count: int = 800) -> list[tuple[int, int]]:
    """(natural, adversarial) of many steps."""
    states = [rule.draw(draws(3, step).states, length=LENGTH) for step in range(count)]
    return [(state.natural, state.adversarial) for state in states]


def chi_square(values: list[int]) -> float:
    expected = len(values) / LENGTH
    return sum((values.count(i) - expected) ** 2 / expected for i in range(1, LENGTH + 1))


def test_states_are_uniform_between_1_and_n() -> None:
    adversarial = [pair[1] for pair in drawn(RandomStates(in_attack=True, natural="final"))]
    assert set(adversarial) == set(range(1, LENGTH + 1))
    assert chi_square(adversarial) < 24.3  # 99.9 % of a chi-square variable with 7 degrees of freedom


def test_natural_branch_has_the_final_state_its_own_or_the_other_ones() -> None:
    assert {natural for natural, _ in drawn(RandomStates(in_attack=True, natural="final"))} == {LENGTH}
    assert all(natural == other for natural, other in drawn(RandomStates(in_attack=True, natural="shared")))
    independent = drawn(RandomStates(in_attack=True, natural="independent"))
    assert chi_square([natural for natural, _ in independent]) < 24.3
    together = [((a - b) % LENGTH) + 1 for a, b in independent]
    assert chi_square(together) < 24.3


@pytest.mark.parametrize("natural", ["final", "independent", "shared"])
def test_adversarial_states_do_not_depend_on_what_the_natural_branch_does(natural: str) -> None:
    reference = drawn(RandomStates(in_attack=True, natural="final"), 20)
    assert [pair[1] for pair in drawn(RandomStates(in_attack=True, natural=natural), 20)] == [  # type: ignore[arg-type]
        pair[1] for pair in reference
    ]


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
