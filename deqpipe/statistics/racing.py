"""Which attacks could still be the strongest on all images, judged by some of them. No torch.

All attacks run on some images, `survivors` alone run on the rest, and the minimum over attacks is taken over survivors.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray


def survivors(correct: Bool[np.ndarray, "attacks images"], *, confidence: float) -> Bool[np.ndarray, " attacks"]:
    """Which attacks could still have the lowest accuracy on all images, given the answers on some of them.

    Attack p is out when, for some attack b, the images that only one of them fools speak against p: the exact one-sided
    sign test (McNemar's) finds p weaker than b, with a p-value below (1 - confidence) / (attacks - 1).

    What is promised. Let p be an attack of lowest accuracy on all images. If the images are exchangeable (a random part
    of all of them, or of the population that "all images" stands for), p stays with a probability of at least
    `confidence`: to lose p, one of the attacks - 1 tests of p must err, none of which errs more often than its level.
    Nothing is assumed of how attacks depend on each other, and the other attacks that are lost do no harm. Drawing from
    finitely many images only helps: of images that two equally strong attacks dispute, a draw without replacement is
    lopsided less often than coins are.

    The promise is for one decision made once. Several decisions have one promise each, none has it for all of them
    together: run the attacks that survive for any. A second race on the same images would need its share of the error.

    Args:
        correct: whether each image was classified right under each attack.
        confidence: such as 0.99.

    Raises:
        ValueError: there are no attacks or no images, or confidence does not lie between 0 and 1.
    """
    attacks, images = correct.shape
    if attacks == 0 or images == 0:
        raise ValueError(f"a race needs attacks and images, but has {attacks} attacks on {images} images")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, but must lie between 0 and 1")
    if attacks == 1:
        return np.ones(1, dtype=bool)
    weaker: Bool[np.ndarray, " attacks"] = (p_values(correct) < (1 - confidence) / (attacks - 1)).any(axis=1)
    return ~weaker


def p_values(correct: Bool[np.ndarray, "attacks images"]) -> Float[np.ndarray, "attacks attacks"]:
    """P-value of "row attack is no weaker than column attack", by the images that only one of the two fools.

    With d such images, r of which the row's attack leaves right: the probability of at least r heads of d fair coins.
    """
    right = correct.astype(np.float32)  # counts stay exact below 2^24
    for_column = (right @ (1 - right).T).astype(np.float64)
    # P(heads >= r) of d coins is a regularised incomplete beta function of (r, d - r + 1); it is 1 for r = 0.
    heads = np.maximum(for_column, 1)
    tails = _betainc(heads, for_column.T + 1)
    values: Float[np.ndarray, "attacks attacks"] = np.where(for_column > 0, tails, 1.0)
    return values


def sign_test(more: int, less: int) -> float:
    """P-value of "no more": the chance of at least `more` heads of `more + less` fair coins."""
    return float(_betainc(np.array(more), np.array(less + 1))) if more else 1.0


def _betainc(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """The regularised incomplete beta function at one half."""
    from scipy.special import betainc  # takes a moment to import, and a report that compares nothing does not need it

    value: NDArray[np.float64] = np.asarray(betainc(a, b, 0.5))  # of two numbers it would be a number
    return value
