"""What counts as an evaluation of f, and that it costs as much as it counts."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from deqpipe.counts import Evaluations, sum_of
from deqpipe.gradient import Implicit, Unrolled
from deqpipe.model.classifier import DEQClassifier
from deqpipe.solver.broyden import Broyden
from deqpipe.training.jacobian import gaussian_probes, jacobian_loss
from tests.reference.tiny import images, states, tiny_model

COUNT = 3  # images


def frozen(**changes: object) -> DEQClassifier:
    """A model as attacks see it: no parameter wants a gradient."""
    return tiny_model(**changes).requires_grad_(False)  # type: ignore[arg-type]


def counted(model: DEQClassifier) -> Evaluations:
    """Per image, of `COUNT`."""
    return model.counter.counted * (1 / COUNT)


def test_counts_add_multiply_and_are_divided_without_a_rest() -> None:
    one, other = Evaluations(7, 5, 3), Evaluations(1, 2, 3)
    assert one + other == Evaluations(8, 7, 6)
    assert one - other == Evaluations(6, 3, 0)
    assert one * 2 == Evaluations(14, 10, 6)
    assert sum_of([one, other, other]) == Evaluations(9, 9, 9)
    assert one.total == 15
    assert one.shared(3) == Evaluations(2, 1, 1)
    assert one.divided(3) == [Evaluations(3, 2, 1), Evaluations(2, 2, 1), Evaluations(2, 1, 1)]


@torch.no_grad()
def test_without_gradient_every_application_counts_once_per_image() -> None:
    model = tiny_model()
    for number, times in ((3, 2), (1, 4)):
        fn, z = model.bind(images(number)), states(model, number)
        for _ in range(times):
            fn(z)
    assert model.counter.counted == Evaluations(3 * 2 + 1 * 4)


def test_a_gradient_to_the_images_counts_as_one_to_the_inputs_per_application_that_it_passes() -> None:
    model, x = frozen(), images(COUNT).requires_grad_()
    fn, z = model.bind(x), states(model, COUNT)
    with torch.no_grad():
        z = fn(z)
    torch.autograd.grad(Unrolled(steps=4, damping=0.5)(fn, z).sum(), x)
    assert counted(model) == Evaluations(5, 4)


def test_a_gradient_that_is_never_taken_does_not_count() -> None:
    model, x = tiny_model(), images(COUNT).requires_grad_()
    model.bind(x)(states(model, COUNT))
    assert counted(model) == Evaluations(1)


@pytest.mark.parametrize("weight_norm", [True, False])
def test_a_gradient_to_the_parameters_counts_as_one_of_both_kinds(weight_norm: bool) -> None:
    model = tiny_model(weight_norm=weight_norm)
    z = Unrolled(steps=3, damping=1.0)(model.bind(images(COUNT)), states(model, COUNT))
    torch.autograd.backward(z.sum())
    assert counted(model) == Evaluations(3, 3, 3)


def test_where_only_the_gradient_to_the_images_is_asked_for_none_to_the_weights_counts() -> None:
    model, x = tiny_model(), images(COUNT).requires_grad_()
    value = model.bind(x)(states(model, COUNT))
    torch.autograd.grad(value.sum(), x)
    assert counted(model) == Evaluations(1, 1)


@pytest.mark.parametrize("trains", [True, False])
def test_the_exact_gradient_solves_for_inputs_and_reaches_the_weights_once(trains: bool) -> None:
    model, x = tiny_model().requires_grad_(trains), images(COUNT).requires_grad_()
    z = Implicit(solver=Broyden(), steps=4)(model.bind(x), states(model, COUNT))
    torch.autograd.backward(z.sum())
    assert counted(model) == Evaluations(2, 4 + 1, int(trains))


def jacobian_term(model: DEQClassifier, probes: int) -> Tensor:
    z = states(model, COUNT)
    vectors = gaussian_probes(z, count=probes, generator=torch.Generator().manual_seed(3))
    return jacobian_loss(model.bind(images(COUNT)), z, vectors, counter=model.counter)


@pytest.mark.parametrize("probes", [1, 2, 3])
def test_the_jacobian_term_counts_its_products_and_the_backward_pass_through_them(probes: int) -> None:
    model = tiny_model()
    term = jacobian_term(model, probes)
    assert counted(model) == Evaluations(1, probes)
    torch.autograd.backward(term)
    assert counted(model) == Evaluations(1, 2 * probes + 1, probes + 1)


@pytest.mark.parametrize("probes", [1, 2, 3])
def test_what_the_jacobian_term_counts_is_what_it_computes(probes: int) -> None:
    """Against the floating-point operations that torch counts."""
    model = tiny_model(3)
    model.stem.requires_grad_(False)  # the gradient ends at the injection
    with torch.no_grad():
        injected, z = images(COUNT), states(model, COUNT)
        with FlopCounterMode(display=False) as stem:
            model.bind(injected)
        with FlopCounterMode(display=False) as both:
            model.bind(injected)(z)
    once = both.get_total_flops() - stem.get_total_flops()
    before = counted(model)
    with FlopCounterMode(display=False) as whole:
        torch.autograd.backward(jacobian_term(model, probes))
    found = (whole.get_total_flops() - stem.get_total_flops()) / once
    assert found == pytest.approx((counted(model) - before).total, rel=0.05)
