"""A device that is not there, with numbers: what computes on it must come to what the CPU comes to.

Tensors say that they are on `meta`, and hold their numbers on the CPU. Reading them is allowed, as often as one likes:
this is for code that needs them, such as a library that looks at what it has found. Mixed devices raise.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.pretend import WrongDevice

DEVICE = torch.device("meta")
aten = torch.ops.aten
_MOVES = {aten._to_copy, aten.copy_}
_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The device, for the length of a block."""
    with _Elsewhere():  # type: ignore[no-untyped-call]
        yield DEVICE


class _There(Tensor):
    """A tensor of the device."""

    numbers: Tensor

    @staticmethod
    def __new__(cls: Any, numbers: Tensor) -> "_There":
        made = torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(), dtype=numbers.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.numbers = numbers
        return made

    @classmethod
    def of(cls, numbers: Tensor, known: dict[int, "_There"]) -> "_There":
        """The tensor that holds these numbers."""
        return known[id(numbers)] if id(numbers) in known else cls(numbers)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{func} on a tensor whose device is gone")


class _Elsewhere(TorchDispatchMode):
    """Computes on the numbers, and says that it was on the device."""

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        there = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _There)]
        target = torch.device(kwargs["device"]) if kwargs.get("device") else None
        if not there and target != DEVICE:
            return func(*args, **kwargs)
        if there:
            _check(func, args)
        kwargs |= {} if target is None else {"device": torch.device("cpu")}
        result = func(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))
        if (target or DEVICE) != DEVICE:
            return result.clone()
        if func.overloadpacket is aten.copy_ and not isinstance(args[0], _There):
            return args[0]
        known = {id(tensor.numbers): tensor for tensor in there}  # what was changed in place is still the same tensor
        return tree_map(lambda leaf: _There.of(leaf, known) if isinstance(leaf, Tensor) else leaf, result)


def _check(func: Any, args: tuple[Any, ...]) -> None:
    """Refuse numbers of the CPU, except those that a GPU fetches by itself: single ones, and indices."""
    if func.overloadpacket in _MOVES:
        return
    computed = args[:1] + args[2:] if func.overloadpacket in _INDEXED else args
    tensors = [leaf for leaf in tree_leaves(computed) if isinstance(leaf, Tensor)]
    if any(tensor.dim() and not isinstance(tensor, _There) for tensor in tensors):
        raise WrongDevice(f"{func} on tensors of {DEVICE} and of the CPU")


def _numbers(leaf: Any) -> Any:
    return leaf.numbers if isinstance(leaf, _There) else leaf
