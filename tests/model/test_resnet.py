import pytest
import torch
from torch import Tensor, nn

from deqpipe.model.resnet import resnet


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_resnet18_with_the_cifar_stem_has_the_known_number_of_parameters() -> None:
    assert count(resnet([2, 2, 2, 2], 10, in_channels=3, seed=0)) == 11_173_962


def test_stem_keeps_the_resolution_and_the_stages_halve_it_three_times() -> None:
    network = resnet([1, 1, 1, 1], 10, in_channels=3, seed=0).eval()
    sizes: dict[str, torch.Size] = {}
    for name in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        getattr(network, name).register_forward_hook(
            lambda _module, _input, output, name=name: sizes.update({name: output.shape[1:]})
        )
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == {
        "conv1": (64, 32, 32),
        "maxpool": (64, 32, 32),
        "layer1": (64, 32, 32),
        "layer2": (128, 16, 16),
        "layer3": (256, 8, 8),
        "layer4": (512, 4, 4),
    }


def test_single_channel_images_of_eight_pixels_give_logits_and_gradients() -> None:
    network = resnet([1, 1, 1, 1], 7, in_channels=1, seed=0)
    images = torch.rand(4, 1, 8, 8, requires_grad=True)
    logits = network(images)
    assert logits.shape == (4, 7)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)
    assert gradient.abs().sum() > 0


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_initialisation_depends_on_the_seed_alone_and_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(1)
    first = flat(resnet([1, 1, 1, 1], 10, in_channels=1, seed=3))
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(first, flat(resnet([1, 1, 1, 1], 10, in_channels=1, seed=3)))
    assert not torch.equal(first, flat(resnet([1, 1, 1, 1], 10, in_channels=1, seed=4)))


def test_stem_is_initialised_like_the_other_convolutions() -> None:
    # He et al.: standard deviation sqrt(2 / fan out), here 64 filters of 3x3
    weight = resnet([1, 1, 1, 1], 10, in_channels=3, seed=0).conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


def test_number_of_stages_must_be_four() -> None:
    with pytest.raises(IndexError):
        resnet([1, 1], 10, in_channels=3, seed=0)
