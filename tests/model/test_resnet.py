import itertools

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

from deqpipe.model.resnet import OnePixelConvolution, ResNet, resnet
from tests.sampling import one_in


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def torchvisions(layers: list[int], *, in_channels: int) -> nn.Module:
    """The plain way: torchvision's network with another stem and no max-pooling."""
    network = torchvision_resnet.ResNet(torchvision_resnet.BasicBlock, layers, num_classes=10)
    network.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def pair(layers: list[int], image_shape: tuple[int, int, int]) -> tuple[ResNet, nn.Module]:
    """Ours and torchvision's, from the same draws."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ours = ResNet(layers, 10, image_shape=image_shape)
        torch.manual_seed(3)
        return ours, torchvisions(layers, in_channels=image_shape[0])


SHAPES = ((1, 8, 8), (3, 5, 7), (3, 4, 4), (3, 8, 16), (3, 32, 32))


@pytest.mark.parametrize("shape", SHAPES)
def test_names_and_initial_numbers_are_torchvisions_bit_for_bit(shape: tuple[int, int, int]) -> None:
    ours, theirs = (network.state_dict() for network in pair([1, 2, 1, 2], shape))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("shape", "training"), one_in(3, itertools.product(SHAPES, (True, False))))
def test_logits_and_gradients_are_torchvisions(shape: tuple[int, int, int], training: bool) -> None:
    found = []
    images = torch.rand(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for network in pair([1, 2, 1, 2], shape):
        network.double().train()
        network(images)  # statistics that are not the initial ones
        x = images.clone().requires_grad_()
        logits = network.train(training)(x)
        parameters = [parameter for _, parameter in sorted(network.named_parameters())]
        found.append([logits, *torch.autograd.grad(logits.logsumexp(1).sum(), [x, *parameters])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_training_step_leaves_torchvisions_weights_and_statistics() -> None:
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for network in pair([1, 1, 1, 1], (1, 8, 8)):
        network.double().train()
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        for _ in range(2):
            optimizer.zero_grad()
            torch.autograd.backward(network(images).logsumexp(1).sum())
            optimizer.step()
        found.append(network.state_dict())
    for name, ours in found[0].items():
        torch.testing.assert_close(ours, found[1][name], rtol=1e-9, atol=1e-9)


def test_only_images_of_at_most_eight_pixels_take_the_short_cut_in_the_last_stage() -> None:
    def short(shape: tuple[int, int, int]) -> list[str]:
        network = ResNet([1, 1, 1, 1], 10, image_shape=shape)
        return [name for name, module in network.named_modules() if isinstance(module, OnePixelConvolution)]

    assert short((1, 8, 8)) == ["layer4.0.conv1", "layer4.0.conv2"]
    assert short((1, 8, 9)) == short((3, 32, 32)) == []


def test_resnet18_with_the_cifar_stem_has_the_known_number_of_parameters() -> None:
    assert count(resnet([2, 2, 2, 2], 10, image_shape=(3, 32, 32), seed=0)) == 11_173_962


def test_stem_keeps_the_resolution_and_the_stages_halve_it_three_times() -> None:
    network = resnet([1, 1, 1, 1], 10, image_shape=(3, 32, 32), seed=0).eval()
    sizes: dict[str, torch.Size] = {}
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        getattr(network, name).register_forward_hook(
            lambda _module, _input, output, name=name: sizes.update({name: output.shape[1:]})
        )
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == {
        "conv1": (64, 32, 32),
        "layer1": (64, 32, 32),
        "layer2": (128, 16, 16),
        "layer3": (256, 8, 8),
        "layer4": (512, 4, 4),
    }


def flat(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_initialisation_depends_on_the_seed_alone_and_leaves_the_global_generator_as_it_was() -> None:
    shape = (1, 8, 8)
    torch.manual_seed(1)
    first = flat(resnet([1, 1, 1, 1], 10, image_shape=shape, seed=3))
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(first, flat(resnet([1, 1, 1, 1], 10, image_shape=shape, seed=3)))
    assert not torch.equal(first, flat(resnet([1, 1, 1, 1], 10, image_shape=shape, seed=4)))


@pytest.mark.parametrize("layers", [[1, 1], [1, 1, 1, 1, 1]])
def test_number_of_stages_must_be_four(layers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"layers is \[.*\], but a ResNet has 4 stages"):
        resnet(layers, 10, image_shape=(3, 32, 32), seed=0)
