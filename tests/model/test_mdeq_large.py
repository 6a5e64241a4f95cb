"""MDEQ-Large, the model of the default config, against the release's inventory."""

import ast
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from deqpipe.config import ModelConfig, load
from deqpipe.model.cell import NormedConv2d
from deqpipe.model.classifier import DEQClassifier, build_classifier
from deqpipe.model.release.names import to_ours

ROOT = Path(__file__).parents[2]
LARGE: ModelConfig = load([ROOT / "config.yaml"]).model
GROUPS = {
    "cell.branches.": 7_843_200,
    "cell.fuse.": 784_512,
    "cell.post.": 87_520,
    "stem.0-5": 10_208,
    "stem.6-8": 1_088,
    "head.incre.": 408_660,
    "head.down.": 1_187_760,
    "head.final.": 757_680,
    "head.fc.": 16_810,
}


def on_meta(architecture: ModelConfig) -> DEQClassifier:
    """The model without its numbers."""
    with torch.device("meta"):
        return DEQClassifier(architecture, image_shape=(3, 32, 32), classes=10)


@pytest.fixture(scope="module")
def large() -> DEQClassifier:
    return build_classifier(LARGE, image_shape=(3, 32, 32), classes=10, seed=3)


def group_of(name: str) -> str:
    if name.startswith("stem."):
        return "stem.0-5" if int(name.split(".")[1]) < 6 else "stem.6-8"
    return next(group for group in GROUPS if name.startswith(group))


def test_large_has_as_many_parameters_as_the_release_in_every_part() -> None:
    counts = dict.fromkeys(GROUPS, 0)
    parameters = dict(on_meta(LARGE).named_parameters())
    for name, parameter in parameters.items():
        counts[group_of(name)] += parameter.numel()
    assert counts == GROUPS
    assert sum(counts.values()) == 11_097_438
    assert len(parameters) == 147


def test_large_has_the_releases_tensors_by_name_and_shape() -> None:
    lines = (ROOT / "tests" / "golden" / "release" / "large_keys.txt").read_text().splitlines()
    recorded = {}
    for line in lines[:-2]:
        key, shape = line.rsplit(" ", 1)[0].split(" ", 1)
        recorded[key] = ast.literal_eval(shape)
    assert len(recorded) == 216
    assert {name: tuple(tensor.shape) for name, tensor in on_meta(LARGE).state_dict().items()} == to_ours(recorded)


def test_large_has_a_state_of_61440_numbers_finest_scale_first() -> None:
    model = on_meta(LARGE)
    assert model.state_size == 61_440
    assert model.function.shapes == ((32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4))


def test_extra_large_has_48792098_parameters() -> None:
    widths = {"channels": [72, 144, 288, 576], "head_channels": [20, 40, 80, 160], "final_channels": 1800}
    model = on_meta(ModelConfig.model_validate(LARGE.model_dump(mode="json") | widths))
    assert sum(parameter.numel() for parameter in model.parameters()) == 48_792_098


@torch.no_grad()
def test_weight_normed_convolutions_start_uniform_and_all_others_normal(large: DEQClassifier) -> None:
    for module in large.modules():
        if isinstance(module, NormedConv2d):
            bound = 1 / math.sqrt(module.v[0].numel())
            assert 0.97 * bound < module.v.abs().max() <= bound
            assert float(module.v.std()) == pytest.approx(bound / math.sqrt(3), rel=0.06)
        elif isinstance(module, nn.Conv2d):
            tensors = [module.weight] if module.bias is None else [module.weight, module.bias]
            for tensor in tensors:
                spread = 5 / math.sqrt(2 * tensor.numel())
                assert float(tensor.std()) == pytest.approx(0.01, rel=spread)
                assert abs(float(tensor.mean())) < 5 * 0.01 / math.sqrt(tensor.numel())
        elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d) and module.weight is not None:
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Linear):
            assert 0.99 / math.sqrt(1680) < module.weight.abs().max() <= 1 / math.sqrt(1680)


@torch.no_grad()
def test_effective_weights_start_as_drawn(large: DEQClassifier) -> None:
    for module in large.modules():
        if isinstance(module, NormedConv2d):
            assert module.g is not None
            norms = torch.stack([channel.square().sum().sqrt() for channel in module.v])
            torch.testing.assert_close(module.g.flatten(), norms)
            torch.testing.assert_close(module.effective_weight(), module.v)


def test_states_of_large_are_finite_in_single_precision(large: DEQClassifier) -> None:
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    large.eval()
    with torch.no_grad():
        fn = large.bind(x)
        z = fn(fn(large.initial_state(x)))
        assert z.shape == (1, 61_440)
        assert z.isfinite().all()
        assert large.logits(z).shape == (1, 10)
