"""Robust accuracy of one decision over the radius of the ball, under an attack and under random noise (Figure 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deqpipe.analysis.answers import FINAL, refuse_uncomputed
from deqpipe.analysis.decision import Decision
from deqpipe.analysis.reading import Source
from deqpipe.errors import UserError
from deqpipe.results.records import Records
from deqpipe.statistics.intervals import Correct

ATTACK, NOISE = "exact_margin", "noise"
COLUMNS = ("image", "label", "model", "defence", "attack", "predicted", "radius")


@dataclass(frozen=True)
class RadiusCurve:
    """One decision at every radius.

    Attributes:
        decision: whose answers.
        radii: in units of the pixel range, rising.
        clean: (images,) right when clean.
        labels: (images,).
        right: (radii, images) by attack: right when clean and under it.
        sources: the files behind it.
    """

    decision: Decision
    radii: tuple[float, ...]
    clean: Correct
    labels: np.ndarray
    right: Mapping[str, Correct]
    sources: tuple[Source, ...]

    @property
    def images(self) -> int:
        """How many were attacked."""
        return len(self.clean)

    @property
    def last(self) -> Correct:
        """(images,) right under the attack at the largest radius."""
        alone: Correct = self.right[ATTACK][-1]
        return alone


def curve(
    rows: Records, decision: Decision, *, state: int, images: int, within: Sequence[float], sources: Sequence[Source]
) -> RadiusCurve:
    """The curve of a decision, once its rows were seen to be complete.

    An image without a row at a radius was wrong when clean, and counts as wrong.

    Args:
        rows: of its job.
        decision: whose answers.
        state: that decides, counted from 1, or FINAL.
        images: how many, counted from 0.
        within: the radii, in units of the pixel range.
        sources: the files.

    Raises:
        UserError: rows are of another decision or attack, missing, or doubled.
    """
    where = f"records over the radius of {decision.row}"
    if ((rows["model"] != decision.model) | (rows["defence"] != decision.defence)).any():
        raise UserError(f"{where} hold answers of another decision")
    place = rows["predicted"].shape[1] - 1 if state == FINAL else state - 1
    predicted = rows["predicted"][:, place]
    refuse_uncomputed(predicted, state, where)
    right, attack = predicted == rows["label"], rows["attack"].astype(str)
    alone = attack == "clean"
    clean, labels = _placed(rows["image"][alone], right[alone], images, where), np.zeros(images, np.int64)
    labels[rows["image"][alone]] = rows["label"][alone]
    radii = tuple(sorted(float(np.float32(value)) for value in within))
    by_attack = {
        name: _over(rows, (attack == name) & ~alone, right, radii, clean, f"{where} under {name}")
        for name in (ATTACK, NOISE)
    }
    return RadiusCurve(decision, radii, clean, labels, by_attack, tuple(sources))


def _over(
    rows: Records, own: np.ndarray, right: Correct, radii: Sequence[float], clean: Correct, where: str
) -> Correct:
    curve = []
    for radius in radii:
        at = own & (rows["radius"] == np.float32(radius))
        image = rows["image"][at]
        if len(np.unique(image)) != len(image):
            raise UserError(f"{where} hold an image twice at radius {radius:.4g}")
        lacking = np.setdiff1d(np.flatnonzero(clean), image)
        if len(lacking):
            raise UserError(f"{where} lack image {lacking[0]} at radius {radius:.4g}")
        left = clean.copy()
        left[image] &= right[at]
        curve.append(left)
    stacked: Correct = np.stack(curve)
    return stacked


def _placed(image: np.ndarray, right: Correct, images: int, where: str) -> Correct:
    if sorted(image.tolist()) != list(range(images)):
        raise UserError(f"{where} must hold every clean image from 0 to {images - 1} once")
    placed = np.zeros(images, bool)
    placed[image] = right
    return placed
