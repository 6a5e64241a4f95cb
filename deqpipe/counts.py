"""How often f is evaluated: forward, backward to its inputs, backward to its weights.

Each of the three takes about as much arithmetic as the other two, so their sum is what a computation costs.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import TypeAlias

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
        return Evaluations(
            self.forward + other.forward,
            self.backward_input + other.backward_input,
            self.backward_weights + other.backward_weights,
        )

    def __sub__(self, other: "Evaluations") -> "Evaluations":
        """What there is beyond others."""
        return self + other * -1

    def __mul__(self, times: Number) -> "Evaluations":
        """The same so many times."""
        return Evaluations(times * self.forward, times * self.backward_input, times * self.backward_weights)

    @property
    def total(self) -> Number:
        """In units of one evaluation, whichever way."""
        return self.forward + self.backward_input + self.backward_weights

    def shared(self, parts: int) -> "Evaluations":
        """One of so many equal parts, in whole numbers."""
        return Evaluations(*(amount // parts for amount in astuple(self)))

    def divided(self, parts: int) -> list["Evaluations"]:
        """Whole numbers as even as they can be, one for each of so many, whose sum is this."""
        each, rests = self.shared(parts), astuple(self - self.shared(parts) * parts)
        return [each + Evaluations(*(int(number < rest) for rest in rests)) for number in range(parts)]


NO_EVALUATIONS = Evaluations()


def sum_of(evaluations: Iterable[Evaluations]) -> Evaluations:
    """All of them together."""
    total = Evaluations()
    for some in evaluations:
        total += some
    return total
