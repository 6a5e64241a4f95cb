"""Training: pretraining, adversarial training, Secs. 3.1 and 3.3, and what is kept of it."""

from typing import Annotated, Literal

from pydantic import Field

from deqpipe.config.base import Count, Damping, Decay, Fraction, NonNegative, Pixels255, Positive, Section, Whole


class PretrainConfig(Section):
    """The shared trunk: a weight-tied unrolled network trained on clean images."""

    layers: Count
    """How often f is applied."""
    steps: Count
    """Training steps, counted within training.epochs, which must leave some for the adversarial training."""


class Unroll(Section):
    """The damped steps of Eq. (11) behind the final state."""

    steps: Count
    damping: Damping
    lead_step: bool
    """One undamped f before the damped steps."""


class TrainingAttackConfig(Section):
    """The attack inside adversarial training."""

    steps: Count
    step_size_255: Pixels255
    """Step size alpha, in 1/255 of the pixel range."""


class TradesConfig(Section):
    """TRADES (Zhang et al., 2019)."""

    inverse_lambda: NonNegative
    """1/lambda: weight of the KL term."""
    start_noise: NonNegative
    """Standard deviation of the Gaussian start of its attack, in units of the pixel range."""


class TrainingConfig(Section):
    """Training of the DEQs (Appendix A)."""

    epochs: Count
    """All epochs, pretraining included; the cosine schedule spans them."""
    batch_size: Count
    learning_rate: Positive
    learning_rate_min: NonNegative
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)]
    """Adam's."""
    weight_decay: NonNegative
    gradient: Literal["phantom", "exact"]
    """phantom: unroll behind z* or the random state; exact: implicit function theorem, solved with implicit_steps."""
    implicit_steps: Count
    """Solver steps of the adjoint equation (only with gradient: exact)."""
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
    stop_epoch: Whole
    """No Jacobian term after this epoch."""
    probes: Count
    """Gaussian probes of Hutchinson's estimate."""
    length_jitter: Annotated[tuple[int, int], Field(strict=False)]
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


class SelectionConfig(Section):
    """Choice of the best epoch by PGD at the final state."""

    split: Literal["validation", "test"]
    """validation: held-out training images; test: leaks, for comparison only."""
    first_epoch: Count
    """No epoch before this one is tried; at most training.epochs. A ResNet of fewer epochs keeps its last one."""
    attack_random_state: bool
    """Whether the selecting attack on a model that is trained with random states is crafted at random states, too."""
    freeze_fooled: bool
    """Whether the selecting attack leaves an image alone while it is classified wrong."""
    attack: TrainingAttackConfig


class EarlyStateConfig(Section):
    """Which intermediate state decides (early-state defence)."""

    mode: Literal["select", "fixed"]
    """select: the state with the best accuracy under ready-made PGD on the images of selection.split; fixed:
    `index`."""
    index: Count
    """The state when mode is fixed; counted from 1."""
