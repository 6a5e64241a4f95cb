"""A value that is computed when it is first asked for."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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
