"""What the numbers of tables are numbers of: their units, and which way is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """What a number is a number of.

    Attributes:
        unit: in which it is given.
        higher_is_better: of a defence or a method; None: it is no matter of better and worse.
        repeats: whether low and high are the ends of repeated measurements, and no interval.
    """

    unit: str
    higher_is_better: bool | None = None
    repeats: bool = False


ACCURACY = Quantity("%", higher_is_better=True)
GAIN = Quantity("points", higher_is_better=True)
"""Of accuracy over another decision, or under another attack."""
DIFFERENCE = Quantity("points")
SHARE = Quantity("%")
ENTROPY = Quantity("nats")
STEPS = Quantity("steps")
SPEED = Quantity("images/s", higher_is_better=True, repeats=True)
SPEED_UP = Quantity("times", higher_is_better=True, repeats=True)
COST = Quantity("times", higher_is_better=False, repeats=True)
IMAGES = Quantity("images")
"""Out of those that an attack faced."""
EVALUATIONS = Quantity("evaluations of f per image")
"""That an attack spends; neither many nor few are better in themselves."""
