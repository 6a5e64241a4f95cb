"""Input entropy reduction, Algorithm 1 and the authors' variant, against versions written out with dense matrices."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deqpipe.config import EntropyConfig
from deqpipe.counts import Evaluations
from deqpipe.defence.entropy import (
    InputDescent,
    InputEntropyReduction,
    RestartedEntropyReduction,
    Schedule,
    build_entropy_reduction,
    prediction_entropy,
)
from deqpipe.dynamics import Dynamics, PlainDynamics, Trajectory
from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.base import Solver
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Returned, Scope, Status, Termination
from deqpipe.threat_model import LinfBall
from tests.reference import slow_mdeq, textbook
from tests.reference.tiny import images, tiny_model
from tests.sampling import one_in

Reduction: TypeAlias = InputEntropyReduction | RestartedEntropyReduction
R = TypeVar("R", bound=Reduction)

N, SIZE = 6, 4
MODEL = tiny_model(2, size=SIZE)
MIXED = tiny_model(2, size=SIZE, seed=7)  # of whose first two states, and first four, another is lowest per image
BALL = LinfBall(0.05)
DESCENT = InputDescent(BALL, steps=3, step_size=0.02)
REDUCTION = InputEntropyReduction(Broyden(), Termination(N), DESCENT, Schedule(2))
RESTARTED = RestartedEntropyReduction(Broyden(), Termination(N), DESCENT, Schedule(2))
PLAIN = PlainDynamics(Broyden(), Termination(N))
SOLVERS: list[Solver[Any]] = [Broyden(), Anderson(3), Anderson(5), FixedPointIteration()]
METHODS: list[tuple[Solver[Any], textbook.Method]] = [
    (Broyden(), textbook.broyden_step),
    (Anderson(3), partial(textbook.anderson_step, memory=3)),
    (Anderson(5), partial(textbook.anderson_step, memory=5)),
    (FixedPointIteration(), textbook.fixed_point_step),
]
both = pytest.mark.parametrize("reduction", [REDUCTION, RESTARTED], ids=["alg1", "restarted"])
every_solver = pytest.mark.parametrize("solver", SOLVERS, ids=["broyden", "anderson3", "anderson5", "fixed_point"])
HALF = Unrolled(steps=3, damping=0.5)


def with_(reduction: R, **changes: Any) -> R:
    """A reduction with some values changed, whichever part of it they belong to."""
    parts: dict[str, tuple[str, ...]] = {
        "termination": ("max_steps", "rtol", "scope"),
        "descent": ("steps", "step_size", "sign"),
        "schedule": ("solver_steps", "update_last", "lowest", "final_updated"),
    }
    for part, names in parts.items():
        own = {name: changes.pop(name) for name in names if name in changes}
        reduction = replace(reduction, **{part: replace(getattr(reduction, part), **own)})
    return replace(reduction, **changes)


def remembered(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The same function, which computes no value twice: the slow versions ask for each several times."""
    known: dict[tuple[bytes, bytes], Tensor] = {}

    def value(z: Tensor, x: Tensor) -> Tensor:
        if x.requires_grad:
            return f(z, x)
        key = (z.numpy().tobytes(), x.numpy().tobytes())
        known[key] = known[key] if key in known else f(z, x)
        return known[key]

    return value


def defence(model: DEQClassifier, reduction: Reduction) -> textbook.Defence:
    weights, shapes = model.state_dict(), model.function.shapes
    return textbook.Defence(
        f=remembered(lambda z, x: slow_mdeq.f(weights, z, x, shapes=shapes, groups=4)),
        head=lambda z: slow_mdeq.head(weights, z, shapes=shapes),
        method=next(method for solver, method in METHODS if solver == reduction.solver),
        steps=reduction.termination.max_steps,
        solver_steps=reduction.schedule.solver_steps,
        input_steps=reduction.descent.steps,
        step_size=reduction.descent.step_size,
        epsilon=reduction.descent.ball.epsilon,
        sign=reduction.descent.sign,
        update_last=reduction.schedule.update_last,
        lowest=reduction.schedule.lowest,
        scope=reduction.termination.scope,
        rtol=reduction.termination.rtol,
    )


def slow(model: DEQClassifier, reduction: Reduction, x: Tensor) -> tuple[textbook.Walk, list[textbook.Record]]:
    """The images' walk, and the records that z* is one of."""
    z0 = torch.zeros(model.state_size, dtype=torch.float64)
    if isinstance(reduction, RestartedEntropyReduction):
        return textbook.restarted(defence(model, reduction), list(x), z0)
    walk = textbook.algorithm_1(defence(model, reduction), list(x), z0)
    return walk, walk.records


def assert_is_slow_version(reduction: Reduction, model: DEQClassifier, x: Tensor) -> None:
    walk, last = slow(model, reduction, x)
    trajectory = reduction(model, x)
    torch.testing.assert_close(trajectory.x, torch.stack(walk.x), rtol=1e-6, atol=1e-8)
    for n, record in enumerate(walk.records, start=1):
        torch.testing.assert_close(trajectory.state(n), torch.stack(record.states), rtol=1e-6, atol=1e-7)
        norms = torch.tensor(textbook.norms_of(record, "sample"), dtype=torch.float64)
        torch.testing.assert_close(trajectory.solution.residuals[n - 1], norms, rtol=1e-5, atol=1e-7)
    expected = {
        "last": walk.records[-1].states,
        "lowest_sample": textbook.lowest_states(last, "sample"),
        "lowest_batch": textbook.lowest_states(last, "batch"),
    }
    z = torch.stack(expected[reduction.returned])
    torch.testing.assert_close(trajectory.equilibrium, z, rtol=1e-6, atol=1e-7)


def mixed(which: tuple[int, ...] = (0, 3)) -> Tensor:
    """Images of which `MIXED` makes different things."""
    return images(4, size=SIZE, seed=1)[list(which)]


CASES: list[Reduction] = [
    REDUCTION,
    with_(REDUCTION, solver_steps=1, steps=2),
    with_(REDUCTION, solver_steps=3, steps=1),
    with_(REDUCTION, solver_steps=N),
    with_(REDUCTION, solver_steps=4),
    with_(REDUCTION, update_last=False),
    with_(REDUCTION, solver_steps=N, update_last=False),
    with_(REDUCTION, sign=False, step_size=0.5),
    with_(REDUCTION, step_size=0.04),
    RESTARTED,
    with_(RESTARTED, update_last=False),
    with_(RESTARTED, solver_steps=1),
    with_(RESTARTED, solver_steps=1, update_last=False),
    with_(RESTARTED, solver_steps=3),
    with_(RESTARTED, solver_steps=3, update_last=False),
    with_(RESTARTED, solver_steps=4),
    with_(RESTARTED, solver_steps=5),
    with_(RESTARTED, sign=False, step_size=0.5),
]


@pytest.mark.parametrize("reduction", one_in(2, CASES))
def test_states_and_inputs_are_those_of_the_slow_version(reduction: Reduction) -> None:
    assert_is_slow_version(reduction, MODEL, images(2, size=SIZE))


@both
@pytest.mark.parametrize(("solver", "_"), METHODS[1:], ids=["anderson3", "anderson5", "fixed_point"])
@pytest.mark.parametrize(
    ("solver_steps", "update_last"), one_in(4, [(1, True), (2, True), (2, False), (4, True)], first=2)
)
def test_other_solvers_too_are_those_of_the_slow_version(
    reduction: Reduction, solver: Solver[Any], _: object, solver_steps: int, update_last: bool
) -> None:
    changed = with_(reduction, solver=solver, solver_steps=solver_steps, update_last=update_last, steps=1)
    assert_is_slow_version(changed, MODEL, images(2, size=SIZE))


@both
@pytest.mark.parametrize("scope", ["sample", "batch"])
@pytest.mark.parametrize(
    ("solver_steps", "update_last"), one_in(2, [(2, True), (2, False), (4, True), (6, True)], first=1)
)
def test_entropy_may_be_taken_at_the_state_of_lowest_residual_of_a_round(
    reduction: Reduction, scope: Scope, solver_steps: int, update_last: bool
) -> None:
    """In small steps, so that no input comes to rest.

    Where the lowest state is not a round's last one, the authors' correction leaves of the residuals' difference only
    what the new input changed. It may be nothing but rounding.
    """
    changed = with_(reduction, lowest=True, scope=scope, solver_steps=solver_steps, update_last=update_last)
    changed = with_(changed, steps=1, step_size=0.01)
    assert_is_slow_version(changed, MIXED, mixed())


@pytest.mark.parametrize("scope", ["sample", "batch"])
@pytest.mark.parametrize("solver_steps", [2, 3])
def test_state_of_an_earlier_round_is_no_candidate_for_the_lowest_residual(scope: Scope, solver_steps: int) -> None:
    """Here z^[1] has a lower one than all states of the next round."""
    changed = with_(REDUCTION, lowest=True, scope=scope, solver_steps=solver_steps)
    assert_is_slow_version(changed, MODEL, images(2, size=SIZE))


@both
@pytest.mark.parametrize(("scope", "rtol"), [("sample", 0.45), ("batch", 0.5)])
@pytest.mark.parametrize("lowest", [True, False])
@pytest.mark.parametrize("solver_steps", one_in(3, [1, 3, 6], first=1))
def test_images_stop_as_in_the_slow_version(
    reduction: Reduction, scope: Scope, rtol: float, lowest: bool, solver_steps: int
) -> None:
    changed = with_(reduction, lowest=lowest, scope=scope, rtol=rtol, solver_steps=solver_steps)
    changed = with_(changed, steps=1, step_size=0.01)
    assert_is_slow_version(changed, MIXED, mixed())


@both
@pytest.mark.parametrize("returned", ["last", "lowest_sample", "lowest_batch"])
@pytest.mark.parametrize(("solver_steps", "update_last"), one_in(3, [(3, True), (3, False), (4, True)], first=1))
def test_equilibrium_is_taken_from_the_whole_solve_or_with_restarts_from_the_last_round(
    reduction: Reduction, returned: Returned, solver_steps: int, update_last: bool
) -> None:
    """With T_f = 3 the state of lowest residual is one of the first round."""
    changed = with_(reduction, returned=returned, update_last=update_last, solver_steps=solver_steps, steps=1)
    model, x = (MODEL, images(2, size=SIZE)) if solver_steps == 3 else (MIXED, mixed())
    assert_is_slow_version(changed, model, x)


def test_cases_differ_from_each_other_and_from_the_plain_dynamics() -> None:
    """So that none of them agrees with its slow version by doing nothing."""
    x = images(1, size=SIZE)
    plain, last = PLAIN(MODEL, x).state(N), [case(MODEL, x).state(N) for case in CASES]
    for n, state in enumerate(last):
        dead = CASES[n].schedule == Schedule(N, update_last=False)
        assert torch.equal(state, plain) == dead
        assert not any(torch.allclose(state, other, rtol=1e-6) for other in last[:n])


def test_single_round_that_is_solved_again_is_algorithm_1_with_a_single_update() -> None:
    x = images(2, size=SIZE)
    one, other = (with_(reduction, solver_steps=N)(MODEL, x) for reduction in (REDUCTION, RESTARTED))
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.solution.states, other.solution.states)
    assert torch.equal(one.solution.residuals, other.solution.residuals)


def assert_bit_for_bit(trajectory: Trajectory, plain: Trajectory) -> None:
    for name in ("states", "residuals", "batch_residuals", "moved", "status"):
        assert torch.equal(getattr(trajectory.solution, name), getattr(plain.solution, name)), name
    assert torch.equal(trajectory.equilibrium, plain.equilibrium)
    assert torch.equal(trajectory.x, plain.x)
    assert torch.equal(trajectory.final_state(HALF), plain.final_state(HALF))


NOTHING: list[tuple[Reduction, dict[str, Any]]] = [
    (REDUCTION, {"steps": 0}),
    (REDUCTION, {"steps": 0, "solver_steps": 1}),
    (REDUCTION, {"steps": 0, "lowest": True}),
    (REDUCTION, {"solver_steps": N + 1}),
    (REDUCTION, {"solver_steps": N, "update_last": False}),
    (REDUCTION, {"solver_steps": N, "update_last": False, "final_updated": False}),
    (RESTARTED, {"solver_steps": N, "update_last": False}),
    (RESTARTED, {"solver_steps": N, "update_last": False, "final_updated": False}),
    (RESTARTED, {"solver_steps": N, "update_last": False, "lowest": True}),
    (RESTARTED, {"solver_steps": N + 1}),
    (RESTARTED, {"solver_steps": N, "steps": 0}),
]
without_update = pytest.mark.parametrize(("reduction", "changes"), NOTHING)


@without_update
@every_solver
def test_without_an_update_these_are_the_plain_dynamics_bit_for_bit(
    reduction: Reduction, changes: dict[str, Any], solver: Solver[Any]
) -> None:
    x = images(3, size=SIZE)
    plain = PlainDynamics(solver, Termination(N), "lowest_sample")(MODEL, x)
    assert_bit_for_bit(with_(reduction, solver=solver, returned="lowest_sample", **changes)(MODEL, x), plain)


@without_update
@pytest.mark.parametrize(("scope", "rtol"), [("sample", 0.55), ("batch", 0.5)])
def test_without_an_update_images_stop_as_in_the_plain_dynamics(
    reduction: Reduction, changes: dict[str, Any], scope: Scope, rtol: float
) -> None:
    x, termination = images(4, size=SIZE), Termination(N, rtol, scope)
    plain = PlainDynamics(Anderson(3), termination)(MODEL, x)
    assert plain.solution.steps.min() < N
    assert Status.CONVERGED in plain.solution.status.tolist()
    defended = with_(reduction, solver=Anderson(3), scope=scope, rtol=rtol, **changes)
    assert_bit_for_bit(defended(MODEL, x), plain)


@without_update
def test_without_an_update_a_batch_is_given_up_as_in_the_plain_dynamics(
    reduction: Reduction, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's residuals do not grow a thousandfold, but some grow by half."""
    monkeypatch.setattr("deqpipe.solver.solve.GROWTH", 1.7)
    x = images(3, size=SIZE)
    plain = PlainDynamics(Broyden(), Termination(N, scope="batch"))(MODEL, x)
    assert set(plain.solution.status.tolist()) == {Status.DIVERGED}
    assert plain.solution.steps.max() < N - 1
    assert_bit_for_bit(with_(reduction, scope="batch", **changes)(MODEL, x), plain)


@pytest.mark.parametrize("solver", [Broyden(), Anderson(5)])
@pytest.mark.parametrize("solver_steps", range(1, N))
@pytest.mark.parametrize("update_last", [True, False])
def test_restarts_alone_change_the_second_state_after_the_first_and_no_earlier_one(
    solver: Solver[Any], solver_steps: int, update_last: bool
) -> None:
    """T_f = 2: z^[4]. z^[T_f + 1] still uses all that is known; rounding is the corrected pair's."""
    x = images(3, size=SIZE)
    restarts = with_(RESTARTED, steps=0, solver=solver, solver_steps=solver_steps, update_last=update_last)(MODEL, x)
    plain = PlainDynamics(solver, Termination(N))(MODEL, x)
    for n in range(1, N + 1):
        if n <= solver_steps:
            assert torch.equal(restarts.state(n), plain.state(n))
        elif n == solver_steps + 1:
            torch.testing.assert_close(restarts.state(n), plain.state(n), rtol=1e-9, atol=1e-9)
        else:
            assert not torch.allclose(restarts.state(n), plain.state(n), rtol=1e-3)
    assert torch.equal(restarts.x, x)


@pytest.mark.parametrize("solver", [Anderson(2), FixedPointIteration()])
@pytest.mark.parametrize("solver_steps", [1, 2, 4])
def test_restarts_take_nothing_from_a_solver_that_remembers_one_step_or_none(
    solver: Solver[Any], solver_steps: int
) -> None:
    x = images(3, size=SIZE)
    restarts = with_(RESTARTED, steps=0, solver=solver, solver_steps=solver_steps)(MODEL, x)
    plain = PlainDynamics(solver, Termination(N))(MODEL, x)
    torch.testing.assert_close(restarts.solution.states, plain.solution.states, rtol=1e-8, atol=1e-8)


def test_states_before_the_first_update_are_plain_and_those_from_it_on_are_not() -> None:
    x = images(2, size=SIZE)
    defended, plain = with_(REDUCTION, solver_steps=3)(MODEL, x), PLAIN(MODEL, x)
    for n in (1, 2):
        assert torch.equal(defended.state(n), plain.state(n))
    for n in (3, 4, 5, 6):
        assert not torch.allclose(defended.state(n), plain.state(n), rtol=1e-4)


@every_solver
@pytest.mark.parametrize("solver_steps", range(1, N))
def test_states_of_the_first_round_never_feel_the_authors_variant(solver: Solver[Any], solver_steps: int) -> None:
    x = images(2, size=SIZE)
    defended = with_(RESTARTED, solver=solver, solver_steps=solver_steps)(MODEL, x)
    plain = PlainDynamics(solver, Termination(N))(MODEL, x)
    for n in range(1, solver_steps + 1):
        assert torch.equal(defended.state(n), plain.state(n))
    assert not torch.allclose(defended.state(solver_steps + 1), plain.state(solver_steps + 1), rtol=1e-4)


@pytest.mark.parametrize("solver_steps", [1, 2, 3, N])
def test_the_last_update_changes_the_last_state_alone(solver_steps: int) -> None:
    x = images(2, size=SIZE)
    with_it, without = (
        with_(RESTARTED, solver_steps=solver_steps, update_last=update_last)(MODEL, x) for update_last in (True, False)
    )
    assert torch.equal(with_it.solution.states[:-1], without.solution.states[:-1])
    assert torch.equal(with_it.solution.residuals[:-1], without.solution.residuals[:-1])
    assert not torch.allclose(with_it.state(N), without.state(N), rtol=1e-4)
    assert not torch.equal(with_it.x, without.x)


@pytest.mark.parametrize(
    ("solver_steps", "update_last", "expected"),
    [
        (1, True, [1, 2, 3, 4]),
        (2, True, [2, 4]),
        (2, False, [2]),
        (3, True, [3]),
        (4, True, [4]),
        (4, False, []),
        (5, True, []),
    ],
)
def test_input_is_updated_after_every_so_many_steps(solver_steps: int, update_last: bool, expected: list[int]) -> None:
    schedule = Schedule(solver_steps, update_last=update_last)
    assert [n for n in range(1, 5) if schedule.due(n, last=4)] == expected


@pytest.mark.parametrize("sign", [True, False])
def test_entropy_falls(sign: bool) -> None:
    x, z = images(3, size=SIZE), PLAIN(MODEL, images(3, size=SIZE)).state(N)
    updated = InputDescent(BALL, steps=2, step_size=1e-3 if sign else 1e-2, sign=sign)(MODEL, z, x, x)

    def entropies(image: Tensor) -> Tensor:
        with torch.no_grad():
            return prediction_entropy(MODEL.logits(MODEL.bind(image)(z)))

    assert (entropies(updated) < entropies(x)).all()


@both
@pytest.mark.parametrize("step_size", [0.02, 0.3])
def test_input_stays_in_the_ball_around_the_received_image_and_in_the_pixel_range(
    reduction: Reduction, step_size: float
) -> None:
    x = images(4, size=SIZE)
    updated = with_(reduction, step_size=step_size)(MODEL, x).x
    assert (updated - x).abs().max() <= BALL.epsilon + 1e-12
    assert updated.min() >= 0
    assert updated.max() <= 1
    assert (updated - x).abs().max() > 0.9 * BALL.epsilon


@both
@pytest.mark.parametrize("update_last", [True, False])
def test_final_state_is_unrolled_with_the_updated_or_the_received_input(
    reduction: Reduction, update_last: bool
) -> None:
    x = images(2, size=SIZE)
    updated, original = (
        with_(reduction, update_last=update_last, final_updated=final_updated)(MODEL, x)
        for final_updated in (True, False)
    )
    assert torch.equal(updated.solution.states, original.solution.states)
    for trajectory, image in ((updated, updated.x), (original, x)):
        with torch.no_grad():
            fn, z = MODEL.bind(image), trajectory.state(N)
            for _ in range(2):
                z = 0.5 * z + 0.5 * fn(z)
        torch.testing.assert_close(trajectory.final_state(Unrolled(steps=2, damping=0.5)), z, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(updated.final_state(HALF), original.final_state(HALF))


@both
@settings(max_examples=6, deadline=None)
@given(
    order=st.permutations(range(3)),
    number=st.integers(1, 2),
    rtol=st.sampled_from([0.0, 0.55]),
    lowest=st.booleans(),
    solver_steps=st.integers(1, 4),
)
def test_sample_does_not_depend_on_its_batch_mates(
    reduction: Reduction, order: list[int], number: int, rtol: float, lowest: bool, solver_steps: int
) -> None:
    defended = with_(reduction, rtol=rtol, lowest=lowest, solver_steps=solver_steps, returned="lowest_sample")
    x, picked = images(3, size=SIZE), order[:number]
    whole, part = defended(MODEL, x), defended(MODEL, x[picked])
    torch.testing.assert_close(part.x, whole.x[picked], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(part.solution.states, whole.solution.states[:, picked], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(part.equilibrium, whole.equilibrium[picked], rtol=1e-10, atol=1e-10)
    assert torch.equal(part.solution.moved, whole.solution.moved[:, picked])


@both
@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("mates", [(0, 3), (0, 1, 2, 3)])
def test_batch_mates_decide_with_scope_batch_where_the_entropy_is_taken(
    reduction: Reduction, lowest: bool, mates: tuple[int, ...]
) -> None:
    """Alone, image 3 is updated at its first state; its mates' residuals are lowest at their second ones."""
    changed = with_(reduction, scope="batch", lowest=lowest, steps=1)
    alone, among = changed(MIXED, mixed((3,))), changed(MIXED, mixed(mates))
    assert torch.equal(alone.x[0], among.x[-1]) == (not lowest)
    assert torch.allclose(alone.state(N)[0], among.state(N)[-1], rtol=1e-4) == (not lowest)
    single = with_(changed, scope="sample")
    torch.testing.assert_close(single(MIXED, mixed((3,))).x[0], single(MIXED, mixed(mates)).x[-1], rtol=1e-9, atol=1e-9)


@both
def test_batch_mates_decide_with_scope_batch_when_an_image_stops(reduction: Reduction) -> None:
    changed = with_(reduction, scope="batch", rtol=0.4, solver_steps=N)
    alone, whole = [changed(MIXED, mixed((image,))) for image in range(4)], changed(MIXED, mixed((0, 1, 2, 3)))
    assert [int(trajectory.solution.steps[0]) for trajectory in alone] == [6, 6, 3, 4]
    assert whole.solution.steps.tolist() == [5] * 4
    for image, trajectory in enumerate(alone):
        assert not torch.allclose(trajectory.state(N)[0], whole.state(N)[image], rtol=1e-4)


@pytest.mark.parametrize(("solver_steps", "updates"), [(1, 6), (2, 3), (4, 1), (6, 1), (7, 0)])
@pytest.mark.parametrize("lowest", [False, True])
def test_every_update_costs_its_gradients_and_one_evaluation_more(
    solver_steps: int, updates: int, lowest: bool
) -> None:
    """And one more where the provisional state's residual is to be known."""
    model, x = tiny_model(1, size=SIZE), images(2, size=SIZE)
    with_(REDUCTION, solver_steps=solver_steps, lowest=lowest)(model, x)
    gradients = updates * DESCENT.steps
    assert model.counter.counted == Evaluations(2 * (N + 1 + gradients + updates * (1 + lowest)), 2 * gradients)


def test_no_descent_steps_cost_nothing() -> None:
    model = tiny_model(1, size=SIZE)
    with_(REDUCTION, steps=0)(model, images(2, size=SIZE))
    assert model.counter.counted == Evaluations(2 * (N + 1))


@pytest.mark.parametrize(("solver_steps", "between"), [(1, 5), (2, 2), (3, 1), (4, 1), (6, 0), (7, 0)])
@pytest.mark.parametrize("update_last", [False, True])
def test_with_restarts_the_last_update_costs_its_round_once_more(
    solver_steps: int, between: int, update_last: bool
) -> None:
    """The states before z^[N] are not kept as a solve that could go on; they are computed again."""
    model, x = tiny_model(1, size=SIZE), images(2, size=SIZE)
    with_(RESTARTED, solver_steps=solver_steps, lowest=True, update_last=update_last)(model, x)
    again = update_last and N % solver_steps == 0
    gradients = DESCENT.steps * (between + again)
    once_more = solver_steps + 1 if again else 0
    assert model.counter.counted == Evaluations(2 * (N + 1 + gradients + between + once_more), 2 * gradients)


@both
def test_reduction_leaves_parameters_alone(reduction: Reduction) -> None:
    model = tiny_model(2, size=SIZE)
    assert isinstance(reduction, Dynamics)
    trajectory = reduction(model, images(2, size=SIZE))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not trajectory.solution.states.requires_grad
    assert not trajectory.equilibrium.requires_grad
    assert not trajectory.x.requires_grad


@both
@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("returned", ["last", "lowest_sample"])
def test_image_that_is_not_finite_is_reported_and_leaves_its_mates_alone(
    reduction: Reduction, lowest: bool, returned: Returned
) -> None:
    x, defended = images(3, size=SIZE), with_(reduction, lowest=lowest, returned=returned)
    healthy = defended(MODEL, x)
    broken = x.clone()
    broken[1, 0, 0, 0] = torch.nan
    trajectory = defended(MODEL, broken)
    assert trajectory.solution.status.tolist() == [Status.MAX_STEPS, Status.NONFINITE, Status.MAX_STEPS]
    kept = [0, 2]
    torch.testing.assert_close(trajectory.x[kept], healthy.x[kept], rtol=1e-10, atol=1e-10)
    states = healthy.solution.states[:, kept]
    torch.testing.assert_close(trajectory.solution.states[:, kept], states, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(trajectory.equilibrium[kept], healthy.equilibrium[kept], rtol=1e-10, atol=1e-10)


def test_image_that_broke_in_one_round_is_reported_though_the_next_one_begins_at_a_whole_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """f breaks for image 0 at z^[2] and is whole again afterwards; z^[1] has the lowest residual of the round."""
    model, x = tiny_model(1, size=SIZE), images(2, size=SIZE)
    calls, bind = 0, model.bind

    def breaking(x: Tensor) -> Callable[[Tensor], Tensor]:
        fn = bind(x)

        def f(z: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return torch.cat([fn(z)[:1] * torch.nan, fn(z)[1:]]) if calls == 3 else fn(z)

        return f

    monkeypatch.setattr(model, "bind", breaking)
    solution = with_(RESTARTED, lowest=True, steps=0, max_steps=4, update_last=False)(model, x).solution
    assert solution.states.isfinite().all()
    assert solution.residuals.isnan().tolist() == [[n == 2, False] for n in range(1, 5)]
    assert solution.status.tolist() == [Status.NONFINITE, Status.MAX_STEPS]


@both
@pytest.mark.parametrize("solver_steps", [1, 2, 4])
def test_batch_that_arrives_at_once_takes_one_step_of_the_solve_or_of_every_round(
    reduction: Reduction, solver_steps: int
) -> None:
    x = images(2, size=SIZE)
    changed = with_(reduction, scope="batch", rtol=1e9, solver_steps=solver_steps, update_last=False)
    assert_is_slow_version(changed, MODEL, x)
    solution = changed(MODEL, x).solution
    rounds = range(0, N, solver_steps) if reduction is RESTARTED else [0]
    assert solution.moved.tolist() == [[n in rounds] * 2 for n in range(N)]
    assert solution.status.tolist() == [Status.CONVERGED] * 2


@both
def test_image_that_has_stopped_reduces_the_entropy_at_the_state_it_stopped_at(reduction: Reduction) -> None:
    """With a tolerance that every image meets at once, all states are the start."""
    x = images(2, size=SIZE)
    loose = with_(reduction, rtol=1e9, solver_steps=N)
    trajectory, first = loose(MODEL, x), MODEL.initial_state(x)
    assert trajectory.solution.status.tolist() == [Status.CONVERGED] * 2
    assert torch.equal(trajectory.state(N), first)
    expected = x
    for _ in range(DESCENT.steps):
        image = expected.clone().requires_grad_()
        entropy = prediction_entropy(MODEL.logits(MODEL.bind(image)(first))).sum()
        (gradient,) = torch.autograd.grad(entropy, image)
        expected = BALL.project(expected - DESCENT.step_size * gradient.sign(), x)
    torch.testing.assert_close(trajectory.x, expected)


@pytest.mark.parametrize("classes", [2, 10])
def test_entropy_is_in_nats_and_largest_for_equal_logits(classes: int) -> None:
    flat = torch.full((1, classes), 3.0, dtype=torch.float64)
    assert float(prediction_entropy(flat)) == pytest.approx(math.log(classes))
    sure = flat.clone()
    sure[0, 0] = 1e4
    assert float(prediction_entropy(sure)) == 0
    logits = torch.randn(4, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([textbook.entropy(row) for row in logits])
    torch.testing.assert_close(prediction_entropy(logits), expected)


SETTINGS = {
    "solver_steps": 3, "input_steps": 4, "step_size_255": 51.0, "step": "raw", "resolve": "alg1",
    "last_update": "dead", "state": "last", "final_input": "original", "controls": True,
}  # fmt: skip


def built(**changes: object) -> Dynamics:
    return build_entropy_reduction(
        EntropyConfig.model_validate(SETTINGS | changes),
        solver=Anderson(3),
        termination=Termination(4, scope="batch"),
        ball=BALL,
        returned="lowest_batch",
    )


@pytest.mark.parametrize(
    ("resolve", "kind"), [("alg1", InputEntropyReduction), ("quasi_newton", RestartedEntropyReduction)]
)
def test_config_describes_the_reduction(resolve: str, kind: type[Reduction]) -> None:
    expected = kind(
        solver=Anderson(3),
        termination=Termination(4, scope="batch"),
        descent=InputDescent(BALL, steps=4, step_size=0.2, sign=False),
        schedule=Schedule(solver_steps=3, update_last=False, lowest=False, final_updated=False),
        returned="lowest_batch",
    )
    assert built(resolve=resolve) == expected
    assert built(resolve=resolve, step="sign") == with_(expected, sign=True)
    assert built(resolve=resolve, last_update="resolve") == with_(expected, update_last=True)
    assert built(resolve=resolve, state="lowest") == with_(expected, lowest=True)
    assert built(resolve=resolve, final_input="updated") == with_(expected, final_updated=True)
