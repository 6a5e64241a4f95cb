"""Convolutions in bfloat16: what is rounded, and how far results move."""

import pytest
import torch
import torch.nn.functional as F

from deqpipe.attack.surrogate import IntermediateState
from deqpipe.compute.precision import FP32, Precision, rounded
from deqpipe.compute.ways import Way
from deqpipe.dynamics import PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.model.classifier import DEQClassifier, build_classifier
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from tests.reference.tiny import architecture, images, states, tiny_model

BF16 = Precision("bf16")
SURROGATE = IntermediateState(2, Unrolled(2, 0.5), PlainDynamics(Broyden(), Termination(4)))


def gradient(model: DEQClassifier, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """States, logits of the surrogate and their gradient."""
    found = SURROGATE.dynamics(model, x).solution.states
    x = x.detach().requires_grad_()
    logits = SURROGATE(model, x)
    loss = F.cross_entropy(logits, torch.arange(len(x)) % model.classes, reduction="sum")
    return found, logits.detach(), *torch.autograd.grad(loss, x)


def test_inputs_weights_and_results_of_a_convolution_are_bfloat16_numbers_and_nothing_else_is() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 5, 5, generator=generator), torch.randn(4, 3, 3, 3, generator=generator)
    exact = F.conv2d(rounded(x), rounded(weight), padding=1)
    found = BF16.conv2d(x, BF16.weight(weight), padding=1)
    assert found.dtype == x.dtype
    assert torch.equal(found, rounded(exact))
    assert not torch.equal(found, exact)
    assert BF16.weight(weight).dtype == torch.bfloat16


def test_other_precisions_leave_a_convolution_as_it_is() -> None:
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    for precision in (FP32, Precision("tf32")):
        assert precision.weight(weight) is weight
        assert torch.equal(precision.conv2d(x, weight, padding=1), F.conv2d(x, weight, padding=1))


def test_bf16_moves_states_logits_and_gradients_by_less_than_a_tenth() -> None:
    """A bfloat16 number has 8 bits: 0.4 % a rounding; two rounded convolutions in a row, and a few steps, are in it."""
    exact, rough = tiny_model(), tiny_model().float()
    rough.compute_with(BF16)
    x = images(4)
    for name, wanted, found in zip(
        ("states", "logits", "gradient"), gradient(exact, x), gradient(rough, x.float()), strict=True
    ):
        moved = float((found.double() - wanted).norm() / wanted.norm())
        assert 1e-5 < moved < {"states": 0.05, "logits": 0.02, "gradient": 0.3}[name], (name, moved)


def test_states_and_gradients_keep_their_type_in_bf16() -> None:
    model = tiny_model().float()
    model.compute_with(BF16)
    x = images(2).float()
    assert {tensor.dtype for tensor in gradient(model, x)} == {torch.float32}


def test_bf16_runs_backward_on_a_device_with_bfloat16_convolutions() -> None:
    """On meta tensors the path of a GPU is taken: types fit, and nothing is computed."""
    with torch.device("meta"):
        model = build_classifier(architecture(), image_shape=(3, 8, 8), classes=5, seed=0).eval().requires_grad_(False)
        model.compute_with(BF16)
        x = torch.empty(2, *model.image_shape)
        y = torch.zeros(2, dtype=torch.int64)
    x.requires_grad_()
    (found,) = torch.autograd.grad(F.cross_entropy(SURROGATE(model, x), y), x)
    assert found.dtype == torch.float32
    assert found.device.type == "meta"


@pytest.mark.parametrize("precision", [FP32, BF16], ids=["fp32", "bf16"])
def test_layouts_hold_the_same_numbers_in_another_order(precision: Precision) -> None:
    first, last = tiny_model(), tiny_model()
    first.compute_with(precision)
    last.compute_with(precision, Way(layout="channels_last"))
    x = images(3)
    (ours, *rest), (others, *more) = gradient(first, x), gradient(last, x)
    for z, other in zip(ours, others, strict=True):
        torch.testing.assert_close(last.in_channel_order(other), z, rtol=1e-10, atol=1e-10)
        assert not torch.allclose(other, z)
    for mine, theirs in zip(rest, more, strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-10)


def test_map_of_the_first_images_is_the_map_of_a_smaller_batch() -> None:
    model = tiny_model()
    x, z = images(4), states(model, 4)
    model.train()
    generator = torch.Generator().manual_seed(3)
    fn = model.bind(x, generator)
    assert torch.equal(fn.of_first(2)(z[:2]), fn(z)[:2])
