"""Values that are computed, and code that is imported, when they are first asked for."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def named(path: str) -> Any:
    """What an import path names: a module, or with `module:name` something in it."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)


class Lazy(Generic[T]):
    """Calls a function at most once; what the function holds on to is let go of afterwards."""

    def __init__(self, compute: Callable[[], T]) -> None:
        """Keep how it is computed."""
        self._compute: Callable[[], T] | None = compute
        self._value: list[T] = []

    @classmethod
    def known(cls, value: T) -> "Lazy[T]":
        """A value that is there already."""
        return cls(lambda: value)

    def __call__(self) -> T:
        """The value."""
        if self._compute is not None:
            self._value, self._compute = [self._compute()], None
        return self._value[0]
