"""Types of single values, and what all sections have in common."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Framework = Literal["pgd_at", "trades"]
AttackName = Literal["apgd_ce", "apgd_t", "fab_t", "square"]
DeqName = Literal["deq_pgd_at_base", "deq_pgd_at_random_states", "deq_trades_base", "deq_trades_random_states"]
Switch = Literal["auto", True, False]
DEFAULT_BATCH = 192
"""Images at once where nothing speaks for another number."""

# Bounds that no sensible experiment meets: what lies beyond them overflows a column of the records or float32, or takes
# years or all memory, and would be told only after hours.
Count = Annotated[int, Field(ge=1, le=10_000_000)]
"""Images, queries, training steps: ten million are eight times ImageNet."""
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Batch = Annotated[int, Field(ge=1, le=100_000)]
"""Images at once."""
Rounds = Annotated[int, Field(ge=1, le=10_000)]
"""Steps, restarts and targets of an attack, one after the other: a thousand are many."""
Depth = Annotated[int, Field(ge=1, le=1_000)]
"""How often f is applied one after the other, and numbers of states: records hold them in 16 bits, tens are usual."""
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""What fits 64 bits, with a sign."""
Width = Annotated[int, Field(ge=1, le=65_536)]
"""Channels: a hundred times those of MDEQ-Large's widest scale."""
Positive = Annotated[float, Field(ge=1e-12, le=1_000, allow_inf_nan=False)]
"""Rates and factors."""
NonNegative = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
"""Weights, tolerances and rates that may be off."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Damping = Annotated[float, Field(ge=1e-4, le=1)]
"""Of an unroll; smaller ones leave the state where it is."""
Pixels255 = Annotated[float, Field(ge=0, le=255)]
StepSize255 = Annotated[float, Field(ge=1e-6, le=255)]
"""Of an attack or a descent, which a step of 0 would not move."""
IN_255THS = "_255"
"""How the name of a key ends whose value is counted in 255ths of the pixel range."""


class Section(BaseModel):
    """A part of the configuration: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True,
        defer_build=True,  # most commands validate a few sections only
    )  # fmt: skip


def value_at(raw: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key of settings that are not checked yet; None where nothing does."""
    node: Any = raw
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
