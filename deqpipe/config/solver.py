"""The fixed-point solver."""

from dataclasses import fields
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

from pydantic import Field, TypeAdapter

from deqpipe import extending
from deqpipe.config.base import Depth, NonNegative, Section
from deqpipe.config.own import own_section


class AnySolverConfig(Section):
    """The fixed-point solver of Eq. (3)."""

    name: str
    steps: Depth
    """N: the states are z^[1] .. z^[N]."""
    tolerance: NonNegative
    """A solve stops at this relative residual; 0: always N steps."""
    scope: Literal["sample", "batch"]
    """Over what a residual's norm is taken where it decides (tolerance; lowest state of a round or a prefix). sample:
    every image by itself; batch: one norm over all images at once, which couples them. With batch a solve also ends
    when that norm has grown a thousandfold."""
    returned: Literal["last", "lowest_sample", "lowest_batch"]
    """Which state is z*: z^[N], or the one of lowest residual, of every image by itself or judged by one norm over
    the batch (which couples its images)."""


class BroydenConfig(AnySolverConfig):
    """Broyden's method."""

    name: Literal["broyden"]


class AndersonConfig(AnySolverConfig):
    """Anderson mixing."""

    name: Literal["anderson"]
    memory: Annotated[int, Field(ge=2, le=1_000)]
    """How many past states are mixed."""


class FixedPointConfig(AnySolverConfig):
    """Plain iteration of f."""

    name: Literal["fixed_point"]


SolverConfig: TypeAlias = Annotated[BroydenConfig | AndersonConfig | FixedPointConfig, Field(discriminator="name")]
_SOLVER: TypeAdapter[SolverConfig] = TypeAdapter(SolverConfig)


def parse_solver(raw: object) -> AnySolverConfig:
    """The section of a solver, whichever variant it is, those of users' files included."""
    return own_solver(raw) or _SOLVER.validate_python(raw)


def own_solver(raw: object) -> AnySolverConfig | None:
    """The section of a solver that comes from a user's file; None of others."""
    return own_section(raw, AnySolverConfig, "name", extending.Solver, _fields)


def _fields(piece: extending.Solver) -> dict[str, Any]:
    """The keys of a user's solver, beside those that all have."""
    assert piece.build is not None
    kinds = get_type_hints(piece.build)
    return {one.name: kinds[one.name] for one in fields(piece.build) if one.init and one.name not in _COMMON}


_COMMON = frozenset(AnySolverConfig.model_fields)


def couples_images(solver: AnySolverConfig) -> bool:
    """Whether a solve of several images at once is something else than a solve of each."""
    return solver.scope == "batch" or solver.returned == "lowest_batch"
