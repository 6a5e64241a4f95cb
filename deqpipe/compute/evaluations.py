"""How often f is evaluated: forward, backward to its inputs, backward to its weights.

Each of the three costs about as much as the other two. Counting happens around f, never inside: what is compiled or
captured holds no counter.
"""

from dataclasses import astuple, dataclass
from typing import TypeAlias

from torch import Tensor

Number: TypeAlias = int | float


@dataclass(frozen=True)
class Evaluations:
    """Evaluations of f, times the images in each.

    Attributes:
        forward: applications of f.
        backward_input: gradients taken through f to its state or its injection.
        backward_weights: gradients taken to its weights on the way.
    """

    forward: Number = 0
    backward_input: Number = 0
    backward_weights: Number = 0

    def __add__(self, other: "Evaluations") -> "Evaluations":
        """Both."""
        return Evaluations(*(mine + more for mine, more in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Evaluations") -> "Evaluations":
        """What there is beyond others."""
        return self + other * -1

    def __mul__(self, times: Number) -> "Evaluations":
        """The same so many times."""
        return Evaluations(*(times * amount for amount in astuple(self)))

    def shared(self, parts: int) -> "Evaluations":
        """One of so many equal parts, in whole numbers."""
        return Evaluations(*(amount // parts for amount in astuple(self)))

    @property
    def total(self) -> Number:
        """In units of one evaluation, whichever way."""
        return self.forward + self.backward_input + self.backward_weights


class Counter:
    """Counts the evaluations of one model."""

    def __init__(self) -> None:
        self._counted = Evaluations()

    @property
    def counted(self) -> Evaluations:
        """All evaluations so far."""
        return self._counted

    def add(self, more: Evaluations) -> None:
        """Count evaluations that nobody else saw, such as those of a replayed graph."""
        self._counted += more

    def count(self, value: Tensor, *, to_weights: bool) -> None:
        """Count one application of f, and a backward pass whenever a gradient arrives at its value.

        Args:
            value: f(z; x) for a batch.
            to_weights: whether a backward pass goes to the weights as well.
        """
        images = len(value)
        self.add(Evaluations(forward=images))
        if value.requires_grad:
            backward = Evaluations(backward_input=images, backward_weights=images * to_weights)
            value.register_hook(lambda _: self.add(backward))
