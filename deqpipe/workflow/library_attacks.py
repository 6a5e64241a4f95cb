"""The attacks of AutoAttack (Croce and Hein, 2020), one value each: what they are called, meet, spend and cost.

How they run stands in deqpipe/attack/autoattack.py, which needs torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deqpipe.config import AttackName, AutoAttackConfig


@dataclass(frozen=True)
class Passes:
    """Passes through what is attacked, per image that nothing fools.

    Attributes:
        gradients: with a gradient to the image.
        forwards: without.
    """

    gradients: int
    forwards: int


@dataclass(frozen=True)
class LibraryAttack:
    """One of AutoAttack's attacks.

    Attributes:
        name: in the configuration and in records.
        label: in tables and notes.
        library_name: in the library.
        budget: what it may spend on an image, in words.
        passes: what it spends on an image that nothing fools, as the library runs it, with so many classes to aim at.
        entering: share of the images that meet it in standard mode, as long as nothing is measured; near the paper's
            Table 1: 78 % of the images are right when clean, 49 % under AutoAttack, and most fall to APGD-CE.
        least_classes: fewer make it impossible.
        smallest_change: it seeks the smallest change that fools, and has no image of highest loss.
        first_images_only: it meets the first `autoattack.square_images` alone.
    """

    name: AttackName
    label: str
    library_name: str
    budget: Callable[[AutoAttackConfig], str]
    passes: Callable[[AutoAttackConfig, int], Passes]
    entering: float
    least_classes: int = 2
    smallest_change: bool = False
    first_images_only: bool = False


def _from_starts(settings: AutoAttackConfig) -> str:
    starts = "1 random start" if settings.restarts == 1 else f"up to {settings.restarts} random starts"
    return f"{settings.iterations:,} steps from {starts}"


def _aimed(settings: AutoAttackConfig) -> str:
    return f"{settings.iterations:,} steps towards each of up to {settings.targets} wrong classes"


def _queries(settings: AutoAttackConfig) -> str:
    return f"{settings.queries:,} queries without gradients"


def _apgd_ce(settings: AutoAttackConfig, targets: int) -> Passes:
    """A start and its iterations, each with gradient; one forward pass finds the logits of clean images, as in all."""
    return Passes(settings.restarts * (settings.iterations + 1), 1)


def _apgd_t(settings: AutoAttackConfig, targets: int) -> Passes:
    """Per target a look at which one it is."""
    return Passes(targets * (settings.iterations + 1), 1 + targets)


def _fab_t(settings: AutoAttackConfig, targets: int) -> Passes:
    """Every iteration looks at where it went; every target at its start, its class and its end."""
    return Passes(targets * settings.iterations, 1 + targets * (settings.iterations + 3))


def _square(settings: AutoAttackConfig, targets: int) -> Passes:
    """The start, the queries, a look at the end."""
    return Passes(0, 1 + 1 + settings.queries + 1)


APGD_CE = LibraryAttack("apgd_ce", "APGD-CE", "apgd-ce", _from_starts, _apgd_ce, 0.78)
# The targeted loss divides by what the largest logit is above the third and fourth.
APGD_T = LibraryAttack("apgd_t", "APGD-T", "apgd-t", _aimed, _apgd_t, 0.52, least_classes=4)
FAB_T = LibraryAttack("fab_t", "FAB-T", "fab-t", _aimed, _fab_t, 0.49, smallest_change=True)
SQUARE = LibraryAttack("square", "Square", "square", _queries, _square, 0.49, first_images_only=True)

LIBRARY_ATTACKS: Mapping[AttackName, LibraryAttack] = {
    attack.name: attack for attack in (APGD_CE, APGD_T, FAB_T, SQUARE)
}
