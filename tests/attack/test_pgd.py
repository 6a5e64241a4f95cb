"""PGD by hand on linear classifiers, where it stays, what it leaves alone, and where it starts."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deqpipe.attack.pgd import PGD, Objective, cross_entropy_objective, unfooled_objective, uniform_start
from deqpipe.attack.surrogate import IntermediateState
from deqpipe.dynamics import PlainDynamics
from deqpipe.gradient import Unrolled
from deqpipe.seeding import Stream
from deqpipe.solver.broyden import Broyden
from deqpipe.solver.solve import Termination
from deqpipe.threat_model import LinfBall
from tests.reference.tiny import images, tiny_model

BALL = LinfBall(0.1)
STREAM = Stream(3, "starts")
SURROGATE = IntermediateState(3, Unrolled(2, 0.5), PlainDynamics(Broyden(), Termination(4)))


def linear(classes: int = 2, *, pixels: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes, pixels, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("steps", "step_size"), [(1, 0.03), (3, 0.03), (7, 0.03), (2, 0.25)])
def test_linear_two_class_model_is_attacked_along_the_sign_of_the_difference_of_its_weights(
    steps: int, step_size: float
) -> None:
    weights, x, y = linear(), images(4, size=2), torch.tensor([0, 1, 1, 0])
    objective = cross_entropy_objective(lambda image: image.flatten(1) @ weights.T, y)
    attacked = PGD(BALL, steps=steps, step_size=step_size)(objective, x, start=x)
    for n in range(4):
        towards = (weights[1 - y[n]] - weights[y[n]]).sign().view(3, 2, 2)
        change = min(steps * step_size, BALL.epsilon) * towards
        torch.testing.assert_close(attacked.images[n], (x[n] + change).clamp(0, 1), rtol=0, atol=1e-12)


def test_steps_are_taken_where_the_attack_is_and_not_where_it_began() -> None:
    """d/dx of -(x - c)^2 changes its sign at c: the iterates swing around c."""
    x = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    objective = lambda image: -((image - 0.53) ** 2).sum()  # noqa: E731
    path = [PGD(BALL, steps=n, step_size=0.02)(objective, x, start=x).images.item() for n in range(1, 6)]
    assert path == pytest.approx([0.52, 0.54, 0.52, 0.54, 0.52])


def test_attack_begins_at_its_start_and_stays_around_the_clean_image() -> None:
    x = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    start = x + torch.tensor([0.08, -0.09], dtype=torch.float64)
    attacked = PGD(BALL, steps=1, step_size=0.05)(lambda image: image.sum(), x, start=start)
    torch.testing.assert_close(attacked.images.flatten(), torch.tensor([0.6, 0.46], dtype=torch.float64))


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.7])
def test_images_stay_in_the_ball_and_in_the_pixel_range(epsilon: float) -> None:
    ball, x, y = LinfBall(epsilon), images(3, size=2), torch.tensor([0, 1, 2])
    weights = linear(3)
    start = uniform_start(x, ball=ball, stream=STREAM, images=range(3), clamp=False)
    objective = cross_entropy_objective(lambda image: image.flatten(1) @ weights.T, y)
    adversarial = PGD(ball, steps=5, step_size=0.1)(objective, x, start=start).images
    assert (adversarial - x).abs().max() <= epsilon + 1e-12
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    if epsilon == 0:
        assert torch.equal(adversarial, x)


def test_loss_of_every_image_rises_on_a_deq() -> None:
    model, x, y = tiny_model(2), images(4), torch.tensor([0, 1, 2, 3])

    def losses(image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return F.cross_entropy(SURROGATE(model, image), y, reduction="none")

    objective = cross_entropy_objective(lambda image: SURROGATE(model, image), y)
    attacked = PGD(LinfBall(0.02), steps=4, step_size=0.005)(objective, x, start=x)
    assert (losses(attacked.images) > losses(x)).all()
    assert (attacked.lost_gradient == 0).all()


def test_attacked_images_do_not_depend_on_shards() -> None:
    model, x, y = tiny_model(2), images(4), torch.tensor([0, 1, 2, 3])

    def attack(picked: list[int]) -> torch.Tensor:
        start = uniform_start(x[picked], ball=BALL, stream=STREAM, images=picked, clamp=True)
        objective = cross_entropy_objective(lambda image: SURROGATE(model, image), y[picked])
        return PGD(BALL, steps=3, step_size=0.02)(objective, x[picked], start=start).images

    whole = attack([0, 1, 2, 3])
    for shard in ([0, 1], [2, 3], [3, 0, 2], [1]):
        torch.testing.assert_close(attack(shard), whole[shard], rtol=0, atol=1e-9)


def test_parameters_and_mode_are_left_as_they_were() -> None:
    model, x = tiny_model(2), images(2)
    parameters = list(model.parameters())
    for n, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, float(n))
    parameters[0].requires_grad_(False)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    objective = cross_entropy_objective(lambda image: SURROGATE(model, image), torch.tensor([0, 1]))
    attacked = PGD(BALL, steps=2, step_size=0.02)(objective, x, start=x)
    assert all(
        bool((parameter.grad == n).all()) for n, parameter in enumerate(parameters) if parameter.grad is not None
    )
    assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert not model.training
    assert not attacked.images.requires_grad
    assert x.grad is None


def test_attack_works_where_gradients_are_switched_off() -> None:
    x = images(2, size=2)
    with torch.no_grad():
        attacked = PGD(BALL, steps=1, step_size=0.05)(lambda image: image.sum(), x, start=x)
    torch.testing.assert_close(attacked.images, (x + 0.05).clamp(0, 1))


def test_steps_without_a_usable_gradient_are_counted_image_by_image() -> None:
    """Image 0 never has a gradient, image 1 is not a number, image 2 loses its own after one step, image 3 never."""
    x = torch.full((4, 1, 1, 2), 0.5, dtype=torch.float64)

    def objective(image: torch.Tensor) -> torch.Tensor:
        first = 0 * image[0].sum()
        second = image[1].sum() * torch.nan
        third = F.relu(0.51 - image[2]).sum()
        return first + second - third + image[3, 0, 0, 0]

    attacked = PGD(BALL, steps=4, step_size=0.02)(objective, x, start=x)
    assert attacked.lost_gradient.tolist() == [1.0, 1.0, 0.75, 0.0]
    assert torch.equal(attacked.images[:2], x[:2])


def test_objective_is_the_cross_entropy_summed_over_images() -> None:
    logits, y = (
        torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 3, 1]),
    )
    by_hand = sum(
        -torch.log(torch.exp(row)[label] / torch.exp(row).sum()) for row, label in zip(logits, y, strict=True)
    )
    torch.testing.assert_close(cross_entropy_objective(lambda image: logits, y)(torch.zeros(3, 1, 1, 1)), by_hand)


def half_right(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Labels that a linear classifier gives the images of even index, and wrong ones for the others."""
    y = (x.flatten(1) @ weights.T).argmax(1)
    y[1::2] = (y[1::2] + 1) % len(weights)
    return y


def test_objective_of_the_unfooled_is_the_cross_entropy_of_those_that_are_right() -> None:
    weights, x = linear(3), images(5, size=2)
    y = half_right(weights, x)
    value = unfooled_objective(lambda image: image.flatten(1) @ weights.T, y)(x)
    right = [
        cross_entropy_objective(lambda image: image.flatten(1) @ weights.T, y[[n]])(x[[n]]).item() for n in (0, 2, 4)
    ]
    assert value.item() == pytest.approx(sum(right), rel=1e-12)


def test_gradient_of_the_unfooled_is_that_of_the_cross_entropy_and_zero_where_an_image_is_wrong() -> None:
    weights, x = linear(3), images(5, size=2).requires_grad_()
    y = half_right(weights, x.detach())

    def gradient(kind: Callable[..., Objective]) -> torch.Tensor:
        (found,) = torch.autograd.grad(kind(lambda image: image.flatten(1) @ weights.T, y)(x), x)
        return found

    all_of_them, unfooled = gradient(cross_entropy_objective), gradient(unfooled_objective)
    torch.testing.assert_close(unfooled[::2], all_of_them[::2], rtol=0, atol=0)
    assert (unfooled[1::2] == 0).all()
    assert (all_of_them[1::2] != 0).any()


def test_objective_of_the_unfooled_is_zero_and_flat_where_every_image_is_wrong() -> None:
    weights, x = linear(3), images(4, size=2).requires_grad_()
    y = (x.detach().flatten(1) @ weights.T).argmin(1)
    value = unfooled_objective(lambda image: image.flatten(1) @ weights.T, y)(x)
    assert value == 0
    (gradient,) = torch.autograd.grad(value, x)
    assert (gradient == 0).all()


def test_images_are_left_alone_from_the_step_on_that_fools_them() -> None:
    """One pixel against a threshold at 0.5: three bright images, the second one from the start on the other side."""
    x = torch.tensor([0.555, 0.4, 0.9], dtype=torch.float64).view(-1, 1, 1, 1)
    logits_of = lambda image: torch.cat([0 * image.flatten(1), image.flatten(1) - 0.5], dim=1)  # noqa: E731
    objective = unfooled_objective(logits_of, torch.ones(3, dtype=torch.int64))
    attacked = PGD(BALL, steps=4, step_size=0.02)(objective, x, start=x)
    expected = torch.tensor([0.555 - 3 * 0.02, 0.4, 0.9 - 4 * 0.02], dtype=torch.float64)
    torch.testing.assert_close(attacked.images.flatten(), expected, rtol=0, atol=1e-12)
    assert attacked.lost_gradient.tolist() == [0.25, 1.0, 0.0]


def test_ordinary_networks_are_attacked_too() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    x, y = images(3, size=2), torch.tensor([0, 1, 2])
    attacked = PGD(BALL, steps=3, step_size=0.05)(cross_entropy_objective(network, y), x, start=x)
    with torch.no_grad():
        assert F.cross_entropy(network(attacked.images), y) > F.cross_entropy(network(x), y)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("steps", [0, -1])
def test_attack_without_steps_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} attack steps.*at least 1"):
        PGD(BALL, steps=steps, step_size=0.1)


def test_start_is_uniform_in_the_ball() -> None:
    x = torch.full((200, 3, 8, 8), 0.5, dtype=torch.float64)
    noise = (uniform_start(x, ball=BALL, stream=STREAM, images=range(200), clamp=True) - x).flatten()
    assert noise.abs().max() <= BALL.epsilon
    shares = torch.histc(noise, bins=10, min=-BALL.epsilon, max=BALL.epsilon) / len(noise)
    assert (shares - 0.1).abs().max() < 0.01
    neighbours = torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1]
    assert abs(float(neighbours)) < 0.02


def test_start_is_clamped_into_the_pixel_range_only_if_asked() -> None:
    x = torch.cat([torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)]).double()
    free = uniform_start(x, ball=BALL, stream=STREAM, images=range(4), clamp=False)
    clamped = uniform_start(x, ball=BALL, stream=STREAM, images=range(4), clamp=True)
    assert free.min() < 0
    assert free.max() > 1
    assert torch.equal(clamped, free.clamp(0, 1))


def test_start_is_keyed_by_the_image_and_not_by_its_place() -> None:
    x = torch.full((3, 1, 2, 2), 0.5)
    one = uniform_start(x, ball=BALL, stream=STREAM, images=[4, 8, 15], clamp=True)
    other = uniform_start(x[:2], ball=BALL, stream=STREAM, images=[15, 4], clamp=True)
    assert torch.equal(other, one[[2, 0]])
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, uniform_start(x, ball=BALL, stream=Stream(4, "starts"), images=[4, 8, 15], clamp=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_start_keeps_the_precision_of_the_images(dtype: torch.dtype) -> None:
    x = torch.full((1, 1, 2, 2), 0.5, dtype=dtype)
    assert uniform_start(x, ball=BALL, stream=STREAM, images=[0], clamp=True).dtype == dtype
