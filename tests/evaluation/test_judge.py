import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from deqpipe.defence.entropy import InputDescent, InputEntropyReduction, RestartedEntropyReduction, Schedule
from deqpipe.dynamics import Dynamics, PlainDynamics
from deqpipe.evaluation.judge import (
    CLASSES,
    CLASSES_ALONG,
    DEQJudge,
    NetworkJudge,
    Wanted,
    at,
    readings,
    relative_deviation,
)
from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier, build_classifier
from deqpipe.results.records import NOT_COMPUTED
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from tests import tiny

N, FINAL = 3, 2


@pytest.fixture
def deq() -> DEQClassifier:
    model = build_classifier(tiny.settings().model, image_shape=(1, 8, 8), classes=3, seed=2).double()
    return model.eval().requires_grad_(False)


def judge(model: DEQClassifier) -> DEQJudge:
    return DEQJudge(
        model,
        PlainDynamics(FixedPointIteration(), Termination(max_steps=N)),
        "plain",
        Unrolled(steps=FINAL, damping=0.5),
    )


def images() -> tuple[torch.Tensor, torch.Tensor]:
    split = tiny.dataset().test
    return split.float_images(slice(0, 5)).double(), split.labels[:5]


def test_readings_by_hand() -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 3.0, 3.5]], [[0.0, 0.0, 0.0], [-1.0, 5.0, 0.0]]])
    found = readings(logits, torch.tensor([0, 1]))
    assert found["predicted"].tolist() == [[0, 2], [0, 1]]
    torch.testing.assert_close(found["margin"], torch.tensor([[1.0, -0.5], [0.0, 5.0]]))
    p = [math.exp(v) / sum(map(math.exp, (2, 1, 0))) for v in (2, 1, 0)]
    assert found["entropy"][0, 0].item() == pytest.approx(-sum(q * math.log(q) for q in p))
    assert found["entropy"][1, 0].item() == pytest.approx(math.log(3))


def test_a_positive_margin_is_a_right_prediction() -> None:
    logits = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(50) % 3
    found = readings(logits, y)
    assert torch.equal(found["margin"] > 0, found["predicted"] == y)


def test_deviation_is_that_of_each_image_and_nothing_without_a_reference() -> None:
    states = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    reference = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))
    found = relative_deviation(states, reference)
    for state in range(4):
        for image in range(3):
            change = sum((a - b) ** 2 for a, b in zip(states[state, image], reference[state, image], strict=True))
            size = sum(b**2 for b in reference[state, image])
            assert found[state, image].item() == pytest.approx(math.sqrt(change / size), rel=1e-5)
    assert torch.equal(relative_deviation(reference, reference), torch.zeros(4, 3))


def test_a_judgement_has_every_state_and_last_the_unrolled_one(deq: DEQClassifier) -> None:
    x, y = images()
    seen = judge(deq).see(x, y)
    found = seen.on_host()
    f, z = deq.bind(x), torch.zeros(5, deq.state_size, dtype=torch.float64)
    states = [z := f(z) for _ in range(N)]
    for _ in range(FINAL):
        z = 0.5 * z + 0.5 * f(z)
    states.append(z)
    assert seen.states is not None
    torch.testing.assert_close(seen.states, torch.stack(states))
    for index, state in enumerate(states):
        logits = deq.logits(state)
        residual = (f(state) - state).norm(dim=1) / f(state).norm(dim=1) if index < N else torch.full((5,), torch.nan)
        np.testing.assert_array_equal(found.columns["predicted"][:, index], logits.argmax(1).numpy())
        np.testing.assert_allclose(found.columns["residual"][:, index], residual.numpy(), rtol=1e-8)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        np.testing.assert_allclose(found.columns["entropy"][:, index], entropy.numpy(), rtol=1e-10)
    assert np.isnan(found.columns["deviation"]).all()


def test_a_judgement_does_not_depend_on_batch_mates(deq: DEQClassifier) -> None:
    x, y = images()
    whole, states = judge(deq)(x, y), judge(deq).states(x)
    for i in range(5):
        alone = judge(deq)(x[i : i + 1], y[i : i + 1], states[:, i : i + 1])
        for name in ("predicted", "margin", "entropy", "residual"):
            np.testing.assert_allclose(alone.columns[name][0], whole.columns[name][i], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(alone.columns["deviation"], 0, atol=1e-12)


def test_an_ordinary_network_has_the_final_state_only() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    x, y = images()
    found = NetworkJudge(network)(x, y)
    assert {name: column.shape for name, column in found.columns.items()} == dict.fromkeys(
        ("predicted", "margin", "entropy", "residual", "deviation"), (5, 1)
    )
    np.testing.assert_array_equal(found.columns["predicted"][:, 0], network(x).argmax(1).numpy())
    assert np.isnan(found.columns["residual"]).all()
    assert np.isnan(found.columns["deviation"]).all()


def test_an_image_whose_logits_are_not_finite_is_never_right() -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0], [torch.nan, 1.0, 0.0], [torch.inf, 0.0, 0.0]]])
    assert readings(logits, torch.tensor([0, 0, 0]))["predicted"].tolist() == [[0, -1, -1]]


def test_final_state_takes_the_lead_step_that_its_unroll_asks_for() -> None:
    model = build_classifier(tiny.settings().model, image_shape=(1, 8, 8), classes=3, seed=0).eval()
    x = torch.rand(2, 1, 8, 8)
    dynamics = PlainDynamics(FixedPointIteration(), Termination(max_steps=N))
    found = DEQJudge(model, dynamics, "plain", Unrolled(steps=FINAL, damping=0.5, lead_step=True)).states(x)
    fn = model.bind(x)
    z = fn(found[N - 1])
    for _ in range(FINAL):
        z = (z + fn(z)) / 2
    torch.testing.assert_close(found[N], z.detach())


DESCENT = InputDescent(LinfBall(0.1), steps=2, step_size=0.03)
EVERY: dict[str, Dynamics] = {
    "plain": PlainDynamics(Broyden(), Termination(4)),
    "lowest": PlainDynamics(Broyden(), Termination(4), "lowest_sample"),
    "Algorithm 1": InputEntropyReduction(Broyden(), Termination(4), DESCENT, Schedule(2)),
    "authors' code": RestartedEntropyReduction(Broyden(), Termination(4), DESCENT, Schedule(2, update_last=False)),
}


def evaluations(model: DEQClassifier, work: Callable[[], object]) -> float:
    """Of f, per image."""
    before = model.counter.counted.forward
    work()
    return (model.counter.counted.forward - before) / 5


@pytest.mark.parametrize("which", EVERY)
@pytest.mark.parametrize("wanted", [CLASSES, CLASSES_ALONG, at(1), at(2), at(3), at(4)])
def test_what_is_wanted_has_the_bits_that_it_has_among_everything(
    deq: DEQClassifier, which: str, wanted: Wanted
) -> None:
    x, y = images()
    everything = DEQJudge(deq, EVERY[which], "plain", Unrolled(steps=FINAL, damping=0.5))
    whole, some = everything(x, y).columns, everything.restricted(wanted)(x, y).columns
    there = slice(0, 5) if wanted.final else slice(0, 4)
    there = there if wanted.only is None else slice(wanted.only - 1, wanted.only)
    for name in ("predicted", "margin", "entropy"):
        np.testing.assert_array_equal(some[name][:, there], whole[name][:, there], err_msg=name)
        elsewhere = np.delete(some[name], np.arange(5)[there], axis=1)
        assert (elsewhere == NOT_COMPUTED if name == "predicted" else np.isnan(elsewhere)).all()
    assert np.isnan(some["residual"]).all()
    assert {name: (column.shape, column.dtype) for name, column in some.items()} == {
        name: (column.shape, column.dtype) for name, column in whole.items()
    }


def test_a_judgement_evaluates_f_for_what_is_wanted_only(deq: DEQClassifier) -> None:
    x, y = images()

    def cost(which: str, wanted: Wanted) -> float:
        judge = DEQJudge(deq, EVERY[which], "plain", Unrolled(steps=FINAL, damping=0.5), wanted=wanted)
        return evaluations(deq, lambda: judge(x, y))

    everything = Wanted()
    found = {which: [cost(which, wanted) for wanted in (everything, CLASSES, CLASSES_ALONG, at(3))] for which in EVERY}
    update = 2 + 1  # the descent, and the new input's residual
    assert found == {
        "plain": [5 + FINAL, 4 + FINAL, 4, 3],
        "lowest": [5 + FINAL, 5 + FINAL, 5, 3],
        "Algorithm 1": [5 + 2 * update + FINAL, 4 + 2 * update + FINAL, 4 + 2 * update, 3 + update],
        "authors' code": [5 + update + FINAL, 4 + update + FINAL, 4 + update, 3 + update],
    }


@pytest.mark.parametrize("which", EVERY)
def test_states_alone_have_the_bits_of_a_judgement_for_less(deq: DEQClassifier, which: str) -> None:
    x, y = images()
    judge = DEQJudge(deq, EVERY[which], "plain", Unrolled(steps=FINAL, damping=0.5))
    seen = judge.see(x, y).states
    assert seen is not None
    assert torch.equal(judge.states(x), seen)
    saved = evaluations(deq, lambda: judge.see(x, y)) - evaluations(deq, lambda: judge.states(x))
    assert saved == (0 if which == "lowest" else 1)


@pytest.mark.parametrize("wanted", [Wanted(), CLASSES, at(2)])
def test_head_is_read_once_for_all_states(deq: DEQClassifier, wanted: Wanted) -> None:
    x, y, calls = *images(), list[int]()
    deq.head.register_forward_hook(lambda *_: calls.append(1))
    judge(deq).restricted(wanted)(x, y)
    assert len(calls) == 1


def test_judges_that_look_at_different_things_behave_differently(deq: DEQClassifier) -> None:
    assert judge(deq).behaviour == judge(deq).restricted(Wanted()).behaviour
    assert judge(deq).behaviour != judge(deq).restricted(CLASSES).behaviour
