"""The table of names, and the ways in which files spell them."""

import ast

import pytest
import torch
from torch import Tensor

from deqpipe.config import load
from deqpipe.errors import UserError
from deqpipe.model.classifier import DEQClassifier
from deqpipe.model.release.names import CellName, Spelling, WeightNormNames, names_of, read_spelling, to_ours
from tests import tiny
from tests.reference.released import BRANCH, GOLDEN, GOLDEN_GROUPS, copies_of, same_bytes, state_of, tiny_state
from tests.reference.tiny import architecture, tiny_model

LARGE = load([tiny.ROOT / "config.yaml"]).model


def large_shapes() -> dict[str, tuple[int, ...]]:
    lines = (GOLDEN / "large_keys.txt").read_text().splitlines()[:-2]
    parts = [line.rsplit(" ", 1)[0].split(" ", 1) for line in lines]
    return {name: ast.literal_eval(shape) for name, shape in parts}


def test_table_of_large_has_the_releases_names_in_the_releases_order() -> None:
    assert list(names_of(LARGE)) == list(large_shapes())


def test_table_of_large_leads_one_to_one_to_our_names_and_shapes() -> None:
    table, shapes = names_of(LARGE), large_shapes()
    with torch.device("meta"):
        ours = DEQClassifier(LARGE, image_shape=(3, 32, 32), classes=10).state_dict()
    assert len(set(table.values())) == len(table) == 216
    assert {table[name]: shape for name, shape in shapes.items()} == {
        name: tuple(tensor.shape) for name, tensor in ours.items()
    }


@pytest.mark.parametrize("name", GOLDEN_GROUPS)
def test_names_of_recorded_checkpoints_stand_in_the_order_of_the_table(name: str) -> None:
    state = torch.load(GOLDEN / f"{name}.pth.tar", weights_only=True)["state_dict"]
    plain = [name.removeprefix("module.") for name in state]
    scales = 3 if name == "small" else 2
    widths = {"channels": range(1, scales + 1), "head_channels": range(1, scales + 1)}  # a shortcut everywhere
    assert list(names_of(architecture(scales, **widths))) == plain


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("scales", [2, 3, 4])
def test_values_under_the_releases_names_come_back_under_ours(scales: int, weight_norm: bool) -> None:
    model = tiny_model(scales, weight_norm=weight_norm)
    ours = to_ours(state_of(model, weight_norm=weight_norm))
    assert ours.keys() == model.state_dict().keys()
    assert all(tensor is not None and torch.equal(ours[name], tensor) for name, tensor in model.state_dict().items())


def test_name_that_the_release_does_not_have_is_not_translated() -> None:
    with pytest.raises(KeyError, match=r"fullstage\.elsewhere"):
        to_ours(tiny_state() | {"fullstage.elsewhere": torch.zeros(1)})


def test_each_spelling_is_what_its_parts_say() -> None:
    assert Spelling().of(f"{BRANCH}.conv1.weight_g") == f"{BRANCH}.conv1.weight_g"
    other = Spelling("module.", "deq.func.", "parametrizations")
    start = "module.deq.func.branches.0.blocks.0"
    assert other.of(f"{BRANCH}.conv1.weight_g") == f"{start}.conv1.parametrizations.weight.original0"
    assert other.of(f"{BRANCH}.conv1.weight_v") == f"{start}.conv1.parametrizations.weight.original1"
    assert other.of(f"{BRANCH}.gn1.weight") == f"{start}.gn1.weight"
    assert other.of("classifier.weight") == "module.classifier.weight"


@pytest.mark.parametrize("weight_norm", ["weight_g", "parametrizations"])
@pytest.mark.parametrize("cell", ["fullstage.", "deq.func."])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_every_spelling_is_read_back(prefix: str, cell: CellName, weight_norm: WeightNormNames) -> None:
    spelling = Spelling(prefix, cell, weight_norm)
    state = tiny_state()
    tensors, found, left_out = read_spelling({spelling.of(name): tensor for name, tensor in state.items()})
    assert found == spelling
    assert list(tensors) == list(state)
    assert all(tensors[name] is tensor for name, tensor in state.items())
    assert left_out == []


def old_state() -> dict[str, Tensor]:
    """With all that older code saves twice and three times."""
    model = tiny_model()
    state = state_of(model)
    twice = {name.replace("fullstage.", "deq.func."): tensor for name, tensor in state.items()}
    copies = {**copies_of(model, state, "fullstage_copy."), **copies_of(model, state, "deq.func_copy.")}
    return {**state, **copies, **twice}


def test_doubles_that_are_the_same_are_left_out_and_named() -> None:
    state = tiny_state()
    tensors, spelling, left_out = read_spelling(old_state())
    assert spelling == Spelling()
    assert list(tensors) == list(state)
    assert all(same_bytes(tensors[name], tensor) for name, tensor in state.items())
    inner = sum(name.startswith("fullstage.") for name in state)
    normed = sum(name.endswith("_g") for name in state)
    assert left_out == [
        f"fullstage_copy.* ({inner - normed} tensors, the same as fullstage.*)",
        f"deq.func_copy.* ({inner - normed} tensors, the same as fullstage.*)",
        f"deq.func.* ({inner} tensors, the same as fullstage.*)",
    ]


def test_copies_of_what_is_called_deq_func_are_left_out_too() -> None:
    state = {name: tensor for name, tensor in old_state().items() if not name.startswith("fullstage")}
    tensors, spelling, left_out = read_spelling(state)
    assert spelling.cell == "deq.func."
    assert list(tensors) == [name for name in state if not name.startswith("deq.")] + [
        name.replace("deq.func.", "fullstage.") for name in state if name.startswith("deq.func.")
    ]
    assert [one.split(" ", 1)[0] for one in left_out] == ["deq.func_copy.*"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_weights_of_a_copy_may_be_rounded_otherwise(dtype: torch.dtype) -> None:
    state = {name: one.to(dtype) if one.is_floating_point() else one for name, one in old_state().items()}
    read_spelling(state)
    copy = next(name for name in state if name.startswith("fullstage_copy.") and name.endswith("conv1.weight"))
    state[copy] = state[copy] * (1 + 10 * torch.finfo(dtype).eps)
    read_spelling(state)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("deq.func.branches.1.blocks.0.gn1.bias", lambda tensor: tensor + 1e-12),
        ("deq.func.branches.0.blocks.0.conv1.weight_g", lambda tensor: tensor.float()),
        ("fullstage_copy.branches.0.blocks.0.gn3.weight", lambda tensor: tensor[:-1]),
        ("fullstage_copy.branches.0.blocks.0.conv2.weight", lambda tensor: tensor * 1.001),
        ("deq.func_copy.post_fuse_layers.1.conv.weight", lambda tensor: tensor.flip(0)),
        ("deq.func_copy.post_fuse_layers.1.conv.weight", lambda tensor: tensor[:1]),
        ("fullstage_copy.elsewhere.weight", lambda tensor: torch.zeros(1)),
        ("deq.func.elsewhere", lambda tensor: torch.zeros(1)),
    ],
)  # fmt: skip
def test_doubles_that_differ_are_refused(name: str, changed: object) -> None:
    state = old_state()
    assert callable(changed)
    state[name] = changed(state.get(name))
    with pytest.raises(UserError, match=f"^{name} is not the same as fullstage.*does not say which to take$"):
        read_spelling(state)


@pytest.mark.parametrize(("part", "shape"), [("weight_v", (8,)), ("weight_v", ()), ("weight_g", (3, 1, 1, 1))])
def test_weights_of_a_copy_are_refused_where_there_is_nothing_to_compare(part: str, shape: tuple[int, ...]) -> None:
    state = old_state()
    for name in list(state):
        if name.endswith(f"branches.0.blocks.0.conv1.{part}"):
            state[name] = torch.ones(shape, dtype=torch.float64)
        if part == "weight_v" and name.endswith("_copy.branches.0.blocks.0.conv1.weight"):
            state[name] = torch.ones(shape, dtype=torch.float64)
    with pytest.raises(UserError, match=r"^fullstage_copy.branches.0.blocks.0.conv1.weight is not the same"):
        read_spelling(state)


def test_doubles_that_differ_in_the_sign_of_zero_are_refused() -> None:
    state = old_state()
    for name in state:
        if name.endswith("branches.0.blocks.0.gn1.bias"):
            state[name] = torch.full((8,), -0.0 if name.startswith("deq.func.") else 0.0)
    with pytest.raises(UserError, match=r"^deq\.func\.branches.0.blocks.0.gn1.bias is not the same"):
        read_spelling(state)


def test_prefix_that_only_some_names_have_is_refused() -> None:
    state = {Spelling("module.").of(name): tensor for name, tensor in tiny_state().items()}
    state["classifier.bias"] = state.pop("module.classifier.bias")
    with pytest.raises(UserError, match=f"^{len(state) - 1} of {len(state)} names start with module., but all must"):
        read_spelling(state)


def test_weight_norm_in_two_spellings_is_refused() -> None:
    state: dict[str, Tensor] = dict(tiny_state())
    state[f"{BRANCH}.conv2.parametrizations.weight.original0"] = state.pop(f"{BRANCH}.conv2.weight_g")
    with pytest.raises(UserError, match=r"^weight norm is spelled in two ways, .*conv1.weight_g and .*conv2.param"):
        read_spelling(state)
