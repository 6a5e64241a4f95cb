"""States of a model along its dynamics: which there are, what they cost, and that images never meet."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqpipe.config import couples_images, parse_solver
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Returned, Scope, Status, Termination
from tests.reference import textbook
from tests.reference.tiny import images, tiny_model

N = 5
PLAIN = PlainDynamics(Broyden(), Termination(N))
MODEL = tiny_model(2)
SOLVERS = [Broyden(), Anderson(3), FixedPointIteration()]
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
every_rule = pytest.mark.parametrize("returned", ["last", "lowest_sample", "lowest_batch"])
every_scope = pytest.mark.parametrize("scope", ["sample", "batch"])


def slow_states(model: DEQClassifier, x: torch.Tensor) -> list[torch.Tensor]:
    fn = model.bind(x)
    return textbook.broyden(lambda z: fn(z[None])[0], torch.zeros(model.state_size, dtype=torch.float64), N)


@torch.no_grad()
def test_states_are_those_of_textbook_broyden_from_zero_image_by_image() -> None:
    model, x = tiny_model(2, size=4), images(2, size=4)
    trajectory = PLAIN(model, x)
    for image in range(2):
        expected = slow_states(model, x[image : image + 1])
        for n in range(1, N + 1):
            torch.testing.assert_close(trajectory.state(n)[image], expected[n - 1], rtol=1e-7, atol=1e-8)


@torch.no_grad()
def test_states_count_from_one() -> None:
    x = images(2)
    trajectory = PLAIN(MODEL, x)
    torch.testing.assert_close(trajectory.state(1), MODEL.bind(x)(MODEL.initial_state(x)))
    assert torch.equal(trajectory.state(N), trajectory.solution.z)
    assert isinstance(PLAIN, Dynamics)
    assert trajectory.x is x


@pytest.mark.parametrize("n", [0, -1, N + 1])
def test_state_that_was_not_recorded_is_refused(n: int) -> None:
    trajectory = PLAIN(MODEL, images(1))
    with pytest.raises(IndexError, match=f"state {n} was asked for, but the solver recorded states 1 to {N}"):
        trajectory.state(n)


@pytest.mark.parametrize("n", [0, -1, N + 1])
def test_state_beyond_the_dynamics_is_refused(n: int) -> None:
    x = images(1)
    with pytest.raises(IndexError, match=f"state {n} was asked for, but the dynamics have states 1 to {N}"):
        PLAIN.state(MODEL, MODEL.bind(x), x, index=n)


@every_solver
@every_scope
@every_rule
@pytest.mark.parametrize("rtol", [0.0, 0.6])
@torch.no_grad()
def test_single_state_is_bit_for_bit_that_of_the_whole_trajectory(
    solver: Solver[Any], scope: Scope, returned: Returned, rtol: float
) -> None:
    """Which state is z* has no say in what z^[n] is."""
    dynamics, x = PlainDynamics(solver, Termination(N, rtol, scope), returned), images(3)
    trajectory, fn = dynamics(MODEL, x), MODEL.bind(x)
    for n in range(1, N + 1):
        assert torch.equal(dynamics.state(MODEL, fn, x, index=n), trajectory.state(n))
    assert torch.equal(trajectory.equilibrium, trajectory.solution.returned(returned))
    assert (trajectory.solution.steps < N).any() == (rtol > 0)


def test_states_that_stand_for_the_equilibrium_differ_by_the_rule() -> None:
    x = images(4, size=4, seed=1)
    rules: tuple[Returned, ...] = ("last", "lowest_sample", "lowest_batch")
    model = tiny_model(2, size=4, seed=7)  # of the first four states, the third is lowest, except for the last image
    last, sample, batch = (PlainDynamics(Broyden(), Termination(4), rule)(model, x) for rule in rules)
    assert torch.equal(last.equilibrium, last.state(4))
    assert torch.equal(batch.equilibrium, last.state(3))
    assert torch.equal(sample.equilibrium[:3], last.state(3)[:3])
    assert torch.equal(sample.equilibrium[3], last.state(4)[3])
    for trajectory in (sample, batch):
        assert torch.equal(trajectory.solution.states, last.solution.states)


@every_rule
def test_final_state_is_the_equilibrium_unrolled(returned: Returned) -> None:
    x = images(3)
    trajectory = PlainDynamics(Broyden(), Termination(N), returned)(MODEL, x)
    z = trajectory.equilibrium
    assert torch.equal(z, trajectory.state(N)) == (returned == "last")
    with torch.no_grad():
        expected = 0.5 * z + 0.5 * MODEL.bind(x)(z)
    torch.testing.assert_close(trajectory.final_state(Unrolled(steps=1, damping=0.5)), expected, rtol=1e-12, atol=1e-12)


def test_batch_that_has_stopped_is_evaluated_no_more() -> None:
    model, x = tiny_model(1), images(3)
    trajectory = PlainDynamics(FixedPointIteration(), Termination(N, 1.5, "batch"))(model, x)
    assert trajectory.solution.steps.tolist() == [1] * 3
    assert model.counter.counted.forward == 3 * 2


def test_evaluations_are_one_more_than_states_and_as_many_as_the_index_of_a_single_one() -> None:
    model, x = tiny_model(1), images(3)
    PLAIN(model, x)
    assert model.counter.counted.forward == 3 * (N + 1)
    for index in range(1, N + 1):
        before = model.counter.counted.forward
        PLAIN.state(model, model.bind(x), x, index=index)
        assert model.counter.counted.forward - before == 3 * index


@pytest.mark.parametrize("steps", [1, 4])
def test_final_state_is_the_last_one_after_steps_that_go_half_the_way(steps: int) -> None:
    x = images(2)
    trajectory = PLAIN(MODEL, x)
    with torch.no_grad():
        fn, z = MODEL.bind(x), trajectory.state(N)
        for _ in range(steps):
            z = 0.5 * z + 0.5 * fn(z)
    torch.testing.assert_close(trajectory.final_state(Unrolled(steps=steps, damping=0.5)), z, rtol=1e-12, atol=1e-12)


def test_trajectory_carries_no_graph() -> None:
    x = images(1).requires_grad_()
    trajectory = PLAIN(MODEL, x)
    assert not trajectory.solution.states.requires_grad
    assert not trajectory.final_state(Unrolled(steps=1, damping=0.5)).requires_grad


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(5)), number=st.integers(1, 5))
def test_sample_does_not_depend_on_its_batch_mates(order: list[int], number: int) -> None:
    x, picked = images(5), order[:number]
    whole, part = PLAIN(MODEL, x), PLAIN(MODEL, x[picked])
    torch.testing.assert_close(part.solution.states, whole.solution.states[:, picked], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        part.final_state(Unrolled(steps=3, damping=0.5)),
        whole.final_state(Unrolled(steps=3, damping=0.5))[picked],
        rtol=1e-10,
        atol=1e-10,
    )
    with torch.no_grad():
        logits = MODEL.trajectory_logits(whole.solution.states)[:, picked]
        torch.testing.assert_close(MODEL.trajectory_logits(part.solution.states), logits, rtol=1e-9, atol=1e-9)


def test_image_that_is_not_finite_leaves_its_batch_mates_alone() -> None:
    x = images(3)
    healthy = PLAIN(MODEL, x)
    broken = x.clone()
    broken[1, 0, 2, 2] = torch.nan
    trajectory = PLAIN(MODEL, broken)
    assert trajectory.solution.status.tolist() == [Status.MAX_STEPS, Status.NONFINITE, Status.MAX_STEPS]
    kept = [0, 2]
    torch.testing.assert_close(
        trajectory.solution.states[:, kept], healthy.solution.states[:, kept], rtol=1e-12, atol=1e-12
    )


def test_image_that_is_not_finite_takes_the_equilibrium_of_its_batch_away_but_not_the_one_of_each_image() -> None:
    """No residual of the batch is a number, so its first state remains; mates judged alone keep theirs."""
    x = images(4, size=4, seed=1)
    model = tiny_model(2, size=4, seed=7)
    broken = x.clone()
    broken[3, 0, 2, 2] = torch.nan
    batch = PlainDynamics(Broyden(), Termination(4), "lowest_batch")
    assert torch.equal(batch(model, broken).equilibrium[:3], batch(model, x).state(1)[:3])
    assert torch.equal(batch(model, x).equilibrium, batch(model, x).state(3))
    sample = PlainDynamics(Broyden(), Termination(4), "lowest_sample")
    torch.testing.assert_close(
        sample(model, broken).equilibrium[:3], sample(model, x).equilibrium[:3], rtol=1e-12, atol=1e-12
    )


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(4)), number=st.integers(1, 3), rtol=st.sampled_from([0.0, 0.6]))
def test_equilibrium_of_an_image_judged_by_itself_does_not_depend_on_batch_mates(
    order: list[int], number: int, rtol: float
) -> None:
    x, picked = images(4), order[:number]
    dynamics = PlainDynamics(Broyden(), Termination(N, rtol), "lowest_sample")
    whole, part = dynamics(MODEL, x), dynamics(MODEL, x[picked])
    torch.testing.assert_close(part.equilibrium, whole.equilibrium[picked], rtol=1e-10, atol=1e-10)


def test_image_stops_elsewhere_among_other_batch_mates_with_scope_batch() -> None:
    model, x = tiny_model(2, size=4, seed=7), images(4, size=4, seed=1)
    dynamics = PlainDynamics(Broyden(), Termination(6, 0.4, "batch"))
    alone = [dynamics(model, x[n : n + 1]).solution for n in range(4)]
    together = dynamics(model, x).solution
    assert len({int(solution.steps[0]) for solution in alone}) > 1
    assert len(set(together.steps.tolist())) == 1
    assert any(not torch.allclose(solution.z[0], together.z[n], rtol=1e-4) for n, solution in enumerate(alone))


@pytest.mark.parametrize("returned", ["last", "lowest_sample"])
@pytest.mark.parametrize(
    "termination", [Termination(N), Termination(N, 0.3), Termination(N, 0.3, "batch"), Termination(1)]
)
def test_without_the_last_residual_all_else_has_the_same_bits_for_an_evaluation_less(
    termination: Termination, returned: Any
) -> None:
    dynamics, x = PlainDynamics(Broyden(), termination, returned), images(3)
    counts, found = [], []
    for last_residual in (True, False):
        before = MODEL.counter.counted.forward
        found.append(dynamics(MODEL, x, last_residual=last_residual))
        counts.append(MODEL.counter.counted.forward - before)
    whole, spared = found
    assert torch.equal(spared.solution.states, whole.solution.states)
    assert torch.equal(spared.solution.moved, whole.solution.moved)
    assert torch.equal(spared.solution.residuals[:-1], whole.solution.residuals[:-1])
    assert torch.equal(spared.solution.batch_residuals[:-1], whole.solution.batch_residuals[:-1])
    assert torch.equal(spared.equilibrium, whole.equilibrium)
    if returned == "last":
        assert spared.solution.residuals[-1].isnan().all()
        assert spared.solution.batch_residuals[-1].isnan()
        stopped = termination.scope == "batch" and not whole.solution.moved[-1].any()
        assert counts[0] - counts[1] == (0 if stopped else 3)
    else:
        assert counts[0] == counts[1], "z* depends on it"


@pytest.mark.parametrize(("scope", "returned"), [("sample", "last"), ("batch", "last"), ("sample", "lowest_batch")])
def test_dynamics_couple_images_where_the_configuration_says_so(scope: Any, returned: Any) -> None:
    keys = {"name": "broyden", "steps": 3, "tolerance": 0.0, "scope": scope, "returned": returned}
    dynamics = PlainDynamics(Broyden(), Termination(3, scope=scope), returned)
    assert dynamics.couples_images == couples_images(parse_solver(keys))
