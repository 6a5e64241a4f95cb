"""What somebody found out about a cluster or a machine: one fact, whether it is as it must be, and what to do."""

import textwrap
from dataclasses import dataclass, replace
from enum import Enum

from deqpipe.errors import line

_WIDTH, _NAME = 110, 10
_INDENT = " " * (8 + 1 + _NAME + 1)


class Verdict(Enum):
    """What a check came to; to be read in front of its words."""

    OK = "ok"
    WRONG = "WRONG"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of what was looked at, in a word or two.
        verdict: whether it is as it must be; unknown where nothing told.
        words: what was found.
        advice: what to do; empty where nothing is to be done.
        needed: whether no job would run where it is not as it must be.
    """

    name: str
    verdict: Verdict
    words: str
    advice: str = ""
    needed: bool = False

    def __str__(self) -> str:
        """Name, words and advice in one line."""
        return f"{self.name}: {self.words}{f'; {self.advice}' if self.advice else ''}"

    @property
    def is_wrong(self) -> bool:
        """Whether something has to be changed."""
        return self.verdict is Verdict.WRONG

    def lines(self) -> list[str]:
        """The check for a screen: verdict, name and words, and below them what to do."""
        head = f"{self.verdict.value:<8} {self.name:<{_NAME}} "
        advice = _wrapped(f"-> {self.advice}", first=_INDENT, rest=f"{_INDENT}   ") if self.advice else []
        return [*_wrapped(self.words, first=head, rest=_INDENT), *advice]


def _wrapped(words: str, *, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        line(words),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def needed(check: Check) -> Check:
    """The check as one without which no job would run."""
    return replace(check, needed=True)


def ok(name: str, words: str, advice: str = "") -> Check:
    """All right; the advice is what is good to know."""
    return Check(name, Verdict.OK, words, advice)


def wrong(name: str, words: str, advice: str) -> Check:
    """To be changed."""
    return Check(name, Verdict.WRONG, words, advice)


def unknown(name: str, words: str, advice: str = "") -> Check:
    """Nothing told."""
    return Check(name, Verdict.UNKNOWN, words, advice)
