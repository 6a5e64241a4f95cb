"""Devices that are not there: what would fail or wait on a GPU is found on a CPU.

    with pretended("meta") as device:
        model, x = put(build(), device), put(images, device)
        step(model, x)

Two stand-ins. On `meta` tensors have no numbers, and everything runs: forward, backward, optimisers. On `cuda`, torch's
FakeTensorMode, tensors say that they are on a GPU, so that what asks for the type of a device shows as well; but the
engine of autograd wants a real one, so nothing runs backward: gradients are zeros that appear where they belong.
Tensors on the CPU keep their numbers inside the block: random numbers are drawn there from keyed streams, and moved.

Inside the block these raise, with a traceback that ends at the line which is to blame:

* `WrongDevice`: an operation on tensors of the device and of the CPU at once, such as a mask that was never moved or an
  allocation without `device=`. A CPU tensor without axes is allowed where a GPU allows it, in what is done number by
  number.
* `HostSynchronisation`: whatever makes the host wait for the device: `.item()`, `bool()`, `int()` and `float()` of a
  tensor, `.cpu()`, `.tolist()`, `nonzero` and an index of booleans, `torch.tensor(.., device=)`, and a tensor that is
  moved to the device without `non_blocking=True`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeVar, overload
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

Kind = Literal["meta", "cuda"]
Thing = TypeVar("Thing", Tensor, nn.Module)

aten = torch.ops.aten
_UPLOADS = {aten._to_copy, aten.copy_}
_WAITS = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten._unique2,
    aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.repeat_interleave, aten._linalg_check_errors,
}  # fmt: skip
_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
_FUSED = {aten._fused_adam_, aten._fused_sgd_}  # no kernel for meta tensors
_INDEXING = {Tensor.__getitem__, Tensor.__setitem__}
_FROM_THE_HOST = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}


class WrongDevice(AssertionError):
    """An operation met tensors of two devices."""


class HostSynchronisation(AssertionError):
    """The host would wait for the device."""


@contextmanager
def pretended(kind: Kind, *, reads: int = 0, blocking_uploads: bool = False) -> Iterator[torch.device]:
    """A device that is not there, for the length of a block.

    Args:
        kind: which stand-in.
        reads: how many copies from the device to the host are allowed; what they give is zeros. (`tolist` is one copy
            per number on the stand-in for `cuda`; `.cpu().tolist()` is one on each.)
        blocking_uploads: whether tensors may be moved to the device without `non_blocking`.
    """
    device = torch.device(kind)
    with ExitStack() as inside:
        if kind == "cuda":
            inside.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            inside.enter_context(_gradients_that_appear())
        else:
            inside.enter_context(_fused_optimisers_on_meta())
        inside.enter_context(_FromTheHost(device))
        inside.enter_context(_Watch(device, reads=reads, blocking_uploads=blocking_uploads))
        yield device


@overload
def put(thing: Tensor, device: torch.device) -> Tensor: ...
@overload
def put(thing: Thing, device: torch.device) -> Thing: ...
def put(thing: Tensor | nn.Module, device: torch.device) -> Tensor | nn.Module:
    """A tensor, or a module with new parameters and buffers, on the device; whether it waits is nobody's concern.

    `Module.to` does not know tensors of FakeTensorMode.
    """
    if isinstance(thing, Tensor):
        return thing.to(device, non_blocking=True)
    for module in thing.modules():
        for name, parameter in module.named_parameters(recurse=False):
            moved = parameter.detach().to(device, non_blocking=True)
            module.register_parameter(name, nn.Parameter(moved, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(device, non_blocking=True))
    return thing


@contextmanager
def _fused_optimisers_on_meta() -> Iterator[None]:
    """Fused optimisers know the devices that have a kernel, and refuse others."""
    with patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: ["cpu", "cuda", "meta"]):
        yield


@contextmanager
def _gradients_that_appear() -> Iterator[None]:
    """Autograd without its engine."""

    def grad(outputs: Any, inputs: Tensor | Sequence[Tensor], *args: Any, **named: Any) -> tuple[Tensor, ...]:
        wanted = [inputs] if isinstance(inputs, Tensor) else inputs
        met = [leaf for leaf in tree_leaves((outputs, wanted, args, named)) if isinstance(leaf, Tensor)]
        if len({tensor.device.type for tensor in met}) > 1:
            raise WrongDevice(f"torch.autograd.grad on {' and '.join(_described(tensor) for tensor in met)}")
        return tuple(torch.zeros_like(one) for one in wanted)

    def backward(tensor: Tensor, *args: object, **named: object) -> None:
        for leaf in _leaves(tensor):
            leaf.grad = torch.zeros_like(leaf)

    with patch("torch.autograd.grad", grad), patch("torch.autograd.backward", backward):
        yield


def _leaves(tensor: Tensor) -> list[Tensor]:
    """What a backward pass from `tensor` would give a gradient."""
    todo, seen = [tensor.grad_fn], set[Any]()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]


class _FromTheHost(TorchFunctionMode):
    """Refuses Python's numbers where they become a tensor of the device: they are copied there, and waited for."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _INDEXING and _is_list(args[1]) and args[0].device.type == self._device.type:
            raise HostSynchronisation(f"an index that is a list is moved to {self._device}, which waits")
        made = func(*args, **(kwargs or {}))
        from_numbers = func in _FROM_THE_HOST and not isinstance(args[-1] if args else None, Tensor)
        if from_numbers and made.device.type == self._device.type:
            raise HostSynchronisation(f"{func.__name__} moves numbers to {self._device}, which waits: use torch.full")
        return made


def _is_list(index: object) -> bool:
    return any(isinstance(one, list) for one in (index if isinstance(index, tuple) else (index,)))


class _Watch(TorchDispatchMode):
    """Looks at every operation before it runs, those of a backward pass included."""

    def __init__(self, device: torch.device, *, reads: int, blocking_uploads: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device, self._reads, self._blocking_uploads = device, reads, blocking_uploads

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if self._is_there(tensor.device)]
        target = kwargs.get("device")
        if func.overloadpacket is aten._pin_memory:  # needs a driver
            return args[0]
        if not there and (target is None or not self._is_there(torch.device(target))):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if self._is_read(func, args, target, there):
            return self._read(func, args)
        self._check_waiting(func, args, kwargs, tensors)
        self._check_devices(func, args, tensors, there)
        return None if func.overloadpacket in _FUSED else func(*args, **kwargs)

    def _is_there(self, device: torch.device) -> bool:
        return device.type == self._device.type

    def _is_read(self, func: Any, args: tuple[Any, ...], target: Any, there: list[Tensor]) -> bool:
        """Whether numbers of the device go to the host."""
        packet = func.overloadpacket
        if packet is aten._to_copy:
            return bool(there) and target is not None and not self._is_there(torch.device(target))
        if packet is aten.copy_:
            return not self._is_there(args[0].device)
        return packet is aten._local_scalar_dense

    def _read(self, func: Any, args: tuple[Any, ...]) -> Any:
        if not self._reads:
            raise HostSynchronisation(f"{func} copies {_described(args[-1])} to the host")
        self._reads -= 1
        if func.overloadpacket is aten.copy_:
            return args[0].zero_()
        with _disable_current_modes():
            zeros = torch.zeros(args[0].shape, dtype=args[0].dtype)
            return zeros.item() if func.overloadpacket is aten._local_scalar_dense else zeros

    def _check_waiting(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
        packet = func.overloadpacket
        if packet in _WAITS:
            raise HostSynchronisation(f"{func} waits for {_described(args[0])}")
        if packet in _INDEXED and any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]):
            raise HostSynchronisation(f"{func} with an index of booleans waits for how many are true: use torch.where")
        upload = packet in _UPLOADS and any(not self._is_there(tensor.device) for tensor in tensors)
        waits = not (kwargs.get("non_blocking") or (packet is aten.copy_ and args[2:] == (True,)))
        if upload and waits and not self._blocking_uploads:
            raise HostSynchronisation(f"{func} to {self._device} waits: it needs non_blocking=True")

    def _check_devices(self, func: Any, args: tuple[Any, ...], tensors: list[Tensor], there: list[Tensor]) -> None:
        elsewhere = [tensor for tensor in tensors if not self._is_there(tensor.device)]
        if torch.Tag.pointwise in func.tags:
            elsewhere = [tensor for tensor in elsewhere if tensor.dim()]
        if there and elsewhere and func.overloadpacket not in _UPLOADS:
            raise WrongDevice(f"{func} on {_described(there[0])} and {_described(elsewhere[0])}")


def _described(tensor: Tensor) -> str:
    return f"a tensor {list(tensor.shape)} on {tensor.device.type}"
