"""The stand-ins for a GPU notice what they are there for."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.pretend import HostSynchronisation, Kind, WrongDevice, pretended, put

KINDS: tuple[Kind, ...] = ("meta", "cuda")
both = pytest.mark.parametrize("kind", KINDS)

WAITING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "int": lambda x: int(x.argmax()),
    "float": lambda x: float(x.sum()),
    "if": lambda x: 1 if (x > 0).any() else 0,
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu", torch.float64),
    "tolist": lambda x: x.tolist(),
    "copy to the host": lambda x: torch.empty(x.shape).copy_(x),
    "mask": lambda x: x[x > 0],
    "mask assigned": lambda x: x.__setitem__(x > 0, torch.zeros(2, device=x.device)),
    "nonzero": lambda x: x.nonzero(),
    "where without values": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x + 1),
    "number on the device": lambda x: torch.tensor(1.0, device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "list as index": lambda x: x[[1, 0]],
    "blocking upload": lambda x: torch.rand(4).to(x.device),
    "blocking copy": lambda x: x.copy_(torch.rand(4)),
    "solve": lambda x: torch.linalg.solve(x.diag(), x),
}
MIXED: dict[str, Callable[[Tensor], object]] = {
    "noise": lambda x: x + torch.rand(4),
    "mask": lambda x: torch.where(torch.rand(4) < 0.5, x, 0),
    "allocation": lambda x: torch.zeros(4).add_(x),
    "index": lambda x: x[torch.tensor([1, 0])],
    "convolution": lambda x: F.conv1d(x.view(1, 1, 4), torch.ones(1, 1, 2)),
    "scalar in a stack": lambda x: torch.stack([x.sum(), torch.zeros(())]),
}
ALLOWED: dict[str, Callable[[Tensor], object]] = {
    "scalar of the CPU": lambda x: x * torch.tensor(2.0) + 3.0,
    "moved": lambda x: x + torch.rand(4).to(x.device, non_blocking=True),
    "moved and cast": lambda x: x + torch.rand(4).to(x.device, torch.float64, non_blocking=True),
    "pinned": lambda x: x + torch.rand(4).pin_memory().to(x.device, non_blocking=True),
    "where": lambda x: torch.where(x > 0, x, torch.inf).sum(),
    "filled": lambda x: x.masked_fill(x > 0, 0).fill_(2.0),
    "sliced": lambda x: x[1:3] + x[x.argsort()][:2],
    "numbers of the CPU": lambda x: [float(torch.rand(())), int(torch.randint(3, ())), torch.rand(3).tolist()],
    "made like": lambda x: torch.zeros_like(x) + x.new_zeros(()) + torch.arange(4, device=x.device),
}


@both
@pytest.mark.parametrize("what", WAITING)
def test_what_waits_for_the_device_raises(kind: Kind, what: str) -> None:
    with pretended(kind) as device, pytest.raises(HostSynchronisation):
        WAITING[what](put(torch.rand(4), device))


@both
@pytest.mark.parametrize("what", MIXED)
def test_what_mixes_devices_raises(kind: Kind, what: str) -> None:
    with pretended(kind) as device, pytest.raises(WrongDevice):
        MIXED[what](put(torch.rand(4), device))


@both
@pytest.mark.parametrize("what", ALLOWED)
def test_what_a_gpu_does_without_waiting_passes(kind: Kind, what: str) -> None:
    with pretended(kind) as device:
        ALLOWED[what](put(torch.rand(4), device))


@both
def test_tensors_of_the_cpu_keep_their_numbers(kind: Kind) -> None:
    with pretended(kind):
        drawn = torch.rand(3, generator=torch.Generator().manual_seed(1))
        assert drawn.tolist() == torch.rand(3, generator=torch.Generator().manual_seed(1)).tolist()
        assert (torch.arange(3).double() * 2).sum().item() == 6


@both
def test_copies_to_the_host_are_allowed_as_often_as_was_said_and_no_more(kind: Kind) -> None:
    with pretended(kind, reads=2) as device:
        x = put(torch.rand(4), device)
        assert x.cpu().tolist() == [0, 0, 0, 0]
        assert int(x.argmax()) == 0
        with pytest.raises(HostSynchronisation):
            x.cpu()


@both
def test_blocking_uploads_can_be_allowed(kind: Kind) -> None:
    with pretended(kind, blocking_uploads=True) as device:
        assert torch.rand(4).to(device).device.type == kind


@both
def test_a_module_that_was_put_there_computes_there(kind: Kind) -> None:
    with pretended(kind) as device:
        model = put(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), device)
        assert model(put(torch.rand(2, 1, 5, 5), device)).device.type == kind


def test_a_backward_pass_is_watched() -> None:
    class Late(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad * torch.ones(4)

    with pretended("meta") as device:
        x = put(torch.rand(4), device).requires_grad_()
        (x * 2).sum().backward()
        with pytest.raises(WrongDevice):
            Late.apply(x).sum().backward()


@both
def test_gradients_are_where_they_belong(kind: Kind) -> None:
    with pretended(kind) as device:
        model, x = put(nn.Linear(4, 2), device), put(torch.rand(3, 4), device).requires_grad_()
        unused = nn.Parameter(put(torch.rand(1), device))
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
        assert (gradient.shape, gradient.device.type) == (x.shape, kind)
        assert model.weight.grad is None
        model(x.detach()).square().sum().backward()
        assert model.weight.grad is not None
        assert (model.weight.grad.shape, model.weight.grad.device.type) == ((2, 4), kind)
        assert unused.grad is None


@both
@pytest.mark.parametrize("wrong", [False, True])
def test_fused_optimisers_step_unless_their_state_is_on_the_cpu(kind: Kind, wrong: bool) -> None:
    with pretended(kind) as device:
        weight = nn.Parameter(put(torch.rand(4), device))
        for optimizer in (Adam([weight], fused=True), SGD([weight], 0.1, momentum=0.9, fused=True)):
            for step in range(2):
                weight.grad = torch.zeros_like(weight)
                if wrong and step:
                    state = optimizer.state[weight]
                    state.update({key: torch.zeros(value.shape) for key, value in state.items()})
                    with pytest.raises(WrongDevice):
                        optimizer.step()
                else:
                    optimizer.step()
