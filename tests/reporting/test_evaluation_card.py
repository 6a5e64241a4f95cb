"""The sentences that a card opens with."""

from typing import Any

import pytest

from deqpipe.reporting.evaluation_card import summary


def share(right: int) -> dict[str, Any]:
    return {"value": right / 40, "low": 0.1, "high": 0.5, "right": right, "n": 40}


def card(*, union: int = 10, skipped: int = 0, verdicts: tuple[str, ...] = ("passed", "passed")) -> dict[str, Any]:
    return {
        "clean": share(39), "union": share(union), "epsilon_255": 8, "options": {"confidence": 0.95},
        "attacks": [{"section": "controls"}, *({"section": "knows"} for _ in range(3))],
        "skipped": [{"attack": True}] * skipped + [{"attack": False}],
        "findings": [{"verdict": verdict} for verdict in verdicts],
    }  # fmt: skip


def test_a_card_opens_with_numbers_their_uncertainty_and_what_they_are() -> None:
    clean, attacked, ran, checks = summary(card())
    assert clean == "As they are, 39 of 40 images (97.5%, 95% interval 10.0\N{EN DASH}50.0%) are classified right."
    assert attacked.startswith("Under attack, at most 10 of 40 images (25.0%, 95% interval 10.0\N{EN DASH}50.0%)")
    assert attacked.endswith("8/255. This is an upper bound: attacks that were not tried may turn more.")
    assert ran == "All 3 attacks ran on every image that they were due to meet."
    assert checks == "All 2 checks of the attacks passed."


@pytest.mark.parametrize("doubt", [{"skipped": 2}, {"verdicts": ("passed", "failed")}])
def test_what_is_doubtful_is_not_told_as_a_result(doubt: dict[str, Any]) -> None:
    assert "may be far too high" in summary(card(**doubt))[1]


def test_what_did_not_run_is_counted_without_controls() -> None:
    assert summary(card(skipped=2))[2].startswith("2 of 3 attacks did not run, or not on all images")


def test_a_model_that_keeps_nothing_has_no_bound() -> None:
    assert summary(card(union=0))[1].startswith("Under attack, none of 40 images")


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ((), "No check of the attacks could be made."),
        (("passed", "too few"), "Of 2 checks of the attacks 1 passed, 1 had too few images to tell."),
        (("failed",), "Of 1 checks of the attacks 1 failed; the accuracy under attack is not to be relied on."),
    ],
)
def test_checks_are_counted_by_verdict(verdicts: tuple[str, ...], text: str) -> None:
    assert summary(card(verdicts=verdicts))[3] == text
