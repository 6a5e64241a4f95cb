"""Evaluations of this folder take the least effort, unless they run as processes of their own."""

from collections.abc import Iterator

import pytest

from deqpipe.foreign import plan
from tests.foreign.effort import TINY


@pytest.fixture(autouse=True, scope="package")
def _little_effort() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "EFFORTS", {**plan.EFFORTS, "quick": TINY})
        yield
