"""The suite of attacks that know what they attack (Table 11, Figures 7 and 8)."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from deqpipe.config.base import Count, Rounds, Section


class AnySuiteConfig(Section):
    """Attacks that see the decision itself: through the solver, through Sec. 3.2, by queries; one after the other."""


class NoSuiteConfig(AnySuiteConfig):
    """No such attacks: Tables 1 to 10 and Figures 2 to 6 alone."""

    enabled: Literal[False]


class AttackSuiteConfig(AnySuiteConfig):
    """The suite, on every decision of every model."""

    enabled: Literal[True]
    mode: Literal["standard", "individual"]
    """standard: an image leaves once the decision errs, so that a column of Table 11 says what is left after it;
    individual: every attack faces every image that is right when clean, and a column is its group's alone."""
    images: Count
    """The first so many test images, of those that are evaluated at all; like the next key and the last one made up to
    whole batches where the solver couples images."""
    images_per_job: Count
    """Images of a job; no influence on results."""
    controls: bool
    """Whether the controls of Sec. 3.2 are attacked as well: what remains of its gain over them."""
    static: bool
    """Whether what the cost of Sec. 3.2 gives without it is attacked as well: a longer undefended solve with the same
    weights and, with several seeds, what their undefended networks decide together."""
    iterations: Rounds
    """Steps of APGD from each start."""
    restarts: Rounds
    """Starts of APGD: the first ones of a stream per image, so that more starts contain fewer."""
    targets: Rounds
    """Wrong classes that targeted losses aim at, the most likely first; never more than there are."""
    long: Annotated[tuple[Rounds, ...], Field(min_length=1, strict=False)]
    """Lengths of PGD with a fixed step size: longer ones should be no weaker."""
    queries: Count
    """Queries of Square to the decision's logits."""
    decision_queries: Count
    """Queries of RayS, which is told the class alone."""
    radii: Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(min_length=2, strict=False)]
    """Figure 7: radii in units of epsilon, from 0 to where nothing is left."""
    radius_images: Count
    """Figure 7 takes the first so many images only."""


SuiteConfig: TypeAlias = Annotated[NoSuiteConfig | AttackSuiteConfig, Field(discriminator="enabled")]
