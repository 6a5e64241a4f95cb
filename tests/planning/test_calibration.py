"""What units of work take on this machine."""

from collections.abc import Callable

import pytest
import torch

from deqpipe.planning import calibration
from deqpipe.workflow import vocabulary
from tests import tiny
from tests.planning.test_cost import CONTROLS, IMAGES
from tests.planning.test_estimate import PRICES


def test_every_part_of_every_rule_has_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = calibration.Bench(tiny.settings(CONTROLS), IMAGES, torch.device("cpu"), box=0.0, patience=1e9)

    def once(
        self: calibration.Bench, piece: Callable[[int], object], *, most: int, fewest: int = 1
    ) -> tuple[int, float]:
        piece(min(fewest, most))
        return min(fewest, most), 1.0

    monkeypatch.setattr(calibration.Bench, "sized", once)
    found = calibration.prices(bench)
    assert set(found) | {"start", "report"} >= set(PRICES)
    assert all(price >= 0 for price in found.values())


def test_what_takes_too_long_is_reckoned_from_its_evaluations() -> None:
    bench = calibration.Bench(tiny.settings(), IMAGES, torch.device("cpu"), box=0.0, patience=0.0)
    found = {"solve": 2.0, "unroll": 6.0}  # an application with its gradient: two evaluations
    assert calibration._training_prices(bench, found) == {
        "pretrain": 3.0, **{f"train/{model}": 2.5 for model in vocabulary.DEQS}
    }  # fmt: skip
