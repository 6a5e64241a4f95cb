"""Cases of a parametrised test that `make test` samples and `make test-all` asks one and all."""

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(interval: int, cases: Iterable[Any], *, first: int = 0) -> list[Any]:
    """Every `interval`-th case, from number `first` on, as it is; the others marked slow."""
    return [
        case if number % interval == first else pytest.param(*_values(case), marks=pytest.mark.slow)
        for number, case in enumerate(cases)
    ]


def _values(case: object) -> tuple[object, ...]:
    return case if isinstance(case, tuple) else (case,)
