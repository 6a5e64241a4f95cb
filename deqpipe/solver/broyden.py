"""Broyden's good method (Broyden, 1965), per image, without line search.

It solves g(z) = f(z) - z = 0 with a low-rank inverse Jacobian `B^-1 = -I + sum_k left_k right_k^T`, so the first step
is z^[1] = f(z^[0]). After each step the rank-one pair that satisfies the secant equation `B^-1 dg = dz` is appended.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deqpipe.shapes import State
from deqpipe.solver.base import FixedPointMap


@dataclass(frozen=True)
class BroydenState:
    """Iterate and inverse-Jacobian memory.

    Attributes:
        z: z^[n].
        residual: g(z^[n]).
        left: first factors of the rank-one pairs.
        right: second factors.
        delta_z: z^[n] - z^[n-1], of the newest pair; zero before the first step.
        delta_residual: g(z^[n]) - g(z^[n-1]), likewise.
        skipped: pairs left out per image because their denominator was zero or not finite.
    """

    z: State
    residual: State
    left: Float[Tensor, "batch memory state"]
    right: Float[Tensor, "batch memory state"]
    delta_z: State
    delta_residual: State
    skipped: Int[Tensor, " batch"]


@dataclass(frozen=True)
class Broyden:
    """Broyden's method with unlimited memory (a solve has few steps)."""

    def init(self, fn: FixedPointMap, z0: State) -> BroydenState:
        """The solve at z^[0], with B^-1 = -I."""
        empty = z0.new_empty(len(z0), 0, z0.shape[1])
        zero = torch.zeros_like(z0)
        skipped = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
        return BroydenState(
            z=z0, residual=fn(z0) - z0, left=empty, right=empty, delta_z=zero, delta_residual=zero, skipped=skipped
        )

    def propose(self, state: BroydenState) -> State:
        """z^[n] - B^-1 g(z^[n])."""
        return state.z - inverse_jacobian(state, state.residual)

    def step(self, fn: FixedPointMap, state: BroydenState) -> BroydenState:
        """The solve at z^[n+1], one pair richer."""
        return self.advance(fn, state, self.propose(state))

    def advance(self, fn: FixedPointMap, state: BroydenState, z: State) -> BroydenState:
        """The solve moved to `z`, with the pair of this move."""
        residual = fn(z) - z
        moved = replace(state, z=z, residual=residual, delta_z=z - state.z, delta_residual=residual - state.residual)
        return _append_pair(moved)

    def forget(self, state: BroydenState) -> BroydenState:
        """The same z^[n] with B^-1 = -I."""
        zero = torch.zeros_like(state.z)
        return replace(state, left=state.left[:, :0], right=state.right[:, :0], delta_z=zero, delta_residual=zero)

    def reevaluate(self, fn: FixedPointMap, state: BroydenState) -> BroydenState:
        """The same z^[n] and memory with the residual of `fn` (Algorithm 1, line 13, starts from here)."""
        return replace(state, residual=fn(state.z) - state.z)

    def rebase(self, fn: FixedPointMap, state: BroydenState) -> BroydenState:
        """The same z^[n] under `fn`, with the newest pair replaced by one for the corrected residual difference."""
        moved = self.reevaluate(fn, state)
        if not state.left.shape[1]:
            return moved
        corrected = state.delta_residual + moved.residual - state.residual
        shorter = replace(moved, left=state.left[:, :-1], right=state.right[:, :-1], delta_residual=corrected)
        return _append_pair(shorter)


def inverse_jacobian(state: BroydenState, vector: State) -> State:
    """B^-1 times a vector, per image."""
    return _low_rank(state.left, state.right, vector)


def _low_rank(left: Tensor, right: Tensor, vector: Tensor) -> Tensor:
    """(-I + left^T right) vector."""
    coefficients = torch.bmm(right, vector.unsqueeze(2))
    return torch.bmm(coefficients.transpose(1, 2), left).squeeze(1) - vector


def _append_pair(state: BroydenState) -> BroydenState:
    right = _low_rank(state.right, state.left, state.delta_z)
    numerator = state.delta_z - inverse_jacobian(state, state.delta_residual)
    denominator = (right * state.delta_residual).sum(1, keepdim=True)
    left = numerator / denominator
    usable = left.isfinite().all(1) & right.isfinite().all(1)
    left = torch.where(usable[:, None], left, torch.zeros_like(left))
    right = torch.where(usable[:, None], right, torch.zeros_like(right))
    return replace(
        state,
        left=torch.cat([state.left, left.unsqueeze(1)], dim=1),
        right=torch.cat([state.right, right.unsqueeze(1)], dim=1),
        skipped=state.skipped + ~usable,
    )
