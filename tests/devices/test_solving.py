"""On a GPU, states and their gradients are computed without mixing devices and without waiting for one."""

import traceback
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from deqpipe.compute.precision import PrecisionName
from deqpipe.compute.ways import Layout, Way
from deqpipe.dynamics import PlainDynamics
from deqpipe.gradient import Implicit, StateGradient, Unrolled
from deqpipe.results.provenance import PACKAGE
from deqpipe.solver import solve as solving
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Lowest, Returned, Termination, following, reach, solve
from deqpipe.solver.trajectory import GrowingSolve
from tests.devices.world import PLAIN, REDUCTIONS, SOLVERS, TERMINATIONS, N, batch, both, deq
from tests.pretend import HostSynchronisation, Kind, WrongDevice, pretended
from tests.sampling import one_in

RULES: tuple[Returned, ...] = ("last", "lowest_sample", "lowest_batch")
every_solver = pytest.mark.parametrize("which", SOLVERS)
every_termination = pytest.mark.parametrize("termination", one_in(2, TERMINATIONS.values()), ids=TERMINATIONS.keys())


@both
@every_solver
@every_termination
def test_solves_of_every_kind_stay_on_the_device(kind: Kind, which: str, termination: Termination) -> None:
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        solver, fn, z0 = SOLVERS[which], model.bind(x), model.initial_state(x)
        for last_residual in (True, False):
            solution, state = solve(
                solver, fn, solver.init(fn, z0), termination=termination, last_residual=last_residual
            )
            assert {tensor.device.type for tensor in vars(solution).values()} == {kind}
        assert len(solution.steps) == len(x)
        for rule in RULES:
            assert solution.returned(rule).device.type == kind
            assert reach(solver, fn, z0, termination=termination, returned=rule).device.type == kind
        assert following(solver, state, termination=termination).device.type == kind
        moved = solver.rebase(model.bind(1 - x), solver.step(fn, state))
        assert solver.propose(solver.forget(solver.reevaluate(fn, moved))).device.type == kind


@both
@pytest.mark.parametrize("returned", RULES)
def test_a_growing_solve_stays_on_the_device(kind: Kind, returned: Returned) -> None:
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        growing = GrowingSolve(Broyden(), model.bind(x), model.initial_state(x), termination=Termination(N))
        assert [growing.reach(n, returned).device.type for n in (2, 1, 3)] == [kind] * 3


@both
def test_the_lowest_of_states_is_found_on_the_device(kind: Kind) -> None:
    with pretended(kind) as device:
        x, _ = batch(device)
        found = Lowest.unknown(x.flatten(1)).or_lower(x.flatten(1), x.flatten(1).sum(1))
        assert found.or_lower(x.flatten(1), x.sum()).residual.device.type == kind


@both
@every_solver
@pytest.mark.parametrize("returned", one_in(3, RULES))
def test_dynamics_and_their_final_state_stay_on_the_device(kind: Kind, which: str, returned: Returned) -> None:
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        dynamics = PlainDynamics(SOLVERS[which], Termination(N), returned)
        trajectory = dynamics(model, x)
        final = trajectory.final_state(Unrolled(steps=2, damping=0.5, lead_step=True))
        for z in (final, trajectory.state(2), dynamics.state(model, trajectory.fn, x, index=2)):
            assert model.logits(z).device.type == kind
        assert model.trajectory_logits(trajectory.solution.states).device.type == kind


@both
@pytest.mark.parametrize("which", one_in(2, REDUCTIONS))
def test_entropy_reduction_stays_on_the_device(kind: Kind, which: str) -> None:
    """Both variants and every schedule, with their gradients with respect to the input."""
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        trajectory = REDUCTIONS[which](model, x)
        assert trajectory.x.device.type == trajectory.equilibrium.device.type == kind


BOTH_VARIANTS = pytest.mark.parametrize("which", ["Algorithm 1, every 2, lowest", "authors' code, every 2, lowest"])


@both
@BOTH_VARIANTS
def test_the_first_states_of_entropy_reduction_stay_on_the_device(kind: Kind, which: str) -> None:
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        for index in (1, 2, N):
            found = REDUCTIONS[which].up_to(index)(model, x, last_residual=False)
            assert found.state(index).device.type == kind


@both
@BOTH_VARIANTS
@pytest.mark.parametrize("solver", ["Broyden", "Anderson", "fixed point"])
def test_entropy_reduction_with_every_solver_and_a_tolerance_stays_on_the_device(
    kind: Kind, which: str, solver: str
) -> None:
    changes: dict[str, Any] = {"solver": SOLVERS[solver], "termination": Termination(N, rtol=0.1)}
    changes |= {"returned": "lowest_sample"}
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        assert replace(cast(Any, REDUCTIONS[which]), **changes)(model, x).x.device.type == kind


GRADIENTS: dict[str, StateGradient] = {
    "unrolled": Unrolled(steps=2, damping=0.5),
    "undamped": Unrolled(steps=2, damping=1.0, lead_step=True),
    "implicit": Implicit(Broyden(), steps=3),
    "implicit by iteration": Implicit(FixedPointIteration(), steps=3),
}


@both
@pytest.mark.parametrize("which", GRADIENTS)
def test_gradients_of_states_stay_on_the_device(kind: Kind, which: str) -> None:
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        model.requires_grad_(True)
        x.requires_grad_()
        fn = model.bind(x)
        z = GRADIENTS[which](fn, PLAIN.state(model, fn, x, index=2))
        found = torch.autograd.grad(model.logits(z).sum(), [x, *model.parameters()], allow_unused=True)
        assert {gradient.device.type for gradient in found if gradient is not None} == {kind}
        assert found[0] is not None


@both
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_f_stays_on_the_device_in_every_precision_and_layout(
    kind: Kind, layout: Layout, precision: PrecisionName
) -> None:
    with pretended(kind) as device:
        model, (x, _) = deq(device, precision, Way(layout=layout), scales=2), batch(device)
        x.requires_grad_()
        fn = model.bind(x)
        z = Unrolled(steps=1, damping=0.5)(fn, PLAIN.state(model, fn, x, index=2))
        logits = model.logits(z)
        (gradient,) = torch.autograd.grad(logits.sum(), x)
        for found in (z, logits, gradient):
            assert found.device.type == kind
            assert found.dtype == torch.float32, "only convolutions are rounded"
        assert model.in_channel_order(z).shape == z.shape


# A solver that couples its batch asks whether the whole batch goes on, once before every step, and nothing else.


def never_asked(
    solver: Any, fn: Any, state: Any, going: Tensor, termination: Termination, target: Tensor | None
) -> Any:
    """`solving._moved` without its question."""
    return solver.step(fn, state) if target is None else solver.advance(fn, state, target)


COUPLED = {"tolerance": Termination(N, rtol=0.1, scope="batch"), "growth alone": Termination(N, scope="batch")}
coupled = pytest.mark.parametrize("termination", COUPLED.values(), ids=COUPLED.keys())


@both
@coupled
def test_a_coupled_batch_waits_once_a_step_to_know_whether_it_goes_on(kind: Kind, termination: Termination) -> None:
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        with pytest.raises(HostSynchronisation) as waited:
            PlainDynamics(Broyden(), termination)(model, x)
    ours = [frame for frame in traceback.extract_tb(waited.tb) if frame.filename.startswith(f"{PACKAGE}/")]
    assert ours[-1].name == "_moved"
    assert ours[-1].line == 'if termination.scope == "batch" and not going.any():'
    with pretended(kind, reads=N) as device:
        model, (x, _) = deq(device), batch(device)
        PlainDynamics(Broyden(), termination)(model, x)


@both
@coupled
@pytest.mark.parametrize("returned", RULES)
def test_a_coupled_batch_waits_nowhere_else(
    kind: Kind, termination: Termination, returned: Returned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solving, "_moved", never_asked)
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        dynamics = PlainDynamics(Broyden(), termination, returned)
        assert dynamics(model, x).final_state(Unrolled(1, 0.5)).device.type == kind
        assert dynamics.state(model, model.bind(x), x, index=3).device.type == kind


@both
@BOTH_VARIANTS
def test_entropy_reduction_of_a_coupled_batch_waits_nowhere_else(
    kind: Kind, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solving, "_moved", never_asked)
    coupled: dict[str, Any] = {"termination": Termination(N, rtol=0.1, scope="batch"), "returned": "lowest_batch"}
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        assert replace(cast(Any, REDUCTIONS[which]), **coupled)(model, x).x.device.type == kind


# What these tests are there for is noticed.


@both
def test_a_mask_of_the_host_in_a_solver_is_noticed(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "_nobody", lambda state: torch.full((len(state.z),), 2))
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        with pytest.raises(WrongDevice):
            PlainDynamics(Broyden(), Termination(N, rtol=0.1))(model, x)


@both
def test_a_number_read_in_a_solver_is_noticed(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Broyden.propose

    def propose(self: Broyden, state: Any) -> Tensor:
        assert state.residual.norm().item() >= 0
        return before(self, state)

    monkeypatch.setattr(Broyden, "propose", propose)
    with pretended(kind) as device:
        model, (x, _) = deq(device), batch(device)
        with pytest.raises(HostSynchronisation):
            PLAIN(model, x)
