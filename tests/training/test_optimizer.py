"""What training relies on in torch's fused optimisers."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from deqpipe.results import checkpoint

Make = Callable[..., Optimizer]


def adam(model: nn.Module, *, fused: bool = True) -> Optimizer:
    return Adam(model.parameters(), 0.1, betas=(0.8, 0.95), weight_decay=1e-2, fused=fused)


def sgd(model: nn.Module, *, fused: bool = True) -> Optimizer:
    return SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-2, fused=fused)


every_optimizer = pytest.mark.parametrize("make", [adam, sgd])


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 4)).to(dtype)


def update(
    model: nn.Module, optimizer: Optimizer, *, step: int, withheld: float = 0.0, bad: float | None = None
) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
        parameter.grad = drawn if bad is None else torch.full_like(drawn, bad)
    optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
    if optimizer.param_groups[0]["fused"]:
        optimizer.found_inf = torch.tensor(withheld)  # type: ignore[attr-defined]
    optimizer.step()


def everything(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Weights, moments and counters."""
    tensors = model.state_dict() | checkpoint.optimizer_tensors(optimizer, model)
    return {name: tensor.clone() for name, tensor in tensors.items() if not name.endswith("lr")}


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


@every_optimizer
def test_fused_updates_are_those_of_the_unfused_optimiser(make: Make) -> None:
    models = [network(), network()]
    optimizers = [make(model, fused=fused) for model, fused in zip(models, (False, True), strict=True)]
    for step in range(20):
        for model, optimizer in zip(models, optimizers, strict=True):
            update(model, optimizer, step=step)
    plain, fused = (everything(*pair) for pair in zip(models, optimizers, strict=True))
    assert plain.keys() == fused.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(fused[name], tensor, rtol=1e-10, atol=1e-10, msg=name)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.0])
def test_a_withheld_update_leaves_weights_moments_and_counters_untouched(
    make: Make, dtype: torch.dtype, bad: float
) -> None:
    model = network(dtype)
    optimizer = make(model)
    for step in range(3):
        update(model, optimizer, step=step)
    before = everything(model, optimizer)
    for step in range(3, 6):
        update(model, optimizer, step=step, withheld=1.0, bad=bad)
    assert_equal(everything(model, optimizer), before)


@every_optimizer
def test_an_update_that_is_not_withheld_is_that_of_an_optimiser_that_knows_of_nothing(make: Make) -> None:
    told, untold = network(), network()
    first, second = make(told), make(untold)
    for step in range(4):
        update(told, first, step=step)
        for parameter, other in zip(untold.parameters(), told.parameters(), strict=True):
            parameter.grad = copy.deepcopy(other.grad)
        second.param_groups[0]["lr"] = first.param_groups[0]["lr"]
        second.step()
    assert_equal(everything(told, first), everything(untold, second))


@every_optimizer
@pytest.mark.parametrize("stored_by", ["fused", "unfused"])
def test_a_stored_state_goes_on_whichever_optimiser_wrote_it(make: Make, stored_by: str) -> None:
    model = network()
    writer = make(model, fused=stored_by == "fused")
    for step in range(5):
        update(model, writer, step=step)
    tensors = checkpoint.optimizer_tensors(writer, model)
    reader = make(copied := copy.deepcopy(model), fused=True)
    checkpoint.restore_optimizer(reader, copied, tensors)
    assert all(group["fused"] for group in reader.param_groups)
    for state in reader.state.values():
        assert all(isinstance(value, Tensor) for value in state.values())
    assert_equal(everything(copied, reader), everything(model, writer))
    for step in range(5, 9):
        update(model, writer, step=step)
        update(copied, reader, step=step)
    left, right = everything(model, writer), everything(copied, reader)
    for name, tensor in left.items():
        torch.testing.assert_close(right[name], tensor, rtol=1e-10, atol=1e-10, msg=name)
