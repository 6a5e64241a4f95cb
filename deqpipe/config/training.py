"""Training: pretraining, adversarial training, Secs. 3.1 and 3.3, and what is kept of it."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from deqpipe.config.base import (
    Batch,
    Count,
    Damping,
    Decay,
    Depth,
    Epochs,
    Fraction,
    NonNegative,
    Positive,
    Rounds,
    Section,
    StepSize255,
)

RelativeSize = Annotated[float, Field(ge=1e-6, le=1)]
"""Of a change, relative to what is changed."""
Jitter = Annotated[int, Field(ge=-1_000, le=1_000)]
"""Solver steps more or fewer."""


class PretrainConfig(Section):
    """The shared trunk: a weight-tied unrolled network trained on clean images."""

    layers: Depth
    """How often f is applied."""
    steps: Count
    """Training steps, counted within training.epochs, which must leave some for the adversarial training."""


class Unroll(Section):
    """The damped steps of Eq. (11) behind the final state."""

    steps: Depth
    damping: Damping
    lead_step: bool
    """One undamped f before the damped steps."""


class TrainingAttackConfig(Section):
    """The attack inside adversarial training."""

    steps: Rounds
    step_size_255: StepSize255
    """Step size alpha, in 1/255 of the pixel range."""


class TradesConfig(Section):
    """TRADES (Zhang et al., 2019)."""

    inverse_lambda: NonNegative
    """1/lambda: weight of the KL term."""
    start_noise: Fraction
    """Standard deviation of the Gaussian start of its attack, in units of the pixel range."""


class PhantomConfig(Section):
    """The gradient of an unroll behind z* or the random state."""

    name: Literal["phantom"]


class ExactConfig(Section):
    """The gradient of the implicit function theorem."""

    name: Literal["exact"]
    steps: Depth
    """Solver steps of the adjoint equation."""


GradientConfig: TypeAlias = Annotated[PhantomConfig | ExactConfig, Field(discriminator="name")]
_GRADIENT: TypeAdapter[GradientConfig] = TypeAdapter(GradientConfig)


def parse_gradient(raw: object) -> GradientConfig:
    """The section of a training gradient, whichever variant it is."""
    return _GRADIENT.validate_python(raw)


class TrainingConfig(Section):
    """Training of the DEQs (Appendix A)."""

    epochs: Epochs
    """All epochs, pretraining included; the cosine schedule spans them."""
    batch_size: Batch
    learning_rate: Positive
    learning_rate_min: NonNegative
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)]
    """Adam's."""
    weight_decay: NonNegative
    gradient: GradientConfig
    unroll: Unroll
    attack: TrainingAttackConfig
    trades: TradesConfig


class PerFramework(Section):
    """One value for each adversarial training framework."""

    pgd_at: NonNegative
    trades: NonNegative


class JacobianConfig(Section):
    """Jacobian regularisation (Bai et al., 2021)."""

    weight: PerFramework
    other_weight: PerFramework
    """What the models of Figure 6 are trained with instead (deq_pgd_at_jac_low, deq_trades_jac_high)."""
    frequency: Fraction
    """Share of training steps that carry the term."""
    stop_epoch: Annotated[int, Field(ge=0, le=100_000)]
    """No Jacobian term after this epoch."""
    probes: Rounds
    """Gaussian probes of Hutchinson's estimate."""
    length_jitter: Annotated[tuple[Jitter, Jitter], Field(strict=False)]
    """On a regularised step the solver takes N plus a uniform draw from this range (both ends included)."""
    trades_terms: Literal["both", "adversarial"]
    """Which branches of TRADES carry the term."""


class RandomStateConfig(Section):
    """Loss from random intermediate states (Sec. 3.3)."""

    pick: Literal["iterate", "prefix_lowest"]
    """i ~ U[1, N]; iterate: z^[i] (Eq. 10); prefix_lowest: the state with the lowest residual among z^[1] .. z^[i], by
    solver.scope."""
    natural: Literal["final", "independent", "shared"]
    """State of the natural TRADES branch: the final one, a draw of its own, or the adversarial branch's."""
    in_attack: bool
    """Training attacks see random states too, a new draw per step."""


class PerturbationSize(Section):
    """Norm of a layer's perturbation relative to that of its weights, for each adversarial training framework."""

    pgd_at: RelativeSize
    """Published: 0.01."""
    trades: RelativeSize
    """Published: 0.005."""


class AnyWeightPerturbationConfig(Section):
    """Models trained with adversarial weight perturbation (Wu, Xia & Wang, 2020), as further rows of Table 1."""


class NoWeightPerturbationConfig(AnyWeightPerturbationConfig):
    """The paper's models alone."""

    enabled: Literal[False]


class WeightPerturbationConfig(AnyWeightPerturbationConfig):
    """The paper's models, and those with weight perturbation."""

    enabled: Literal[True]
    size: PerturbationSize
    """gamma."""
    warmup_epochs: Annotated[int, Field(ge=0, le=100_000)]
    """No perturbation in the first so many epochs of adversarial training; published: 0 with PGD-AT, 9 with TRADES."""


AnyWeightPerturbation: TypeAlias = Annotated[
    NoWeightPerturbationConfig | WeightPerturbationConfig, Field(discriminator="enabled")
]


class SelectionConfig(Section):
    """Choice of the best epoch by PGD at the final state."""

    split: Literal["validation", "test"]
    """validation: held-out training images; test: leaks, for comparison only."""
    first_epoch: Epochs
    """No epoch before this one is tried; at most training.epochs. A ResNet of fewer epochs keeps its last one."""
    attack_random_state: bool
    """Whether the selecting attack on a model that is trained with random states is crafted at random states, too."""
    freeze_fooled: bool
    """Whether the selecting attack leaves an image alone while it is classified wrong."""
    attack: TrainingAttackConfig


class AnyEarlyStateConfig(Section):
    """Which intermediate state decides (early-state defence)."""


class SelectedStateConfig(AnyEarlyStateConfig):
    """The state with the best accuracy under ready-made PGD on the images of selection.split."""

    mode: Literal["select"]


class LastStateConfig(AnyEarlyStateConfig):
    """z^[N], the last state that the solver reaches."""

    mode: Literal["last"]


class FixedStateConfig(AnyEarlyStateConfig):
    """One state for all DEQs, by its number."""

    mode: Literal["fixed"]
    index: Depth
    """The state, counted from 1."""


EarlyStateConfig: TypeAlias = Annotated[
    SelectedStateConfig | LastStateConfig | FixedStateConfig, Field(discriminator="mode")
]
_EARLY_STATE: TypeAdapter[EarlyStateConfig] = TypeAdapter(EarlyStateConfig)


def parse_early_state(raw: object) -> EarlyStateConfig:
    """The section of the early state, whichever variant it is."""
    return _EARLY_STATE.validate_python(raw)
