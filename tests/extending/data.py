"""Images of one's own: random squares and crosses."""

from typing import Any

import numpy as np

from deqpipe.extending import DataSource

TRAIN, TEST, SIZE = 60, 24, 8


def shapes() -> tuple[Any, Any, Any, Any]:
    """Bright squares (0), crosses (1) and bars (2) on dark noise; the same ones at every call."""
    random = np.random.default_rng(7)
    labels = np.arange(TRAIN + TEST) % 3
    images = random.integers(0, 90, (len(labels), 1, SIZE, SIZE), dtype=np.uint8)
    for image, label, row, column in zip(images, labels, *random.integers(0, 4, (2, len(labels))), strict=True):
        drawn = np.zeros((5, 5), bool)
        drawn[2, :] = True
        drawn[:, 2] = label == 1
        drawn[[0, -1], :] = label == 0
        drawn[:, [0, -1]] |= label == 0
        image[0, row : row + 5, column : column + 5][drawn[: SIZE - row, : SIZE - column]] += 150
    return images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:]


SHAPES = DataSource(
    "shapes", "random shapes", prepare=shapes, train=TRAIN, test=TEST, size=SIZE, classes=("square", "cross", "bar")
)
