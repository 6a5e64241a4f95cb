"""Values per state: read from the records, and how sure their medians and means are."""

from pathlib import Path

import numpy as np
import pytest

from deqpipe.analysis import per_state
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.statistics.intervals import Bootstrap
from deqpipe.workflow import gridpoints
from tests.reference import reporting as slow
from tests.reporting import fabricate

DECISION = Decision("deq_trades_base", "entropy")


def test_values_are_those_of_one_decision_under_one_attack_in_the_order_of_images(
    finished: Path, config: Config
) -> None:
    """The files also hold the same images judged by another model, whose rows have the same decision and attack."""
    point = gridpoints.grid_points(config)[3]
    found = per_state.attacked(Tree(finished, config, 0), DECISION, point)
    frame = slow.frame(finished / "attacks/grid/deq_trades_base/seed0")
    own = frame[(frame["model"] == DECISION.model) & (frame["defence"] == "entropy")]
    own = own[(own["state"] == point.state) & (own["steps"] == point.steps)]
    own = own[np.isclose(own["damping"], point.damping)].sort_values("image")
    assert len(own) == config.evaluation.images
    for name in ("entropy", "residual", "deviation", "predicted"):
        assert np.array_equal(getattr(found, name), np.stack(own[name].tolist()).astype(getattr(found, name).dtype))
    assert found.right[:, 2].tolist() == [row["predicted"][2] == row["label"] for _, row in own.iterrows()]


def test_missing_images_and_records_of_another_configuration_are_refused(results: Path, config: Config) -> None:
    tree = Tree(results, config, 0)
    path = tree.clean(DECISION.model)
    rows = dict(records.read(path).columns)
    cut = {name: column[rows["image"] != 4] for name, column in rows.items()}
    fabricate.write(path, cut, config, "clean", DECISION.model, 0)
    with pytest.raises(UserError, match=r"TRADES \+ Sec\. 3\.2 lack 1 of 20 images, the first of them 4$"):
        per_state.clean(tree, DECISION)
    fabricate.write(path, rows, fabricate.small({"threat_model": {"epsilon_255": 3}}), "clean", DECISION.model, 0)
    with pytest.raises(UserError, match="but the configuration asks for"):
        per_state.clean(tree, DECISION)
    path.unlink()
    with pytest.raises(UserError, match="do not exist"):
        per_state.clean(tree, DECISION)


@pytest.mark.parametrize(("n", "first"), [(9, 2), (20, 6), (100, 40), (10_000, 4902)])
def test_the_interval_of_a_median_lies_between_the_tabled_order_statistics(n: int, first: int) -> None:
    """Ranks from tables of the sign test; of 10,000 values those of the normal approximation, 5,000 - 0.98 * 100."""
    found = per_state.median(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)), confidence=0.95)
    assert (found.value, found.low, found.high, found.n) == ((n + 1) / 2, first, n + 1 - first, n)


def test_the_interval_of_a_median_holds_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = [
        found.low <= 0 <= found.high
        for found in (per_state.median(np.tan(np.pi * generator.random(25)), confidence=0.9) for _ in range(2000))
    ]
    assert 0.89 <= np.mean(hits) <= 0.97


def test_values_that_are_not_finite_are_no_part_of_a_median() -> None:
    found = per_state.median(np.array([np.nan, 3.0, np.inf, 1.0, 2.0]), confidence=0.95)
    assert (found.value, found.low, found.high, found.n) == (2.0, 1.0, 3.0, 3)
    assert per_state.median(np.array([np.nan]), confidence=0.95).n == 0


def test_means_have_the_interval_of_the_normal_approximation_where_it_holds() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, size=(2000, 2))
    found = per_state.means(values, Bootstrap(resamples=2000, confidence=0.95, seed=0))
    for one, column in zip(found, values.T, strict=True):
        half = 1.96 * column.std() / len(column) ** 0.5
        assert one.value == pytest.approx(column.mean())
        assert (one.low, one.high) == pytest.approx((column.mean() - half, column.mean() + half), abs=0.01)


def test_means_are_of_the_same_images_in_every_column() -> None:
    values = np.array([[1.0, np.nan], [2.0, 5.0], [4.0, 7.0]])
    found = per_state.means(values, Bootstrap(resamples=50, confidence=0.95, seed=0))
    assert [(one.value, one.n) for one in found] == [(3.0, 2), (6.0, 2)]
    nothing = per_state.means(values[:1], Bootstrap(resamples=50, confidence=0.95, seed=0))
    assert [one.n for one in nothing] == [0, 0]
