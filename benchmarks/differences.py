"""How far two computations of the same quantity are apart."""

import math

import numpy as np

ZERO = 1e-12  # of this norm or less, both sides are zero up to rounding, and have no relative difference


def difference(ours: np.ndarray, theirs: np.ndarray, *, rows: int = 0) -> float:
    """The largest relative difference over rows, which the first `rows` axes count.

    It is infinite where shapes differ, or where one of the numbers is not finite.
    """
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return math.inf
    shape = (math.prod(ours.shape[:rows]), -1)
    ours, theirs = ours.reshape(shape), theirs.reshape(shape)
    apart, size = np.linalg.norm(ours - theirs, axis=1), np.linalg.norm(theirs, axis=1)
    zero = np.maximum(size, np.linalg.norm(ours, axis=1)) <= ZERO
    return float(np.where(zero, 0.0, apart / np.where(zero, 1.0, size)).max())
