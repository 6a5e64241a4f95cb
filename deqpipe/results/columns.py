"""The columns of records: their types, and what they mean. docs/records.md is made from them. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

K = TypeVar("K", bound=type[np.generic] | type[str], covariant=True)


@dataclass(frozen=True)
class Column(Generic[K]):
    """A column.

    Attributes:
        kind: type of its values.
        meaning: what they say, with units.
    """

    kind: K
    meaning: str


SCALARS: Mapping[str, Column[type[np.generic] | type[str]]] = {
    "image": Column(np.int32, "index in the split, counted from 0"),
    "label": Column(np.int16, "the right class, counted from 0"),
    "model": Column(str, "whose weights decide, such as `deq_trades_base`"),
    "defence": Column(
        str,
        "the defence at test time: `plain`, `entropy` (Sec. 3.2), a control of it, or `longer_solve`, whose states are "
        "every eighth of 64",
    ),
    "attack": Column(
        str, "`clean`, `pgd`, `pgd_in_loop` (through Sec. 3.2), an attack of AutoAttack, or one of the suite"
    ),
    "crafted_on": Column(str, "whose gradients made the image; empty for clean ones"),
    "state": Column(np.int16, "i of the surrogate of Eq. (11), counted from 1; 0: no surrogate"),
    "steps": Column(np.int16, "K_a of the surrogate"),
    "damping": Column(np.float32, "lambda of the surrogate"),
    "perturbation": Column(np.float32, "largest change of a pixel, in units of the pixel range [0, 1]"),
    "lost_gradient": Column(np.float32, "share of attack steps whose gradient was zero, or no number, in every pixel"),
    "status": Column(np.int8, "how the solve ended: 1 converged, 2 all steps taken, 3 not finite; 0: none"),
}
"""One value per row, of every stage."""
FURTHER: Mapping[str, Column[type[np.generic] | type[str]]] = {
    "broken_at": Column(
        np.int32,
        "gradient steps or queries, over all starts, when the decision first erred; 0: at once; -1: it withstood",
    ),
    "taken": Column(np.int32, "gradient steps or queries taken, over all starts"),
    "per_step": Column(
        np.float32, "evaluations of f per image and step or query, forward and backward, judging included; NaN: no f"
    ),
    "spread": Column(
        np.float32, "largest minus smallest of the lowest margins that an image's starts came to; NaN with one start"
    ),
    "radius": Column(np.float32, "of the ball that the image was sought in, in units of the pixel range [0, 1]"),
    "crafted_seed": Column(
        np.int32, "the seed of the model that the image was made against; -1: made against the ensemble that is judged"
    ),
    "crafted_defence": Column(str, "the decision that the image was made against; empty as the seed is -1"),
}
"""One value per row, of the suite's stages alone; the last two of transferred images alone."""
OWN_SEED = -1
"""The seed of images that were made against the very ensemble that is judged; and of clean ones beside them."""
PER_STATE: Mapping[str, Column[type[np.generic]]] = {
    "predicted": Column(np.int16, "class, counted from 0; -1: the logits are not finite; -2: not computed"),
    "margin": Column(np.float32, "logit of the label minus the largest other logit"),
    "entropy": Column(np.float32, "of the softmax, in nats"),
    "residual": Column(np.float32, "norm(f(z) - z) / norm(f(z)); NaN for a ResNet and the final state"),
    "deviation": Column(np.float32, "norm(z - z_clean) / norm(z_clean); NaN for clean images and controls"),
}
"""One value per state z^[1] .. z^[N] and, last, for the final (unrolled) state; a ResNet has that one alone."""
