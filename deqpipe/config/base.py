"""Types of single values, and what all sections have in common."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Framework = Literal["pgd_at", "trades"]
AttackName = Literal["apgd_ce", "apgd_t", "fab_t", "square"]
DeqName = Literal["deq_pgd_at_base", "deq_pgd_at_random_states", "deq_trades_base", "deq_trades_random_states"]
Count = Annotated[int, Field(ge=1)]
Switch = Literal["auto", True, False]
DEFAULT_BATCH = 192
"""Images at once where nothing speaks for another number."""
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Damping = Annotated[float, Field(gt=0, le=1)]
Pixels255 = Annotated[float, Field(ge=0, le=255)]


class Section(BaseModel):
    """A part of the configuration: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True,
        defer_build=True,  # most commands validate a few sections only
    )  # fmt: skip
