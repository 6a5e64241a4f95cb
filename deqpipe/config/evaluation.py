"""What is evaluated, timed and drawn, and how sure numbers are."""

from typing import Annotated, Literal

from pydantic import Field

from deqpipe.config.base import DEFAULT_BATCH, Batch, Count, Depth, Section


class FiguresConfig(Section):
    """What figures may cost."""

    jacobian: bool
    """Whether Figure 6, which needs two trainings of its own, is part of `figures` and the report."""


class TimingConfig(Section):
    """Tables 9 and 10: speed of training steps and of inference."""

    batch_size: Batch
    """Images at once."""
    warmup: Annotated[int, Field(ge=0, le=10_000)]
    """Passes before the clock starts; of a training, steps."""
    repeats: Annotated[int, Field(ge=3, le=10_000)]
    """Timed passes; the median counts, lowest and highest stand beside it."""


class EvaluationConfig(Section):
    """What is evaluated, and how many images at once."""

    images: Count
    """Test images, the first ones of the test split."""
    batch_size: Batch | Literal["auto"]
    """Images at once; no influence on results, up to rounding, unless solver.scope or solver.returned couples them.
    auto: as many as the device's memory holds, fewer when that runs out; on a CPU 192."""
    final_unroll_steps: Depth
    """Damped steps (lambda 0.5) from z* to the final state."""

    @property
    def expected_batch_size(self) -> int:
        """Images at once, as far as the configuration tells."""
        return DEFAULT_BATCH if self.batch_size == "auto" else self.batch_size


class StatisticsConfig(Section):
    """Intervals."""

    confidence: Annotated[float, Field(ge=0.5, le=0.9999)]
    resamples: Annotated[int, Field(ge=100, le=1_000_000)]
    """Bootstrap resamples of the images."""
