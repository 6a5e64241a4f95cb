"""The attacks of Eq. (11) that a configuration asks for, and the settings of Sec. 3.2 that Table 5 sweeps."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from deqpipe.config import READY_MADE_DAMPING, Config, EntropyConfig
from deqpipe.errors import UserError
from deqpipe.workflow.defences import restarts_alone

FINAL_DAMPING = READY_MADE_DAMPING
"""lambda of the unroll from z^[N] to the final state, in the paper and in its authors' code."""


@dataclass(frozen=True, order=True)
class GridPoint:
    """One intermediate-state attack of Eq. (11)."""

    damping: float
    """lambda."""
    state: int
    """i, counted from 1."""
    steps: int
    """K_a."""

    @property
    def name(self) -> str:
        """A file-name-safe name, such as state3_steps5_damping0.5."""
        return f"state{self.state}_steps{self.steps}_damping{self.damping!r}"

    @property
    def triple(self) -> str:
        """As tables write it: (i, K_a, lambda)."""
        return f"({self.state}, {self.steps}, {self.damping:g})"

    @classmethod
    def parse(cls, name: str) -> "GridPoint":
        """The point of a name.

        Raises:
            UserError: it is no such name.
        """
        match = re.fullmatch(r"state([1-9]\d*)_steps([1-9]\d*)_damping(\d+(?:\.\d+)?)", name)
        if match is None:
            raise UserError(f"point is {name!r}, but must look like state3_steps5_damping0.5")
        return cls(damping=float(match[3]), state=int(match[1]), steps=int(match[2]))


def ready_made(config: Config) -> GridPoint:
    """The attack on the final state: z^[N], unrolled as the final state is."""
    return GridPoint(damping=FINAL_DAMPING, state=config.solver.steps, steps=config.evaluation.final_unroll_steps)


def grid_points(config: Config) -> tuple[GridPoint, ...]:
    """Every (lambda, i, K_a) of the config, and the ready-made point, sorted."""
    grid = config.attack.grid
    points = {GridPoint(d, i, k) for d in grid.damping for i in grid.states for k in grid.steps}
    return tuple(sorted(points | {ready_made(config)}))


@dataclass(frozen=True, order=True)
class EntropySetting:
    """Sec. 3.2 with another T_f and R, or a control of it (Table 5)."""

    solver_steps: int
    """T_f."""
    input_steps: int
    """R; 0: the control without descent steps."""
    restart_only: bool = False
    """The control that restarts the solver as the authors' code does, every T_f steps, and updates no input."""

    @property
    def defence(self) -> str:
        """Its name in records, such as entropy_every2_steps10."""
        kind = "restart_only" if self.restart_only else "entropy"
        return f"{kind}_every{self.solver_steps}" + ("" if self.restart_only else f"_steps{self.input_steps}")

    def keys(self, entropy: EntropyConfig, *, steps: int) -> EntropyConfig:
        """The keys of Sec. 3.2 with this T_f and R.

        Args:
            entropy: as configured.
            steps: N.
        """
        keys = entropy.model_copy(update={"solver_steps": self.solver_steps, "input_steps": self.input_steps})
        return restarts_alone(keys, steps) if self.restart_only else keys


def entropy_settings(config: Config) -> tuple[EntropySetting, ...]:
    """Every (T_f, R) of the sweep, with R = 0 and the restarts alone per T_f as controls."""
    return swept(config.entropy_sweep.solver_steps, config.entropy_sweep.input_steps)


def swept(solver_steps: Iterable[int], input_steps: Iterable[int]) -> tuple[EntropySetting, ...]:
    """The same for lists of T_f and R."""
    numbers = sorted({0, *input_steps})
    return tuple(
        setting
        for every in sorted(solver_steps)
        for setting in (
            EntropySetting(every, 0, restart_only=True),
            *(EntropySetting(every, steps) for steps in numbers),
        )
    )
