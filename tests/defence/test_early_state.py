"""Which state decides."""

import pytest

from deqpipe.defence.early_state import best_state


@pytest.mark.parametrize(
    ("accuracies", "state"),
    [
        ([0.9, 0.1, 0.2], 1),
        ([0.1, 0.9, 0.2], 2),
        ([0.1, 0.2, 0.9], 3),
        ([0.5], 1),
        ([0.3, 0.7, 0.7, 0.2], 3),
        ([0.4, 0.4, 0.4], 3),
        ([0.0, 0.0], 2),
    ],
)
def test_best_state_counts_from_one_and_ties_go_to_the_later(accuracies: list[float], state: int) -> None:
    assert best_state(accuracies) == state


def test_without_states_there_is_no_best() -> None:
    with pytest.raises(ValueError, match="at least one state is needed"):
        best_state([])
