"""Work in pieces."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqpipe.evaluation import resumable
from deqpipe.evaluation.resumable import flags_of
from deqpipe.evaluation.scoring import no_rows
from deqpipe.results import records
from deqpipe.results.records import Records


def test_flags_are_told_once_and_in_order() -> None:
    told: tuple[dict[str, Any], ...] = ({"flags": ["b", "a"]}, {}, {"flags": ["a", "c"]})
    assert flags_of(Records({}, told)) == ("b", "a", "c")


@pytest.mark.parametrize(("cost", "count"), [(17, 5), (3, 3), (2, 4), (0, 2)])
def test_the_cost_of_a_group_is_divided_without_a_rest(cost: int, count: int) -> None:
    evaluations = {"forward": cost, "backward_input": 2 * cost + 1, "backward_weights": 0}
    shares = resumable._shares({"evaluations": evaluations, "seconds": 2.0, "seed": 3}, count)
    assert len(shares) == count
    for way, number in evaluations.items():
        assert sum(share["evaluations"][way] for share in shares) == number
        assert max(share["evaluations"][way] for share in shares) - number // count <= 1
    assert sum(share["seconds"] for share in shares) == pytest.approx(2.0, abs=count * 1e-3)
    assert all(share["seed"] == 3 for share in shares)


def test_no_rows_can_be_written_read_and_put_together_with_others(tmp_path: Path) -> None:
    origin: dict[str, Any] = {"spec": {}, "weights": "x"}
    records.write(tmp_path / "none", no_rows(4), provenance=origin)
    nothing = records.read(tmp_path / "none")
    assert len(nothing) == 0
    assert nothing["margin"].shape == (0, 5)
    row = {name: np.array(["plain"] if column.dtype.kind == "U" else [1]) for name, column in no_rows(4).items()}
    row |= {name: np.ones((1, 5)) for name in records.PER_STATE}
    records.write(tmp_path / "one", row, provenance=origin)
    both = records.merge([nothing, records.read(tmp_path / "one")])
    assert len(both) == 1
    assert both["defence"].tolist() == ["plain"]


@pytest.mark.parametrize(
    ("computed", "words"),
    [
        ((0, 1, 2), "plain 50.0% (at state 2 of 2)"),
        ((0,), "plain 100.0% (at state 1 of 2)"),
        ((2,), "plain 50.0% (at the final state)"),
    ],
)
def test_the_log_says_at_which_state_a_decision_was_scored(computed: tuple[int, ...], words: str) -> None:
    """Two images of class 1; two states and the final one."""
    whole = np.array([[1, 0, 1], [1, 1, 0]])
    predicted = np.full_like(whole, records.NOT_COMPUTED)
    predicted[:, computed] = whole[:, computed]
    columns = {"predicted": predicted, "label": np.array([1, 1]), "defence": np.array(["plain", "plain"])}
    assert resumable.scores(columns) == words
    assert resumable.scores({**columns, "predicted": whole[:, :1]}) == "plain 100.0% (at the final state)"
