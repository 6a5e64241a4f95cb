"""Floating-point operations from shapes, against those that torch counts."""

from collections.abc import Sequence

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deqpipe import config
from deqpipe.config import ModelConfig
from deqpipe.model.architecture import FEEDFORWARD
from deqpipe.model.classifier import build_classifier
from deqpipe.model.resnet import resnet
from deqpipe.planning import arithmetic, cost
from deqpipe.planning.cost import Images
from deqpipe.workflow import vocabulary
from tests import tiny
from tests.reference.tiny import architecture


def large() -> ModelConfig:
    return config.load([tiny.ROOT / "config.yaml"]).model


@torch.no_grad()
def counted(model: ModelConfig, shape: tuple[int, int, int]) -> int:
    network = build_classifier(model, image_shape=shape, classes=3, seed=0).eval()
    fn, z = network.bind(torch.rand(1, *shape)), torch.rand(1, network.state_size)
    with FlopCounterMode(display=False) as found:
        fn(z)
    return found.get_total_flops()


def test_mdeq_large_takes_823_million_operations_an_image() -> None:
    found = arithmetic.cell_operations(large(), image_shape=(3, 32, 32))
    assert found / 1e9 == pytest.approx(0.823, abs=5e-4)
    assert found == counted(large(), (3, 32, 32))


@pytest.mark.parametrize("scales", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_operations_of_f_are_those_that_torch_counts(scales: int, size: tuple[int, int]) -> None:
    model, shape = architecture(scales, expansion=3), (3, *size)
    assert arithmetic.cell_operations(model, image_shape=shape) == counted(model, shape)


def test_gradients_to_inputs_and_to_weights_take_as_many_operations_as_f_does() -> None:
    model, shape = architecture(3), (3, 8, 8)
    network = build_classifier(model, image_shape=shape, classes=3, seed=0).eval()
    z = torch.rand(1, network.state_size, requires_grad=True)
    value, once = network.bind(torch.rand(1, *shape))(z), arithmetic.cell_operations(model, image_shape=shape)
    for wanted, times in (([z], 1), ([z, *network.cell.parameters()], 2)):
        with FlopCounterMode(display=False) as found:
            torch.autograd.grad(value.sum(), wanted, retain_graph=True)
        assert found.get_total_flops() == times * once


@pytest.mark.parametrize(
    ("layers", "shape"),
    [([2, 2, 2, 2], (3, 32, 32)), ([1, 1, 1, 2], (1, 8, 8)), ([1, 1, 1, 1], (3, 6, 4)), ([1, 2, 3, 1], (3, 30, 28))],
)
def test_operations_of_a_resnet_are_those_that_torch_counts(layers: Sequence[int], shape: tuple[int, int, int]) -> None:
    network = resnet(layers, 7, image_shape=shape, seed=0).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as found:
        network(torch.rand(1, *shape))
    settings = tiny.settings({"resnet": {"layers": layers}}).resnet
    counted = FEEDFORWARD["resnet"].operations(settings, image_shape=shape, classes=7)
    assert found.get_total_flops() == counted


def test_a_resnets_training_counts_its_attack_its_loss_and_its_validation() -> None:
    images = Images(train=100, validation=10, test=20, shape=(3, 32, 32), classes=10)
    one = config.load([tiny.ROOT / "config.yaml"])
    epochs, steps = one.resnet.training.epochs, one.training.attack.steps
    validated = 10 * (2 + 2 * one.selection.attack.steps)
    for model, step in (("resnet18_pgd_at", 2 * steps + 3), ("resnet18_trades", 2 * steps + 1 + 3 + 3)):
        assert vocabulary.MODELS[model].architecture == vocabulary.RESNET
        parts = cost.job("train_feedforward", {"model": model}, one, images).parts
        assert arithmetic.feedforward_passes(one, parts, name="resnet") == epochs * (100 * step + validated)
