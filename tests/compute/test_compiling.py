"""A compiled f is f. Compiling takes a C++ compiler on a CPU, and some ten seconds."""

import shutil

import pytest
import torch
import torch.nn.functional as F

from deqpipe.compute.ways import Way
from deqpipe.model.classifier import BoundMap
from deqpipe.model.interface import eager
from deqpipe.training.jacobian import jacobian_loss
from tests.reference.tiny import images, states, tiny_model

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no C++ compiler, which compiling on a CPU needs"
)


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_f_has_the_values_and_gradients_of_f_whoever_wants_them() -> None:
    """With frozen weights and with trained ones, in turn: a compiled function must not mistake one for the other."""
    plain, fast = tiny_model(), tiny_model()
    fast.compute_with(way=Way(compiled=True))
    x, z = images(2), states(plain, 2)
    for trained in (False, True, False):
        found = []
        for model in (plain, fast):
            model.requires_grad_(trained)
            image = x.clone().requires_grad_()
            fn = model.bind(image)
            loss = F.cross_entropy(model.logits(fn(fn(z))), torch.tensor([0, 1]))
            wanted = [image, *(model.cell.parameters() if trained else ())]
            found.append((loss.detach(), *torch.autograd.grad(loss, wanted)))
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-10)
    assert fast.counter.counted == plain.counter.counted
    fn = fast.bind(x)
    assert isinstance(fn, BoundMap)
    assert eager(fn).evaluate is fast.function  # type: ignore[attr-defined]
    probes = [states(plain, 2, seed=5)]
    torch.testing.assert_close(jacobian_loss(fn, z, probes), jacobian_loss(plain.bind(x), z, probes))
