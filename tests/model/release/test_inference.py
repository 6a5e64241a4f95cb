"""The architecture that names and shapes tell of, and the reasons for refusing what is not ours."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18

from deqpipe.config import ModelConfig
from deqpipe.errors import UserError
from deqpipe.model.release.inference import CIFAR10_CLASSES, describe
from tests.reference.released import BRANCH, GOLDEN, state_of, tiny_state, told
from tests.reference.tiny import CLASSES, architecture, tiny_model

State = dict[str, Tensor]


def full(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("scales", [2, 3, 4])
def test_architecture_of_a_model_is_found(scales: int, weight_norm: bool) -> None:
    wanted = architecture(scales, weight_norm=weight_norm, expansion=3)
    state = state_of(tiny_model(scales, weight_norm=weight_norm, expansion=3), weight_norm=weight_norm)
    assert describe(state, told()) == {
        "type": "deq",
        "model": wanted.model_dump(mode="json"),
        "image_shape": [3, 8, 8],
        "classes": [str(number) for number in range(CLASSES)],
        "dataset": "unknown",
    }


def test_order_of_the_names_does_not_matter() -> None:
    state = tiny_state(3)
    assert describe(dict(sorted(state.items())), told()) == describe(state, told())


def test_architecture_of_the_recorded_model_is_found() -> None:
    state = torch.load(GOLDEN / "small.pth.tar", weights_only=True)["state_dict"]
    found = describe(state, told(image_size=32, dropout=0.1))
    assert ModelConfig.model_validate(found["model"]) == ModelConfig(
        channels=(8, 16, 32), head_channels=(4, 8, 16), final_channels=48, groups=4, expansion=5, dropout=0.1,
        weight_norm=True, init="release",
    )  # fmt: skip
    assert found["image_shape"] == [3, 32, 32]
    assert (found["classes"], found["dataset"]) == (list(CIFAR10_CLASSES), "CIFAR-10")


def ten(**changes: Tensor) -> State:
    return {**tiny_state(2), "classifier.weight": full(10, 7), "classifier.bias": full(10), **changes}


def test_ten_classes_of_colour_images_of_32_pixels_are_those_of_cifar_10() -> None:
    found = describe(ten(), told(image_size=32))
    assert found["classes"] == [
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ]  # fmt: skip
    assert found["dataset"] == "CIFAR-10"


@pytest.mark.parametrize(
    ("state", "size"),
    [(ten(), 16), (ten(**{"downsample.0.weight": full(4, 1, 3, 3)}), 32), (dict(tiny_state(2)), 32)],
    ids=["other size", "grey", "five classes"],
)
def test_other_images_have_classes_by_number(state: State, size: int) -> None:
    found = describe(state, told(image_size=size))
    assert found["classes"] == [str(number) for number in range(len(state["classifier.bias"]))]
    assert found["dataset"] == "unknown"


def test_told_classes_are_taken_and_say_nothing_of_the_images() -> None:
    names = tuple("abcdefghij")
    found = describe(ten(), told(image_size=32, classes=names))
    assert (found["classes"], found["dataset"]) == (list(names), "unknown")
    with pytest.raises(UserError, match=r"^--classes has 2 names, but the model has 10 classes$"):
        describe(ten(), told(classes=("a", "b")))


def without(state: State, *starts: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(starts)}


def wider(state: State) -> State:
    return state | {f"{BRANCH}.conv1.weight_v": full(6, 4, 3, 3)}


def half_normed(state: State) -> State:
    found = without(state, f"{BRANCH}.conv2.weight")
    return found | {f"{BRANCH}.conv2.weight": state[f"{BRANCH}.conv2.weight_v"]}


REFUSED: dict[str, tuple[Callable[[State], State], str]] = {
    "resnet": (
        lambda state: dict(resnet18().state_dict()),
        r"no MDEQ: fullstage.branches.0 is missing \(the names begin with conv1.weight, bn1.weight, bn1.bias\)",
    ),
    "one scale": (lambda state: without(state, "fullstage.branches.1"), "an MDEQ of one scale"),
    "two blocks": (
        lambda state: state | {"fullstage.branches.1.blocks.1.gn1.weight": full(2)},
        r"more than one block in a branch \(fullstage.branches.1.blocks.1.gn1.weight\)",
    ),
    "affine after fusing": (
        lambda state: state | {"fullstage.post_fuse_layers.0.gnorm.weight": full(4)},
        r"a GroupNorm with parameters after fusing \(fullstage.post_fuse_layers.0.gnorm.weight\)",
    ),
    "stem with more steps": (
        lambda state: state | {"downsample.DS3.weight": full(4, 4, 3, 3)},
        "a model for ImageNet: downsample.DS3.weight tells of a stem with strides",
    ),
    "stage0 with two scales": (
        lambda state: state | {"stage0.0.weight": full(4, 4, 1, 1)},
        "a model for ImageNet: stage0.0.weight with two scales tells of a stem with strides",
    ),
    "a thousand classes": (
        lambda state: state | {"classifier.weight": full(1000, 7), "classifier.bias": full(1000)},
        "1000 classes, as of a model for ImageNet, whose stem has strides",
    ),
    "first kernels of 5x5": (
        lambda state: state | {f"{BRANCH}.conv1.weight_v": full(8, 4, 5, 5)},
        r"fullstage.branches.0.blocks.0.conv1.weight_v is \[8, 4, 5, 5\], but the kernels .* are 3x3",
    ),
    "second kernels of 5x5": (
        lambda state: state | {f"{BRANCH}.conv2.weight_v": full(4, 8, 5, 5)},
        r"conv2.weight_v is \[4, 8, 5, 5\], but must be \[4, 8, 3, 3\]",
    ),
    "width that is no multiple": (wider, "conv1 makes 6 channels of 4, which is no whole multiple"),
    "widths that differ": (
        lambda state: state | {f"{BRANCH}.conv1.weight_v": full(12, 4, 3, 3)},
        "the blocks widen their channels 3, 2-fold, but must do so alike",
    ),
    "weight norm here and there": (
        half_normed,
        "conv2.weight_g is missing: some convolutions are weight-normed, but .*conv2.weight is not",
    ),
    "block norms without parameters": (lambda state: without(state, f"{BRANCH}.gn1"), "gn1.weight is missing$"),
    "fuse norms without parameters": (
        lambda state: without(state, "fullstage.fuse_layers.0.1.net.gnorm"),
        "fullstage.fuse_layers.0.1.net.gnorm.weight is missing$",
    ),
    "no classifier": (lambda state: without(state, "classifier"), "^classifier.weight is missing$"),
    "no first convolution": (lambda state: without(state, f"{BRANCH}.conv1"), "conv1.weight is missing$"),
    "no head": (lambda state: without(state, "incre_modules.1"), "incre_modules.1.0.conv1.weight is missing$"),
    "no statistics": (
        lambda state: without(state, "downsample.1.num_batches_tracked"),
        "^downsample.1.num_batches_tracked is missing$",
    ),
    "a scale is left out": (
        lambda state: without(state, "fullstage.branches.0"),
        "an MDEQ of one scale|fullstage.branches.0",
    ),
    "shortcut is missing": (
        lambda state: without(state, "incre_modules.0.0.downsample"),
        "incre_modules.0.0.downsample.0.weight is missing$",
    ),
    "shortcut is too much": (
        lambda state: state | {"incre_modules.1.0.downsample.0.weight": full(8, 8, 1, 1)},
        r"incre_modules.1.0.downsample.0.weight has no place in the model \(1 of 89 names have none\)",
    ),
    "unknown name": (lambda state: state | {"temperature": full(1)}, r"temperature has no place in the model"),
    "segmentation": (
        lambda state: without(state, "classifier", "final_layer", "incre") | {"last_layer.0.weight": full(1)},
        "incre_modules.0.0.conv1.weight is missing",
    ),
    "vector for a kernel": (
        lambda state: state | {f"{BRANCH}.conv1.weight_v": full(8)},
        r"conv1.weight_v is \[8\], but must have 4 dimensions, none of them 0",
    ),
    "nothing wide": (
        lambda state: state | {"final_layer.0.weight": full(0, 8, 1, 1)},
        r"final_layer.0.weight is \[0, 8, 1, 1\], but must have 4 dimensions, none of them 0",
    ),
    "wrong shape": (
        lambda state: state | {"final_layer.1.running_mean": full(9)},
        r"^final_layer.1.running_mean is \[9\], but must be \[7\]$",
    ),
    "whole numbers for weights": (
        lambda state: state | {"classifier.bias": torch.zeros(CLASSES, dtype=torch.int64)},
        "^classifier.bias is torch.int64, but must be a floating type$",
    ),
    "fractions for a count": (
        lambda state: state | {"downsample.1.num_batches_tracked": full()},
        "^downsample.1.num_batches_tracked is torch.float64, but must be torch.int64$",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_built_like_ours_is_refused_with_the_reason(case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as refusal:
        describe(change(dict(tiny_state())), told())
    assert "\n" not in str(refusal.value)


def test_three_scales_without_stage0_are_refused() -> None:
    with pytest.raises(UserError, match=r"^stage0.0.weight is missing$"):
        describe(without(dict(tiny_state(3)), "stage0"), told())


def test_a_thousand_classes_that_are_named_are_taken() -> None:
    state = tiny_state() | {"classifier.weight": full(1000, 7), "classifier.bias": full(1000)}
    names = tuple(f"class {number}" for number in range(1000))
    assert len(describe(state, told(classes=names))["classes"]) == 1000


@pytest.mark.parametrize(
    ("channels", "possible"),
    [
        ((8, 16, 32), [2, 4, 8]),
        ((6, 12), [2, 3, 6]),
        ((9, 18), [3]),
        ((10, 20), [2, 5, 10]),
        ((24, 24), [2, 3, 4, 6, 8, 12, 24]),
        ((32, 64, 128, 256), [2, 4, 8, 16, 32]),
        ((15, 30), [3]),
    ],
)
def test_groups_are_those_of_which_all_and_half_divide_every_scale(
    channels: tuple[int, ...], possible: list[int]
) -> None:
    settings: dict[str, Any] = {"channels": channels, "head_channels": range(1, 1 + len(channels))}
    state = state_of(tiny_model(len(channels), groups=possible[0], **settings), **settings)
    for groups in possible:
        assert describe(state, told(groups=groups))["model"]["groups"] == groups
    allowed, widths = ", ".join(map(str, possible)), "/".join(map(str, channels))
    for groups in {0, 1, *range(2, 34)} - set(possible):
        with pytest.raises(
            UserError, match=f"^--groups: is {groups}, but must be one of {allowed} for {widths} channels$"
        ):
            describe(state, told(groups=groups))
    with pytest.raises(UserError, match=f"^--groups: no name or shape tells .*: give one of {allowed} for {widths} "):
        describe(state, told(groups=None))


def test_channels_that_no_groups_divide_are_refused() -> None:
    state = dict(tiny_state()) | {f"{BRANCH}.conv1.weight_v": full(10, 5, 3, 3)}
    with pytest.raises(UserError, match=r"^no number of groups fits 5/8 channels: it and half of it must divide all"):
        describe(state, told())


def test_image_size_must_fit_the_scales() -> None:
    with pytest.raises(UserError, match="images of 9x9 pixels do not fit a model of 3 scales"):
        describe(tiny_state(3), told(image_size=9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "deq_pretrain"}, "--model and --seed name a model together: give both or none"),
        ({"seed": 0}, "--model and --seed name a model together: give both or none"),
        (
            {"model": "resnet18_trades", "seed": 0},
            "--model is 'resnet18_trades', but must be one of deq_pretrain, deq_",
        ),
        ({"model": "deq_pretrain", "seed": -1}, "--seed is -1, but must be at least 0"),
        ({"dropout": 1.0}, "--dropout is 1, but must be at least 0 and less than 1"),
        ({"dropout": float("nan")}, "--dropout is nan, but must be at least 0 and less than 1"),
        ({"classes": ("a", "b", "a")}, "--classes is 'a,b,a', but every class needs a name of its own"),
        ({"classes": ("a", "")}, "--classes is 'a,', but every class needs a name of its own"),
    ],
)
def test_what_is_told_wrong_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        told(**changes)


def test_huge_widths_are_refused_before_memory_is_taken() -> None:
    state = dict(tiny_state()) | {"final_layer.0.weight": full(1).expand(2**40, 8, 1, 1)}
    with pytest.raises(UserError, match=r"^final_channels is 1099511627776: input should be less than"):
        describe(state, told())
