"""Anderson mixing (Anderson, 1965) of type II, per image.

z^[n+1] = z^[n] + g(z^[n]) - (dZ + dG) gamma, where gamma minimises norm(g(z^[n]) - dG gamma) over the last differences.
The least-squares problem is solved by its normal equations, regularised by their rounding error, so that differences
which are no longer independent (an image that stagnates) do not make them singular.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deqpipe.shapes import State
from deqpipe.solver.base import FixedPointMap, keep_tensors

REGULARISATION = 10  # in units of the rounding error of the largest entry


@dataclass(frozen=True)
class AndersonState:
    """Iterate and the last differences.

    Attributes:
        z: z^[n].
        residual: g(z^[n]) = f(z^[n]) - z^[n].
        delta_z: differences of successive iterates, oldest first.
        delta_residual: differences of successive residuals.
    """

    z: State
    residual: State
    delta_z: Float[Tensor, "batch memory state"]
    delta_residual: Float[Tensor, "batch memory state"]


@dataclass(frozen=True)
class Anderson:
    """Anderson mixing.

    Attributes:
        memory: how many states are mixed; one more than the differences that are kept.
    """

    memory: int

    def __post_init__(self) -> None:
        """Refuse a memory that mixes nothing.

        Raises:
            ValueError: there would be no difference to keep.
        """
        if self.memory < 2:
            raise ValueError(f"Anderson's memory is {self.memory}, but at least 2 states are needed to mix")

    def init(self, fn: FixedPointMap, z0: State) -> AndersonState:
        """The solve at z^[0]."""
        empty = z0.new_empty(len(z0), 0, z0.shape[1])
        return AndersonState(z=z0, residual=fn(z0) - z0, delta_z=empty, delta_residual=empty)

    def propose(self, state: AndersonState) -> State:
        """The mixed state; f(z^[n]) while there is no memory."""
        plain = state.z + state.residual
        if not state.delta_z.shape[1]:
            return plain
        differences = state.delta_residual
        gram = torch.bmm(differences, differences.transpose(1, 2))
        scale = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
        number = torch.finfo(gram.dtype)
        ridge = (REGULARISATION * number.eps * scale).clamp_min(number.tiny)
        eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        target = torch.bmm(differences, state.residual.unsqueeze(2))
        gamma, _ = torch.linalg.solve_ex(gram + ridge * eye, target)
        return plain - torch.bmm(gamma.transpose(1, 2), state.delta_z + differences).squeeze(1)

    def step(self, fn: FixedPointMap, state: AndersonState) -> AndersonState:
        """The solve at z^[n+1]."""
        return self.advance(fn, state, self.propose(state))

    def advance(self, fn: FixedPointMap, state: AndersonState, z: State) -> AndersonState:
        """The solve moved to `z`; the oldest difference makes room when the memory is full."""
        residual = fn(z) - z
        return AndersonState(
            z=z,
            residual=residual,
            delta_z=self._newest(state.delta_z, z - state.z),
            delta_residual=self._newest(state.delta_residual, residual - state.residual),
        )

    def _newest(self, kept: Tensor, difference: Tensor) -> Tensor:
        return torch.cat([kept, difference.unsqueeze(1)], dim=1)[:, -(self.memory - 1) :]

    def forget(self, state: AndersonState) -> AndersonState:
        """The same z^[n] without differences."""
        return replace(state, delta_z=state.delta_z[:, :0], delta_residual=state.delta_residual[:, :0])

    def reevaluate(self, fn: FixedPointMap, state: AndersonState) -> AndersonState:
        """The same z^[n] and memory with the residual of `fn`."""
        return replace(state, residual=fn(state.z) - state.z)

    def rebase(self, fn: FixedPointMap, state: AndersonState) -> AndersonState:
        """The same z^[n] under `fn`, the newest residual difference corrected by the change."""
        moved = self.reevaluate(fn, state)
        if not state.delta_z.shape[1]:
            return moved
        change = (moved.residual - state.residual).unsqueeze(1)
        stepped = state.delta_z[:, -1:].any(2, keepdim=True)  # otherwise the change would pass for that of a step
        newest = state.delta_residual[:, -1:] + torch.where(stepped, change, 0)
        return replace(moved, delta_residual=torch.cat([state.delta_residual[:, :-1], newest], dim=1))

    def differentiable(self) -> "Anderson":
        """This one: it writes nothing in place."""
        return self

    def keep(self, old: AndersonState, new: AndersonState, running: Bool[Tensor, " batch"]) -> AndersonState:
        """`new` for the images that run, `old` for the others."""
        return keep_tensors(old, new, running)
