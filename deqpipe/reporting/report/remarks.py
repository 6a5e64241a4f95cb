"""What stands below a table or figure: at most three notes, the others folded, and nothing that was said before."""

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN, WORDS = 3, 60
"""How many notes are shown unfolded, and how many words of them: long lists of numbers are not."""


@dataclass(frozen=True)
class Remarks:
    """Notes of one table or figure.

    Attributes:
        shown: unfolded.
        folded: the others, and conditions that not all tables share.
    """

    shown: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()


NONE = Remarks()


def told(parts: Sequence[tuple[Sequence[str], Sequence[str]]], shared: Sequence[str]) -> list[Remarks]:
    """The remarks of every table and figure, each sentence once in all of them.

    Args:
        parts: notes and conditions of each, in the order of the page.
        shared: what the page says once for all of them.
    """
    said = set(shared)
    remarks = []
    for notes, conditions in parts:
        new = [note for note in dict.fromkeys((*notes, *conditions)) if note not in said]
        said.update(new)
        remarks.append(_divided(new, set(notes)))
    return remarks


def _divided(notes: Sequence[str], own: set[str]) -> Remarks:
    """The first notes that there is room for, and the others."""
    shown: list[str] = []
    for note in notes:
        length = sum(len(one.split()) for one in (*shown, note))
        if note in own and len(shown) < SHOWN and length <= WORDS:
            shown.append(note)
    return Remarks(tuple(shown), tuple(note for note in notes if note not in shown))
