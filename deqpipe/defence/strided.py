"""A longer undefended solve of which every k-th state counts: what the cost of a defence gives without it."""

from dataclasses import dataclass, replace

from deqpipe.config import EntropyConfig
from deqpipe.dynamics import Dynamics, PlainDynamics, Trajectory
from deqpipe.gradient.through import EXACT, Through
from deqpipe.model.interface import FixedPointModel
from deqpipe.settings import Settings
from deqpipe.shapes import Images
from deqpipe.solver.solve import Solution, Termination
from deqpipe.workflow.defences import Defence


@dataclass(frozen=True)
class Strided:
    """The undefended dynamics with k steps from each state to the next: state n is z^[k n] of one longer solve.

    The solve stops where the longer one does: images that have converged (or, with scope batch, whose batch has)
    keep their state in all states that follow. z* is that of the whole solve, states between the recorded ones too.

    Attributes:
        solve: the longer one; its N is a multiple of `stride`.
        stride: k.
    """

    solve: PlainDynamics
    stride: int

    def __post_init__(self) -> None:
        """Refuse a solve whose last state is none of the recorded ones.

        Raises:
            ValueError: its steps are no multiple of the stride.
        """
        steps = self.solve.termination.max_steps
        if self.stride < 1 or steps % self.stride:
            raise ValueError(f"the stride is {self.stride}, but must divide the {steps} steps of the solve")

    @property
    def is_defended(self) -> bool:
        """By nothing but more steps."""
        return False

    @property
    def termination(self) -> Termination:
        """The number of recorded states, and when the longer solve stops before."""
        whole = self.solve.termination
        return replace(whole, max_steps=whole.max_steps // self.stride)

    def up_to(self, index: int) -> "Strided":
        """The dynamics that end at state `index`."""
        return replace(self, solve=self.solve.up_to(index * self.stride))

    def __call__(self, model: FixedPointModel, x: Images, *, last_residual: bool = True) -> Trajectory:
        """Every k-th state; k N + 1 evaluations of f, without `last_residual` k N."""
        return self._every(self.solve(model, x, last_residual=last_residual))

    def with_gradient(self, model: FixedPointModel, x: Images, through: Through = EXACT) -> Trajectory:
        """The same states with gradient through all steps of the solve."""
        return self._every(self.solve.with_gradient(model, x, through))

    def _every(self, whole: Trajectory) -> Trajectory:
        return replace(whole, solution=_strided(whole.solution, self.stride))


def _strided(solution: Solution, stride: int) -> Solution:
    """Every k-th state; an image moved if it took any of the steps to it."""
    kept = slice(stride - 1, None, stride)
    return replace(
        solution,
        states=solution.states[kept],
        residuals=solution.residuals[kept],
        batch_residuals=solution.batch_residuals[kept],
        moved=solution.moved.unflatten(0, (-1, stride)).any(1),
    )


def longer(plain: PlainDynamics, times: int) -> Dynamics:
    """The undefended dynamics with so many times their steps; these themselves for one time."""
    if times == 1:
        return plain
    steps = times * plain.termination.max_steps
    return Strided(replace(plain, termination=replace(plain.termination, max_steps=steps)), times)


def build(settings: Settings, plain: PlainDynamics, defence: Defence) -> Dynamics:
    """An undefended solve as long as a defence says, from the settings of a job (`deqpipe.build.dynamics`)."""
    assert defence.longer is not None, f"{defence.name} is no longer solve"
    entropy = settings.section("entropy", EntropyConfig)
    return longer(plain, defence.longer(entropy, plain.termination.max_steps))
