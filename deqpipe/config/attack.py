"""The threat model, and the attacks of the grid."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from deqpipe.config.base import Count, Damping, Depth, Pixels255, Rounds, Section, StepSize255

READY_MADE_DAMPING = 0.5
"""lambda of the unroll from z^[N] to the final state, in the paper and in its authors' code; the attack on the final
state, which is always in the grid, has it too."""


class ThreatModelConfig(Section):
    """What an attacker may change: every pixel by at most epsilon (l-infinity), within [0, 1]."""

    epsilon_255: Pixels255
    """Radius, in 1/255 of the pixel range."""


class PgdConfig(Section):
    """PGD at evaluation."""

    steps: Rounds
    step_size_255: StepSize255
    clamp_start: bool
    """Whether the uniform random start is clamped into [0, 1]."""


class GridConfig(Section):
    """The intermediate-state attacks of Eq. (11): every combination, and always the ready-made point."""

    states: Annotated[tuple[Depth, ...], Field(min_length=1, strict=False)]
    """i: unrolled states."""
    steps: Annotated[tuple[Depth, ...], Field(min_length=1, strict=False)]
    """K_a: unroll steps."""
    damping: Annotated[tuple[Damping, ...], Field(min_length=1, strict=False)]
    """lambda: damping of the unroll."""


class AttackUnroll(Section):
    """How surrogates, and the final states that are judged, are unrolled."""

    lead_step: bool
    """One undamped f before the damped ones; Eq. (11) as written has none."""


class AttackConfig(Section):
    """The attacks that models are evaluated under."""

    pgd: PgdConfig
    grid: GridConfig
    unroll: AttackUnroll
    defence_in_loop: Literal["none"]
    """none: images are crafted on the undefended dynamics and scored on every decision."""
    transfer: bool
    """Whether images of one TRADES DEQ are scored on the other as well (Table 3); a change crafts them again."""
    in_loop_points: Count
    """Table 3's second block: so many of the strongest points are crafted again through Sec. 3.2 (forward through the
    defended dynamics, gradient of the unroll at the original input)."""
    states_per_job: Count
    """How many states one grid job takes; no influence on results."""
    images_per_job: Count
    """How many images one grid job takes; no influence on results."""


class AnyRacingConfig(Section):
    """All attacks on a part of the images, then only those that could still be the strongest on the rest.

    Serves minima of mean accuracies only. What needs every attack on every image (worst cases per image, Tables 6 to 8,
    Figures 3 and 5) is absent then, with this reason.
    """


class NoRacingConfig(AnyRacingConfig):
    """Every attack on every image."""

    enabled: Literal[False]


class RaceConfig(AnyRacingConfig):
    """A race on the images behind the first ones."""

    enabled: Literal[True]
    images: Count
    """The first so many test images face every attack."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    """Probability that the strongest attack of a decision stays in the race."""


RacingConfig: TypeAlias = Annotated[NoRacingConfig | RaceConfig, Field(discriminator="enabled")]
