"""What an attacker may do to an image."""

from dataclasses import dataclass

from torch import Tensor

from deqpipe.config import ThreatModelConfig
from deqpipe.settings import Settings
from deqpipe.shapes import Images, PerImage


@dataclass(frozen=True)
class LinfBall:
    """Images within `epsilon` of a given one in every pixel, and within [0, 1].

    Attributes:
        epsilon: in units of the pixel range [0, 1].
    """

    epsilon: float

    def __post_init__(self) -> None:
        """Refuse a ball without a point.

        Raises:
            ValueError: the radius is negative.
        """
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon is {self.epsilon}, but must not be negative")

    def project(self, images: Images, centre: Images) -> Images:
        """The nearest images inside the ball around `centre` and inside [0, 1]."""
        return self.near(images, centre).clamp(0, 1)

    def near(self, images: Images, centre: Images) -> Images:
        """The nearest images within `epsilon` of `centre`, [0, 1] not enforced."""
        return Tensor.clamp(images, centre - self.epsilon, centre + self.epsilon)

    def distance(self, images: Images, centre: Images) -> PerImage:
        """The largest change of a pixel, per image."""
        return (images - centre).abs().flatten(1).amax(1)


def ball_of(settings: Settings) -> LinfBall:
    """The threat model of a job."""
    return LinfBall(settings.section("threat_model", ThreatModelConfig).epsilon_255 / 255)
