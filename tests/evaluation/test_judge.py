import math

import numpy as np
import pytest
import torch
from torch import nn

from deqpipe.dynamics import PlainDynamics
from deqpipe.evaluation.judge import DEQJudge, NetworkJudge, readings, relative_deviation
from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier, build_classifier
from deqpipe.solver.fixed_point import FixedPointIteration
from deqpipe.solver.solve import Termination
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
    assert relative_deviation(states, None).isnan().all()


def test_a_judgement_has_every_state_and_last_the_unrolled_one(deq: DEQClassifier) -> None:
    x, y = images()
    found = judge(deq)(x, y, None)
    f, z = deq.bind(x), torch.zeros(5, deq.state_size, dtype=torch.float64)
    states = [z := f(z) for _ in range(N)]
    for _ in range(FINAL):
        z = 0.5 * z + 0.5 * f(z)
    states.append(z)
    assert found.states is not None
    torch.testing.assert_close(found.states, torch.stack(states))
    for index, state in enumerate(states):
        logits = deq.logits(state)
        residual = (f(state) - state).norm(dim=1) / f(state).norm(dim=1)
        np.testing.assert_array_equal(found.columns["predicted"][:, index], logits.argmax(1).numpy())
        np.testing.assert_allclose(found.columns["residual"][:, index], residual.numpy(), rtol=1e-8)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        np.testing.assert_allclose(found.columns["entropy"][:, index], entropy.numpy(), rtol=1e-10)
    assert np.isnan(found.columns["deviation"]).all()


def test_a_judgement_does_not_depend_on_batch_mates(deq: DEQClassifier) -> None:
    x, y = images()
    whole = judge(deq)(x, y, None)
    assert whole.states is not None
    for i in range(5):
        alone = judge(deq)(x[i : i + 1], y[i : i + 1], whole.states[:, i : i + 1])
        for name in ("predicted", "margin", "entropy", "residual"):
            np.testing.assert_allclose(alone.columns[name][0], whole.columns[name][i], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(alone.columns["deviation"], 0, atol=1e-12)


def test_an_ordinary_network_has_the_final_state_only() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    x, y = images()
    found = NetworkJudge(network)(x, y, None)
    assert found.states is None
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
    x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    dynamics = PlainDynamics(FixedPointIteration(), Termination(max_steps=N))
    found = DEQJudge(model, dynamics, "plain", Unrolled(steps=FINAL, damping=0.5, lead_step=True))(x, y, None).states
    assert found is not None
    fn = model.bind(x)
    z = fn(found[N - 1])
    for _ in range(FINAL):
        z = (z + fn(z)) / 2
    torch.testing.assert_close(found[N], z.detach())
