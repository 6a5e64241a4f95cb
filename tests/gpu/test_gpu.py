"""On a real GPU: states and gradients against float64 on the CPU, and nothing waits that need not.

What a GPU computes may differ by rounding: how far is stated per precision. Where no device is, `tests/devices` shows
on pretended ones that nothing is mixed up and nobody waits.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deqpipe.attack.pgd import PGD, cross_entropy_objective
from deqpipe.attack.surrogate import IntermediateState
from deqpipe.compute.precision import Precision, PrecisionName
from deqpipe.compute.replay import DIRECT, Graphs
from deqpipe.compute.ways import Layout, Way
from deqpipe.defence.entropy import InputDescent, InputEntropyReduction, RestartedEntropyReduction, Schedule
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.evaluation.judge import DEQJudge
from deqpipe.gradient import Implicit, Unrolled
from deqpipe.machine.device import set_up, upload
from deqpipe.model.classifier import DEQClassifier
from deqpipe.solver.anderson import Anderson
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from deqpipe.training.loop import descend
from deqpipe.workflow import vocabulary
from tests.reference.tiny import CLASSES, images, tiny_model
from tests.training.test_device import world

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature"),
]
DEVICE = torch.device("cuda")
COUNT, N = 6, 4
TERMINATION = Termination(N)
DESCENT = InputDescent(LinfBall(0.1), steps=2, step_size=0.03)
DYNAMICS: dict[str, Dynamics] = {
    "Broyden": PlainDynamics(Broyden(), TERMINATION),
    "Broyden with a tolerance": PlainDynamics(Broyden(), Termination(N, rtol=0.3), "lowest_sample"),
    "Broyden on a coupled batch": PlainDynamics(Broyden(), Termination(N, rtol=0.3, scope="batch"), "lowest_batch"),
    "Anderson": PlainDynamics(Anderson(3), TERMINATION),
    "fixed point": PlainDynamics(FixedPointIteration(), TERMINATION),
    "Algorithm 1": InputEntropyReduction(Broyden(), TERMINATION, DESCENT, Schedule(2)),
    "authors' code": RestartedEntropyReduction(Broyden(), TERMINATION, DESCENT, Schedule(2, lowest=True)),
}
SURROGATE = IntermediateState(3, Unrolled(steps=2, damping=0.5), PlainDynamics(Broyden(), TERMINATION))


@pytest.fixture(autouse=True)
def _ieee() -> Iterator[None]:
    set_up(precision="fp32", threads=1)
    yield
    set_up(precision="fp32", threads=1)


def there(model: DEQClassifier, dtype: torch.dtype = torch.float64) -> DEQClassifier:
    """A copy of a model on the device."""
    return copy.deepcopy(model).to(DEVICE, dtype)


def batch() -> tuple[Tensor, Tensor]:
    """On the CPU, in float64."""
    return images(COUNT), torch.arange(COUNT) % CLASSES


def error(found: Tensor, expected: Tensor) -> float:
    """Of all numbers at once, relative to their size."""
    return float((found.cpu().double() - expected).norm() / expected.norm())


@contextmanager
def waiting_for_nothing() -> Iterator[None]:
    """Whatever waits for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# In float64, against the CPU


@pytest.mark.parametrize("which", DYNAMICS)
def test_states_are_those_of_the_cpu(which: str) -> None:
    model, (x, _) = tiny_model(), batch()
    expected = DYNAMICS[which](model, x)
    found = DYNAMICS[which](there(model), x.to(DEVICE))
    torch.testing.assert_close(found.solution.states.cpu(), expected.solution.states, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.solution.residuals.cpu(), expected.solution.residuals, rtol=1e-7, atol=1e-8)
    assert torch.equal(found.solution.status.cpu(), expected.solution.status)
    torch.testing.assert_close(found.equilibrium.cpu(), expected.equilibrium, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.x.cpu(), expected.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", ["Broyden", "Algorithm 1"])
def test_judgements_are_those_of_the_cpu(which: str) -> None:
    model, (x, y) = tiny_model(), batch()
    here = DEQJudge(model, DYNAMICS[which], which, Unrolled(2, 0.5))
    elsewhere = DEQJudge(there(model), DYNAMICS[which], which, Unrolled(2, 0.5))
    expected, found = here(x, y).columns, elsewhere(x.to(DEVICE), y.to(DEVICE)).columns
    np.testing.assert_array_equal(found["predicted"], expected["predicted"])
    for name in ("margin", "entropy", "residual"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-7, err_msg=name)


GRADIENTS: dict[str, Any] = {
    "unrolled": Unrolled(steps=3, damping=0.5, lead_step=True),
    "implicit": Implicit(Broyden(), steps=4),
}


def gradients(model: DEQClassifier, x: Tensor, y: Tensor, which: str) -> dict[str, Tensor]:
    """Of the loss, with respect to images and weights."""
    x = x.detach().requires_grad_()
    fn = model.bind(x)
    z = GRADIENTS[which](fn, SURROGATE.dynamics.state(model, fn, x, index=N))
    wanted = {"x": x} | {name: one for name, one in model.named_parameters() if one.requires_grad}
    found = torch.autograd.grad(F.cross_entropy(model.logits(z), y), list(wanted.values()), allow_unused=True)
    return {name: one for name, one in zip(wanted, found, strict=True) if one is not None}


@pytest.mark.parametrize("which", GRADIENTS)
def test_gradients_are_those_of_the_cpu(which: str) -> None:
    model, (x, y) = tiny_model(), batch()
    expected, found = gradients(model, x, y, which), gradients(there(model), x.to(DEVICE), y.to(DEVICE), which)
    assert found.keys() == expected.keys()
    scale = max(float(one.norm()) for one in expected.values())
    for name, one in expected.items():
        torch.testing.assert_close(found[name].cpu(), one, rtol=1e-6, atol=1e-10 * scale, msg=name)


# In the precisions of the configuration, against float64

# About twice what a CPU finds with the same roundings: bf16 keeps 8 bits, tf32 11, fp32 24. Every weight of this model
# is random, which is hard on its gradients.
STATES: dict[PrecisionName, float] = {"fp32": 1e-5, "tf32": 6e-3, "bf16": 5e-2}
OF_IMAGES: dict[PrecisionName, float] = {"fp32": 1e-4, "tf32": 1e-1, "bf16": 6e-1}


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("precision", STATES)
def test_rounding_stays_within_what_is_stated(precision: PrecisionName, layout: Layout) -> None:
    model, (x, y) = tiny_model(), batch()
    set_up(precision=precision, threads=1)
    rounded = there(model, torch.float32)
    rounded.compute_with(Precision(precision), Way(layout=layout))
    images_there, labels = x.to(DEVICE, torch.float32), y.to(DEVICE)
    expected, found = DYNAMICS["fixed point"](model, x), DYNAMICS["fixed point"](rounded, images_there)
    assert error(rounded.in_channel_order(found.solution.z), expected.solution.z) < STATES[precision]
    logits, gradient = logits_and_gradient(model, x, y)
    logits_there, gradient_there = logits_and_gradient(rounded, images_there, labels)
    assert error(logits_there, logits) < STATES[precision]
    assert error(gradient_there, gradient) < OF_IMAGES[precision]


def logits_and_gradient(model: DEQClassifier, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of two undamped steps behind the images' third state."""
    surrogate = IntermediateState(3, Unrolled(2, 0.5), PlainDynamics(FixedPointIteration(), TERMINATION))
    x = x.detach().requires_grad_()
    logits = surrogate(model, x)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    return logits.detach(), gradient


# Graphs


def test_attack_steps_in_graphs_make_the_images_of_steps_that_are_called() -> None:
    model, (x, y) = there(tiny_model(), torch.float32).requires_grad_(False), batch()
    x, y = x.to(DEVICE, torch.float32), y.to(DEVICE)
    objective, graphs = cross_entropy_objective(partial(SURROGATE, model), y), Graphs(model.counter)
    attacks = {run: PGD(LinfBall(0.1), steps=4, step_size=0.03, run=run) for run in (DIRECT, graphs)}
    called = attacks[DIRECT](objective, x, start=x)
    for _ in range(2):
        before = model.counter.counted
        replayed = attacks[graphs](objective, x, start=x)
        assert (model.counter.counted - before).forward == 4 * (3 + 2) * COUNT
        assert float((replayed.images - called.images).abs().mean()) < 1e-3, "a sign may turn where a gradient is tiny"
    with waiting_for_nothing():
        attacks[graphs](objective, x, start=x)


# Waiting, after warm-up


def quietly(work: Callable[[], object]) -> None:
    """Twice: libraries choose their algorithms in a first call."""
    work()
    with waiting_for_nothing():
        work()


@pytest.mark.parametrize("which", [name for name in DYNAMICS if "coupled" not in name])
def test_solves_wait_for_nothing(which: str) -> None:
    model, x = there(tiny_model(), torch.float32).requires_grad_(False), images(COUNT).to(DEVICE, torch.float32)
    quietly(lambda: DYNAMICS[which](model, x).final_state(Unrolled(2, 0.5)))


def test_a_coupled_batch_waits() -> None:
    """So it is noticed when something does."""
    model, x = there(tiny_model(), torch.float32).requires_grad_(False), images(COUNT).to(DEVICE, torch.float32)
    with pytest.raises(RuntimeError, match="synchroniz"):
        quietly(lambda: DYNAMICS["Broyden on a coupled batch"](model, x))


def test_attacks_wait_for_nothing() -> None:
    model, (x, y) = there(tiny_model(), torch.float32).requires_grad_(False), batch()
    x, y = x.to(DEVICE, torch.float32), y.to(DEVICE)
    objective = cross_entropy_objective(partial(SURROGATE, model), y)
    attack = PGD(LinfBall(0.1), steps=2, step_size=0.03)
    quietly(lambda: attack(objective, x, start=x))


@pytest.mark.parametrize("model", [vocabulary.TRUNK, "deq_pgd_at_base", "deq_trades_random_states", "resnet18_trades"])
def test_training_steps_wait_for_nothing(model: str) -> None:
    training = world(DEVICE, model, {"jacobian": {"frequency": 1.0}})
    plan, batches = training.plan, [training.plan.feed(DEVICE)(training.plan.first_step + step) for step in range(3)]
    optimizer, tally = plan.optimizer(training.model), None
    for number in range(2):
        tally = descend(plan, training.model, optimizer, batches[number], step=plan.first_step + number, tally=tally)
    with waiting_for_nothing():
        tally = descend(plan, training.model, optimizer, batches[2], step=plan.first_step + 2, tally=tally)
    assert tally.read().bad_step is None


# Images


def test_views_of_one_image_are_uploaded_too() -> None:
    one = torch.rand(1, 3, 2, 2)
    assert torch.equal(upload(one.expand(4, 3, 2, 2), DEVICE).cpu(), one.expand(4, 3, 2, 2))
