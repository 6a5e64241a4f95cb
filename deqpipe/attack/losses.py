"""What attacks make large: per image, of logits. Above 0 a margin says that the image is classified wrong."""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F

from deqpipe.defence.entropy import prediction_entropy
from deqpipe.shapes import Labels, Logits, PerImage

Loss: TypeAlias = Callable[[Logits, Labels], PerImage]
"""(logits, labels) -> a number per image."""
TargetedLoss: TypeAlias = Callable[[Logits, Labels, Labels], PerImage]
"""(logits, labels, wrong classes that are aimed at) -> a number per image."""


def margin(logits: Logits, y: Labels) -> PerImage:
    """The largest other logit minus that of the label (Carlini and Wagner, 2017)."""
    return _others(logits, y).amax(1) - _of(logits, y)


def cross_entropy(logits: Logits, y: Labels) -> PerImage:
    """In nats."""
    return F.cross_entropy(logits, y, reduction="none")


def dlr(logits: Logits, y: Labels) -> PerImage:
    """Difference of logits ratio (Croce and Hein, 2020): the margin over the gap between the largest and third logit.

    It does not change when the logits are scaled.

    Raises:
        ValueError: there are fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"there are {logits.shape[1]} classes, but this loss needs at least 3")
    ordered = logits.sort(dim=1, descending=True).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + _TINY)


_TINY = 1e-12  # all logits may be equal


def targeted_margin(logits: Logits, y: Labels, target: Labels) -> PerImage:
    """The logit of one wrong class minus that of the label (Gowal et al., 2019)."""
    return _of(logits, target) - _of(logits, y)


def confident_mistake(logits: Logits, y: Labels, target: Labels) -> PerImage:
    """The log probability of a wrong class minus the entropy, in nats: a defence that lowers entropy helps it along."""
    return _of(logits.log_softmax(1), target) - prediction_entropy(logits)


def _of(logits: Logits, y: Labels) -> PerImage:
    return logits.gather(1, y[:, None]).squeeze(1)


def _others(logits: Logits, y: Labels) -> Logits:
    return logits.scatter(1, y[:, None], -torch.inf)
