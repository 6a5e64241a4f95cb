"""AutoAttack."""

from typing import Annotated, Literal

from pydantic import Field

from deqpipe.config.base import AttackName, Batch, Count, Rounds, Section


class AutoAttackConfig(Section):
    """AutoAttack (Croce and Hein, 2020) on the surrogate at the strongest (i, K_a, lambda) of each decision."""

    mode: Literal["standard", "individual"]
    """standard: one attack after the other, an image leaves once the true decision errs; individual: every attack on
    every image, and the lowest accuracy counts."""
    keep: Literal["best_loss", "success"]
    """The image that an attack is judged by. best_loss: the one of highest loss, whether or not it fools the surrogate
    (FAB-T: where it succeeds, else the clean image); success: one that fools the surrogate, else the clean image."""
    defence_in_loop: Literal["original"]
    """original: with Sec. 3.2 the surrogate is computed through the defended dynamics, its gradient is that of the
    unroll at the original input."""
    attacks: Annotated[tuple[AttackName, ...], Field(min_length=1, strict=False)]
    """In the order in which they run."""
    iterations: Rounds
    """Steps of APGD-CE, APGD-T and FAB-T."""
    restarts: Rounds
    """Random starts of APGD-CE."""
    targets: Rounds
    """Wrong classes that APGD-T and FAB-T aim at, the most likely first; never more than there are."""
    queries: Count
    """Queries of Square per image."""
    square_images: Count
    """Square attacks the first so many test images only."""
    top_points: Count
    """Table 4: so many points (i, K_a) with the lowest accuracy under PGD face APGD-CE and Square."""
    batch_size: Batch
    """Images at once. The library draws one random stream per batch, so that it belongs to the result."""
    images_per_job: Count
    """Images of a job. In standard mode the batches are made of those left in it: it belongs to the result."""
