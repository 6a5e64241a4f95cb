"""What the records say of single states: classes, entropies, residuals and deviations of every image.

`decisions` counts right and wrong answers; here are the numbers behind them, of one decision under one attack at a
time, so that a grid of ten thousand images never stands in memory whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis.decisions import Decision, Source, Tree, check_specs
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.results.records import Records
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Bootstrap, Estimate
from deqpipe.workflow import stages
from deqpipe.workflow.gridpoints import GridPoint
from deqpipe.workflow.shards import image_ranges, state_ranges

Values: TypeAlias = NDArray[np.float64]

_COLUMNS = (
    "image", "label", "model", "defence", "state", "steps", "damping", "predicted", "entropy", "residual", "deviation",
)  # fmt: skip


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
        found: NDArray[np.bool_] = self.predicted == self.label[:, None]
        return found


def clean(tree: Tree, decision: Decision) -> States:
    """A decision on the clean test images.

    Raises:
        UserError: records are missing, incomplete, doubled, or of another configuration.
    """
    return _states(tree, "clean", decision, [tree.clean(decision.model)], None)


def attacked(tree: Tree, decision: Decision, point: GridPoint) -> States:
    """A decision under one attack of the grid.

    Raises:
        UserError: as `clean`.
    """
    shards = zip(tree.attacked(decision.model), _shards(tree.config), strict=True)
    paths = [path for path, (first, last) in shards if first <= point.state <= last]
    return _states(tree, "attack_grid", decision, paths, point)


def _shards(config: Config) -> list[tuple[int, int]]:
    """First and last attacked state of every shard, in the order of their names."""
    return [states for states, _ in product(state_ranges(config), image_ranges(config))]


def _states(
    tree: Tree, stage: stages.StageName, decision: Decision, paths: Sequence[Path], point: GridPoint | None
) -> States:
    parts = []
    for path in paths:
        found = records.read(path, _COLUMNS)
        check_specs(tree, stage, decision.model, found.provenance, path)
        parts.append(found.where(_wanted(found, decision, point)))
    rows = records.merge(parts)
    order = _order(rows, tree.config, where=f"records of {decision.row}" + (f" under {point.name}" if point else ""))
    values = {name: rows[name][order].astype(np.float64) for name in ("entropy", "residual", "deviation")}
    sources = [tree.source(path, entry) for path, entry in zip(paths, rows.provenance, strict=True)]
    return States(label=rows["label"][order], predicted=rows["predicted"][order], sources=tuple(sources), **values)


def _wanted(found: Records, decision: Decision, point: GridPoint | None) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = (found["model"] == decision.model) & (found["defence"] == decision.defence)
    if point is None:
        return mask
    return mask & found.under(point)


def _order(rows: Records, config: Config, *, where: str) -> NDArray[np.intp]:
    """The order that puts the images 0 .. n - 1 in a row, each of them exactly once."""
    images, order = config.evaluation.images, np.argsort(rows["image"], kind="stable")
    lacking = np.setdiff1d(np.arange(images), rows["image"])
    if len(lacking):
        raise UserError(f"{where} lack {len(lacking)} of {images} images, the first of them {lacking[0]}")
    if len(order) != images:
        raise UserError(f"{where} hold {len(order)} images, but must hold the images 0 to {images - 1}, once each")
    return order


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
