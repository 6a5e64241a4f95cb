"""Over which decision a gain is taken, of models that are not the paper's."""

from pathlib import Path

import pytest

from deqpipe import extending
from deqpipe.analysis import gains
from deqpipe.analysis.decision import Decision

AVERAGE = str(Path(__file__).parents[1] / "extending" / "defence.py")


@pytest.mark.parametrize(
    ("model", "baseline"),
    [
        ("deq_trades_random_states", "deq_trades_base"),
        ("deq_trades_awp_random_states", "deq_trades_awp"),
        ("deq_pgd_at_awp_random_states", "deq_pgd_at_awp"),
        ("deq_trades_base", None),
    ],
)
def test_random_states_are_compared_with_weights_trained_alike_without_them(model: str, baseline: str | None) -> None:
    found = gains.without_random_states(Decision(model, "entropy"))
    assert found == (None if baseline is None else Decision(baseline, "entropy"))


def test_a_defence_of_ones_own_is_compared_with_the_weights_that_it_is_put_on() -> None:
    extending.activate([AVERAGE])
    own = Decision("deq_trades_random_states_average", "average")
    assert gains.undefended(own) == Decision("deq_trades_random_states", "plain")
    assert gains.without_random_states(own) == Decision("deq_trades_base_average", "average")
    assert gains.own_control(own) is None
    assert own.row == "TRADES + mean of 3 states + Sec. 3.3"
