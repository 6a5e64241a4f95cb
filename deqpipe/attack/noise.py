"""Noise of the size of an attack: it knows nothing of the model, and what it costs is not the attack's doing."""

from dataclasses import dataclass

import torch

from deqpipe.attack.pgd import Attacked
from deqpipe.shapes import Images
from deqpipe.threat_model import LinfBall


@dataclass(frozen=True)
class CornerNoise:
    """Moves every pixel by epsilon, up or down at random.

    Attributes:
        ball: the threat model.
    """

    ball: LinfBall

    def __call__(self, x: Images, *, signs: Images) -> Attacked:
        """Noisy images.

        Args:
            x: images in [0, 1].
            signs: of the move; a random start serves.
        """
        moved = self.ball.project(x + self.ball.epsilon * signs.sign(), x)
        return Attacked(moved, torch.zeros(len(x), device=x.device))
