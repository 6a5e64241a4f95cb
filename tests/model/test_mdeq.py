"""f, the head and how they are bound, against a slow version that follows the description scale by scale."""

import itertools

import pytest
import torch
from torch import Tensor

from deqpipe.errors import UserError
from deqpipe.model.cell import NormedConv2d
from deqpipe.model.classifier import CONVOLUTION_STD, DEQClassifier, build_classifier
from tests.reference import slow_mdeq
from tests.reference.tiny import CLASSES, architecture, images, states, tiny_model

GROUPS = 4


def slow_states(model: DEQClassifier, z: Tensor, x: Tensor, masks: tuple[Tensor, ...] = ()) -> Tensor:
    rows = []
    for n, (state, image) in enumerate(zip(z, x, strict=True)):
        own = [mask[n] for mask in masks] or None
        value = slow_mdeq.f(model.state_dict(), state, image, shapes=model.function.shapes, groups=GROUPS, masks=own)
        rows.append(value)
    return torch.stack(rows)


@pytest.mark.parametrize("scales", [1, 2, 3, 4])
@pytest.mark.parametrize("weight_norm", [True, False])
@torch.no_grad()
def test_f_is_what_the_description_says(scales: int, weight_norm: bool) -> None:
    model = tiny_model(scales, weight_norm=weight_norm)
    x, z = images(2), states(model, 2)
    torch.testing.assert_close(model.bind(x)(z), slow_states(model, z, x), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_f_is_what_the_description_says_on_images_that_are_not_square() -> None:
    model = build_classifier(architecture(3), image_shape=(1, 4, 12), classes=CLASSES, seed=0).double().eval()
    x = torch.rand(2, 1, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = states(model, 2)
    torch.testing.assert_close(model.bind(x)(z), slow_states(model, z, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scales", [1, 2, 3, 4])
@torch.no_grad()
def test_head_is_what_the_description_says(scales: int) -> None:
    model = tiny_model(scales)
    z = states(model, 2)
    slow = torch.stack([slow_mdeq.head(model.state_dict(), state, shapes=model.function.shapes) for state in z])
    torch.testing.assert_close(model.logits(z), slow, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_dropout_multiplies_before_the_injection_and_stays_over_applications() -> None:
    model = tiny_model(3)
    model.cell.train()
    x, z = images(2), states(model, 2)
    masks = model.cell.freeze(2, torch.Generator().manual_seed(5)).masks
    fn = model.bind(x, torch.Generator().manual_seed(5))
    for point in (z, fn(z)):
        torch.testing.assert_close(fn(point), slow_states(model, point, x, masks), rtol=1e-10, atol=1e-12)


def test_dropout_masks_are_scaled_and_one_per_image_and_channel() -> None:
    model = tiny_model(2, dropout=0.25).train()
    masks = model.cell.freeze(4000, torch.Generator().manual_seed(0)).masks
    assert [tuple(mask.shape) for mask in masks] == [(4000, 4, 1, 1), (4000, 8, 1, 1)]
    for mask in masks:
        assert set(mask.unique().tolist()) == {0.0, 1 / 0.75}
        assert (mask == 0).double().mean() == pytest.approx(0.25, abs=0.02)


def test_every_bind_draws_its_own_masks() -> None:
    model = tiny_model(2).train()
    generator = torch.Generator().manual_seed(0)
    first, second = model.cell.freeze(8, generator).masks, model.cell.freeze(8, generator).masks
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_training_with_dropout_needs_a_generator() -> None:
    model = tiny_model(2).train()
    with pytest.raises(AssertionError, match="generator"):
        model.bind(images(2))


@torch.no_grad()
def test_there_is_no_dropout_in_evaluation_mode_nor_at_rate_zero() -> None:
    x = images(2)
    for model in (tiny_model(2), tiny_model(2, dropout=0.0).train()):
        z = states(model, 2)
        assert model.cell.freeze(2, None).masks == ()
        assert torch.equal(model.bind(x)(z), model.bind(x, torch.Generator())(z))


@torch.no_grad()
def test_map_is_fixed_until_the_next_bind() -> None:
    model = tiny_model(2)
    x, z = images(2), states(model, 2)
    fn = model.bind(x)
    before = fn(z)
    for convolution in (module for module in model.modules() if isinstance(module, NormedConv2d)):
        assert convolution.g is not None
        convolution.g.mul_(2)
    assert torch.equal(fn(z), before)
    assert not torch.allclose(model.bind(x)(z), before)


@pytest.mark.parametrize("scales", [1, 3])
def test_f_of_a_state_that_is_held_has_the_bits_of_f_and_counts_as_often(scales: int) -> None:
    model = tiny_model(scales).requires_grad_(False)
    z, others = states(model, 2), [images(2, seed=seed).requires_grad_() for seed in (1, 2)]
    held, before = model.holding(z), model.counter.counted
    ours = [torch.autograd.grad(held(x).square().sum(), x)[0] for x in others]
    counted = model.counter.counted - before
    theirs = [torch.autograd.grad(model.bind(x)(z).square().sum(), x)[0] for x in others]
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert counted == model.counter.counted - before - counted


@torch.no_grad()
def test_every_scale_feels_the_input_and_only_through_f() -> None:
    model = tiny_model(3)
    first, second = images(1), images(1, seed=9)
    z = states(model, 1)
    difference = (model.bind(first)(z) - model.bind(second)(z))[0]
    assert all(part.abs().max() > 1e-6 for part in slow_mdeq.split(difference, model.function.shapes))


@torch.no_grad()
def test_trajectory_logits_are_the_logits_of_each_state() -> None:
    model = tiny_model(2)
    along = torch.stack([states(model, 3, seed=n) for n in range(4)])
    expected = torch.stack([model.logits(z) for z in along])
    torch.testing.assert_close(model.trajectory_logits(along), expected, rtol=1e-12, atol=1e-12)


def test_dynamics_start_at_zero() -> None:
    model = tiny_model(2)
    start = model.initial_state(images(3))
    assert start.shape == (3, model.state_size)
    assert (start == 0).all()
    assert start.dtype == torch.float64


@torch.no_grad()
def test_applications_of_f_are_counted_image_by_image() -> None:
    model = tiny_model(1)
    for number, times in ((3, 2), (1, 4)):
        fn, z = model.bind(images(number)), states(model, number)
        for _ in range(times):
            fn(z)
    assert model.counter.counted.forward == 3 * 2 + 1 * 4


def test_same_seed_gives_the_same_parameters_and_another_seed_others() -> None:
    def build(seed: int) -> dict[str, Tensor]:
        return dict(build_classifier(architecture(2), image_shape=(3, 8, 8), classes=5, seed=seed).named_parameters())

    first, again, other = build(7), build(7), build(8)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["cell.branches.0.conv1.v"], other["cell.branches.0.conv1.v"])
    assert not torch.equal(first["head.fc.weight"], other["head.fc.weight"])


def test_building_a_model_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    build_classifier(architecture(2), image_shape=(3, 8, 8), classes=5, seed=1)
    assert torch.equal(before, torch.get_rng_state())


@torch.no_grad()
def test_normal_all_draws_weight_normed_convolutions_too() -> None:
    wide = architecture(2, init="normal_all", channels=[16, 32], expansion=5)
    model = build_classifier(wide, image_shape=(3, 8, 8), classes=5, seed=0)
    for module in (module for module in model.modules() if isinstance(module, NormedConv2d)):
        assert float(module.v.std()) == pytest.approx(CONVOLUTION_STD, rel=0.15)
        assert module.v.abs().max() > 2.5 * CONVOLUTION_STD
        torch.testing.assert_close(module.effective_weight(), module.v)


def test_without_weight_norm_there_is_no_gain() -> None:
    names = dict(tiny_model(2, weight_norm=False).named_parameters())
    assert not any(name.endswith(".g") for name in names)
    assert len(dict(tiny_model(2).named_parameters())) == len(names) + 3 * 2


def test_gain_scales_the_weight_and_the_length_of_v_does_not() -> None:
    convolution = NormedConv2d(2, 3, 3, weight_norm=True)
    assert convolution.g is not None
    weight = convolution.effective_weight()
    with torch.no_grad():
        convolution.v.mul_(5)
        torch.testing.assert_close(convolution.effective_weight(), weight)
        convolution.g[1].mul_(2)
    torch.testing.assert_close(convolution.effective_weight()[1], 2 * weight[1])
    torch.testing.assert_close(convolution.effective_weight()[[0, 2]], weight[[0, 2]])


@pytest.mark.parametrize(("size", "scales"), [((8, 6), 3), ((6, 8), 3), ((7, 8), 2), ((12, 12), 4)])
def test_images_that_cannot_be_halved_often_enough_are_refused(size: tuple[int, int], scales: int) -> None:
    message = f"{size[0]}x{size[1]} pixels do not fit a model of {scales} scales.* multiples of {2 ** (scales - 1)}"
    with pytest.raises(UserError, match=message):
        build_classifier(architecture(scales), image_shape=(3, *size), classes=5, seed=0)


@torch.no_grad()
def test_image_of_a_batch_does_not_feel_its_mates() -> None:
    model = tiny_model(3)
    x, z = images(4), states(model, 4)
    together = model.bind(x)(z)
    for order in itertools.permutations(range(4), 2):
        picked = list(order)
        torch.testing.assert_close(model.bind(x[picked])(z[picked]), together[picked], rtol=1e-12, atol=1e-12)
