"""What the records say of single states: classes, entropies, residuals and deviations of every image.

`evaluation` counts right and wrong answers; here are the numbers behind them, of one decision under one attack at a
time, so that a grid of ten thousand images never stands in memory whole.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis.decision import Decision
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Files, RowQuery, Rows, Source
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Estimate
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.shards import image_ranges, state_ranges

Values: TypeAlias = NDArray[np.float64]
Attacked: TypeAlias = tuple[Decision, GridPoint]

_COLUMNS = ("label", "predicted", "entropy", "residual", "deviation")


@dataclass(frozen=True)
class States:
    """One decision on all test images, state by state.

    Attributes:
        label: (images,).
        predicted: (images, states): the states 1 .. N and, last, the final state.
        entropy: as predicted, in nats.
        residual: as predicted; norm(f(z) - z) / norm(f(z)).
        deviation: as predicted; norm(z - z_clean) / norm(z_clean), from the same decision on the clean image.
        sources: the files behind it.
    """

    label: NDArray[np.int16]
    predicted: NDArray[np.int16]
    entropy: Values
    residual: Values
    deviation: Values
    sources: tuple[Source, ...]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each state gives the label, as predicted."""
        right: NDArray[np.bool_] = self.predicted == self.label[:, None]
        return right


def clean(tree: Tree, decision: Decision) -> States:
    """A decision on the clean test images.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    files = tree.opened("clean", decision.model, [tree.clean(decision.model)])
    rows = tree.rows(files, {decision.judge: RowQuery()}, *_COLUMNS, grid=False)[decision.judge]
    return _states(rows, None, files, where=f"records of {decision.row}")


def attacked(tree: Tree, decision: Decision, point: GridPoint) -> States:
    """A decision under one attack of the grid.

    Raises:
        UserError: as `clean`.
    """
    files = _files(tree, decision.model, [point])
    rows = tree.rows(files, {decision.judge: RowQuery(points=[point])}, *_COLUMNS)[decision.judge]
    return _states(rows, point, files, where=f"records of {decision.row}")


def column(tree: Tree, name: str, asked: Collection[Attacked]) -> dict[Attacked, Values]:
    """One column (images, states) of decisions under attacks of the grid; each model's files are read once.

    Raises:
        UserError: as `clean`.
    """
    by_attacked: dict[Attacked, Values] = {}
    for model in dict.fromkeys(decision.model for decision, _ in asked):
        mine = [pair for pair in asked if pair[0].model == model]
        files = _files(tree, model, [point for _, point in mine])
        points = {one.judge: RowQuery(points=[point for other, point in mine if other == one]) for one, _ in mine}
        rows = tree.rows(files, points, name)
        for decision, point in mine:
            (values,) = rows[decision.judge].table(name, points=(point,), where=f"records of {decision.row}")
            by_attacked[decision, point] = values[0].astype(np.float64)
    return by_attacked


def _files(tree: Tree, model: str, points: Collection[GridPoint]) -> Files:
    """The shards of a grid that hold some attacks."""
    shards = zip(tree.attacked(model), _shards(tree.config), strict=True)
    paths = [path for path, (first, last) in shards if any(first <= point.state <= last for point in points)]
    return tree.opened("attack_grid", model, paths)


def _shards(config: Config) -> list[tuple[int, int]]:
    """First and last attacked state of every shard, in the order of their names."""
    return [states for states, _ in product(state_ranges(config), image_ranges(config))]


def _states(rows: Rows, point: GridPoint | None, files: Files, *, where: str) -> States:
    points = None if point is None else (point,)
    label, predicted, *values = (table[0] for table in rows.table(*_COLUMNS, points=points, where=where))
    entropy, residual, deviation = (one.astype(np.float64) for one in values)
    return States(label, predicted, entropy, residual, deviation, files.sources)


def same_images(first: States, second: States, *, where: str) -> None:
    """Refuse two sets of states whose images have different labels.

    Raises:
        UserError: the labels differ.
    """
    if (first.label != second.label).any():
        raise UserError(f"{where} have different labels: not the same images")


def median(values: Values, *, confidence: float) -> Estimate:
    """Median of values that are finite, between two order statistics.

    The interval holds for any distribution (Conover, 1999, Sec. 3.2: the sign test turned around) and needs no
    resampling. With fewer than six values at 95 % it is all of their range, which then covers less than that.
    """
    ordered = np.sort(values[np.isfinite(values)])
    n = len(ordered)
    if not n:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    below = max(0, _binomial_quantile(n, (1 - confidence) / 2) - 1)
    return Estimate(float(np.median(ordered)), float(ordered[below]), float(ordered[n - 1 - below]), n)


def _binomial_quantile(n: int, tail: float) -> int:
    """The largest k with P(B < k) <= tail, for B binomial (n, 1/2)."""
    logarithms = np.cumsum(np.log(np.arange(1, n + 1)))
    factorials = np.concatenate([[0.0], logarithms])
    mass = np.exp(factorials[n] - factorials - factorials[::-1] - n * np.log(2.0))
    return int(np.searchsorted(np.cumsum(mass), tail, side="right"))


def means(values: Values, bootstrap: Bootstrap) -> tuple[Estimate, ...]:
    """Mean over images of every column of `values` (images, columns), with the percentile bootstrap over images.

    All columns share their resamples. Images with a value that is not finite are left out of all columns: with means
    of columns that compare with each other, each must be of the same images.
    """
    kept = values[np.isfinite(values).all(axis=1)]
    n = len(kept)
    if not n:
        return tuple(Estimate(float("nan"), float("nan"), float("nan"), 0) for _ in values.T)
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(_resampled(kept, bootstrap), [tail, 1 - tail], axis=0)
    columns = zip(kept.mean(axis=0), low, high, strict=True)
    return tuple(Estimate(float(value), float(a), float(b), n) for value, a, b in columns)


def _resampled(values: Values, bootstrap: Bootstrap) -> Values:
    """Means (resamples, columns) of images drawn with replacement."""
    n = len(values)
    return np.concatenate([weights @ values / n for weights in intervals.resample_weights(n, bootstrap)])
