"""The two ways to keep Broyden's pairs: the same bits, and values that stay what they were."""

import pytest
import torch
from torch import Tensor

from deqpipe.solver.broyden import Broyden
from deqpipe.solver.pairs import StackedPairs, StoredPairs, low_rank
from deqpipe.solver.solve import Termination, solve
from tests.solver.problems import SIZE, Curved, start, tensors


def vectors(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(2, SIZE, generator=generator), torch.randn(2, SIZE, generator=generator)


@pytest.mark.parametrize("room", [1, 3, 8])
def test_stored_pairs_are_the_stacked_ones_however_much_room_there_was(room: int) -> None:
    stacked, stored = StackedPairs.none(torch.zeros(2, SIZE)), StoredPairs.none(torch.zeros(2, SIZE), room)
    for number in range(7):
        stacked, stored = stacked.append(*vectors(number)), stored.append(*vectors(number))
        assert torch.equal(stored.left, stacked.left)
        assert torch.equal(stored.right, stacked.right)
        assert torch.equal(stored.first(number).left, stacked.first(number).left)


def test_pairs_stay_what_they_were_when_two_solves_go_on_from_them() -> None:
    pairs = StoredPairs.none(torch.zeros(2, SIZE), 8).append(*vectors(0))
    one, other = pairs.append(*vectors(1)), pairs.append(*vectors(2))
    for number, longer in ((1, one), (2, other)):
        assert torch.equal(longer.left[:, 0], vectors(0)[0])
        assert torch.equal(longer.left[:, 1], vectors(number)[0])
        assert torch.equal(longer.right[:, 1], vectors(number)[1])
    assert pairs.left.shape[1] == 1


def test_pairs_that_have_room_are_not_copied() -> None:
    pairs = StoredPairs.none(torch.zeros(2, SIZE), 4)
    for number in range(4):
        longer = pairs.append(*vectors(number))
        assert longer.store is pairs.store
        pairs = longer
    assert pairs.append(*vectors(4)).store is not pairs.store


def test_low_rank_product_is_the_written_out_one() -> None:
    left, right = torch.stack([vectors(n)[0] for n in range(3)], 1), torch.stack([vectors(n)[1] for n in range(3)], 1)
    vector = vectors(9)[0]
    for image in range(2):
        dense = -torch.eye(SIZE) + sum(torch.outer(left[image, k], right[image, k]) for k in range(3))
        torch.testing.assert_close(low_rank(left, right, vector)[image], dense @ vector[image])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_solve_has_the_same_bits_in_both_ways(dtype: torch.dtype) -> None:
    fn = Curved(3).of([0, 1, 2])
    found = []
    for in_place in (True, False):
        solver = Broyden(room=3, in_place=in_place)
        state = solver.init(lambda z: fn(z.double()).to(dtype), start(3).to(dtype))
        solution, last = solve(solver, lambda z: fn(z.double()).to(dtype), state, termination=Termination(8))
        found.append((solution.states, tensors(last)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


@pytest.mark.parametrize("in_place", [True, False])
def test_solve_that_branches_is_not_disturbed_by_its_other_branch(in_place: bool) -> None:
    one, other = Curved(2).of([0, 1]), Curved(2, seed=5).of([0, 1])
    solver = Broyden(in_place=in_place)
    _, state = solve(solver, one, solver.init(one, start(2)), termination=Termination(3))
    alone, _ = solve(solver, one, state, termination=Termination(4))
    first = solver.step(one, state)
    aside, _ = solve(solver, other, solver.reevaluate(other, state), termination=Termination(4))
    rest, _ = solve(solver, one, first, termination=Termination(3))
    assert torch.equal(rest.states, alone.states[1:])
    assert not torch.equal(aside.states, alone.states)


def test_gradients_pass_through_steps_that_are_not_in_place() -> None:
    solver = Broyden(in_place=False)

    def third_state(shift: Tensor) -> Tensor:
        def fn(z: Tensor) -> Tensor:
            return torch.tanh(z.roll(1, dims=1) * 0.7 - z * 0.4) + shift

        state = solver.init(fn, torch.zeros_like(shift))
        for _ in range(3):
            state = solver.step(fn, state)
        return state.z

    shift = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(third_state, (shift,))
