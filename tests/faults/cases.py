"""What a kind of fault is, where its cases run, and what one came to."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Outcome = Literal["right", "wrong", "skipped"]


@dataclass(frozen=True)
class Verdict:
    """What a case came to.

    Attributes:
        outcome: skipped: it could not be tried here.
        row: of the table of counts that it belongs to, such as "pretrain, at a write boundary".
        told: what was wrong and the small input that shows it, or why it was skipped.
        faults: how many it stands for; a job may be killed several times.
        seconds: what was measured, if anything; the table gives the longest.
    """

    outcome: Outcome
    row: str
    told: str = ""
    faults: int = 1
    seconds: float | None = None


def judged(row: str, wrong: str | None, *, faults: int = 1, seconds: float | None = None) -> Verdict:
    """The verdict on a case; arguments as its attributes.

    Args:
        row: of the table.
        wrong: what was wrong; None: nothing.
        faults: how many it stands for.
        seconds: what was measured.
    """
    return Verdict("right" if wrong is None else "wrong", row, wrong or "", faults, seconds)


def skipped(row: str, why: str) -> Verdict:
    """A case that could not be tried."""
    return Verdict("skipped", row, why, faults=0)


@dataclass(frozen=True)
class Bench:
    """Where and how the cases of a kind run.

    Attributes:
        name: of the kind.
        scratch: a folder of the kind's own.
        seed: that cases are drawn from.
        patience: seconds after which what does not end counts as wrong.
        large: whether at the size of the paper's model, where a kind has that.
        batch: images at once there.
        only: jobs or formats; empty: all.
    """

    name: str
    scratch: Path
    seed: int = 0
    patience: float = 120.0
    large: bool = False
    batch: int = 96
    only: tuple[str, ...] = ()

    def draws(self, number: int | str) -> random.Random:
        """Random numbers of a case, the same whichever cases ran before."""
        return random.Random(f"{self.seed}/{self.name}/{number}")

    def folder(self, number: int) -> Path:
        """An empty folder for a case; `leave` takes it away."""
        folder = self.scratch / f"case{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def leave(self, folder: Path, verdict: Verdict) -> Verdict:
        """The verdict; the folder of a case that went wrong stays, and is named."""
        if verdict.outcome != "wrong":
            shutil.rmtree(folder, ignore_errors=True)
            return verdict
        return Verdict("wrong", verdict.row, f"{verdict.told} (see {folder})", verdict.faults, verdict.seconds)

    def chosen(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of some names that were asked for.

        Raises:
            ValueError: none was.
        """
        kept = tuple(name for name in names if not self.only or name in self.only)
        if not kept:
            raise ValueError(f"{self.name} knows {', '.join(names)}, but not {', '.join(self.only)}")
        return kept


Case: TypeAlias = Callable[[int], Verdict]
"""Tries the case of a number; the same number is the same case, whatever was tried before."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: as it is typed.
        text: what is done, in a line.
        count: how many cases a full run has.
        open: makes what all cases share, once.
    """

    name: str
    text: str
    count: int
    open: Callable[[Bench], Case]
