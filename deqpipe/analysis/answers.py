"""Right and wrong answers, from rows that were seen to be complete before anything is counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deqpipe.analysis import reading
from deqpipe.analysis.attacks import Attacks
from deqpipe.analysis.layout import Tree
from deqpipe.analysis.reading import Files, Judge, RowQuery, Rows
from deqpipe.config import Config
from deqpipe.errors import UserError
from deqpipe.results import records
from deqpipe.statistics import intervals
from deqpipe.statistics.intervals import Correct
from deqpipe.workflow import shards
from deqpipe.workflow.gridpoints import GridPoint

FINAL = 0
"""Stands for the final state where a state is asked for; the others count from 1."""


def answers(
    rows: Rows, ran: Attacks | None, config: Config, *, state: int, where: str
) -> tuple[NDArray[np.int16], Correct]:
    """Labels (images,), and which attacks' images (attacks, images) got them: of the attacks that ran on all images.

    Args:
        rows: of one decision, with labels, and classes at the state that decides.
        ran: which attacks ran on which images; None: one attack on all.
        config: the configuration.
        state: that decides, counted from 1, or FINAL.
        where: what the rows are called in messages.

    Raises:
        UserError: rows are missing, doubled, or of other attacks or images; an image has two labels; the state was not
            computed; or an attack that lost the race lacks an image that it ran on, or has other images.
    """
    rows.refuse_foreign(where)
    if ran and ran.dropped:
        lost = f"{where} of attacks that lost the race"
        (label,) = rows.table("label", points=ran.dropped, images=shards.race_cut(config), where=lost)
        reading.same_labels(label, lost)
    return _right(rows, ran.points if ran else None, state=state, images=config.evaluation.images, where=where)


def before_race(rows: Rows, config: Config, *, state: int, where: str) -> Correct:
    """Whether the images that face every attack were classified right: (attacks, images).

    Args:
        rows: of one decision, on these images alone.
        config: the configuration.
        state: that decides, counted from 1.
        where: what the rows are called in messages.

    Raises:
        UserError: rows are missing, doubled, or of other attacks or images.
    """
    _, right = _right(rows, None, state=state, images=shards.race_cut(config), where=where)
    return right


def _right(
    rows: Rows, points: tuple[GridPoint, ...] | None, *, state: int, images: int, where: str
) -> tuple[NDArray[np.int16], Correct]:
    label, predicted = rows.table("label", "predicted", points=points, images=images, where=where)
    labels = reading.same_labels(label, where)
    refuse_uncomputed(predicted, state, where)
    return labels, predicted == labels


def refuse_uncomputed(predicted: NDArray[np.int16], state: int, where: str) -> None:
    """Refuse records that say nothing of the state that decides: they are of a run that decided at another one.

    Args:
        predicted: classes at that state.
        state: counted from 1.
        where: what the rows are called.

    Raises:
        UserError: a class was not computed.
    """
    if (predicted == records.NOT_COMPUTED).any():
        raise UserError(f"{where} say nothing of state {state}, which decides; run the workflow again")


@dataclass(frozen=True)
class AttackAnswers:
    """Answers of one decision at the state that decides.

    Attributes:
        points: the attacks, in their sort order (lambda, i, K_a).
        right: (points, images).
    """

    points: tuple[GridPoint, ...]
    right: Correct

    @property
    def strongest(self) -> str:
        """The attack with the lowest accuracy, as (i, K_a, lambda)."""
        return self.points[intervals.strongest(self.right)].triple

    def among(self, points: Sequence[GridPoint]) -> "AttackAnswers":
        """The same for some of the attacks; each must be there."""
        return AttackAnswers(tuple(points), self.right[[self.points.index(point) for point in points]])


def read(tree: Tree, files: Files, states: Mapping[Judge, int], *, crafter: str) -> dict[Judge, Rows]:
    """The rows of some decisions, with the class at the state that decides.

    Args:
        tree: the results.
        files: what is read.
        states: that decide, counted from 1.
        crafter: the model whose gradients made the images.

    Raises:
        UserError: files are damaged, rows stand twice, or images were crafted on another model.
    """
    asked = {judge: RowQuery(state - 1) for judge, state in states.items()}
    return tree.rows(files, asked, "label", "predicted", crafted_on=crafter)


def score(rows: Rows, ran: Attacks, *, state: int, config: Config, where: str) -> AttackAnswers:
    """The answers at a state, counted from 1, to the attacks that ran on all images.

    Raises:
        UserError: as `answers`.
    """
    _, right = answers(rows, ran, config, state=state, where=where)
    return AttackAnswers(ran.points, right)
