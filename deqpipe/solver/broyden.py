"""Broyden's good method (Broyden, 1965), per image, without line search.

It solves g(z) = f(z) - z = 0 with a low-rank inverse Jacobian `B^-1 = -I + sum_k left_k right_k^T`, so the first step
is z^[1] = f(z^[0]). After each step the rank-one pair that satisfies the secant equation `B^-1 dg = dz` is appended.

A pair is built when something asks for it: the last step of a solve needs none. Building it reads the memory twice, for
`B^-1 g(z^[n])` and for `B^-T dz`: with `B^-1 g(z^[n-1])`, known from the step before, the first of them gives both
`B^-1 dg` and, the new pair added, the next step.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from deqpipe.lazy import Lazy
from deqpipe.shapes import State
from deqpipe.solver.base import FixedPointMap, where_images
from deqpipe.solver.pairs import Pairs, StackedPairs, StoredPairs, Vectors, dots, low_rank


@dataclass(frozen=True)
class Memory:
    """The inverse Jacobian at a state.

    Attributes:
        pairs: its rank-one pairs.
        correction: B^-1 g(z^[n]); the next step is z^[n] without it.
        skipped: pairs left out per image because their denominator was zero or not finite.
    """

    pairs: Pairs
    correction: State
    skipped: Int[Tensor, " batch"]


@dataclass(frozen=True)
class BroydenState:
    """Iterate and inverse-Jacobian memory.

    Attributes:
        z: z^[n].
        residual: g(z^[n]).
        delta_z: z^[n] - z^[n-1], of the newest pair; zero before the first step.
        delta_residual: g(z^[n]) - g(z^[n-1]), likewise.
        build: the memory, built when it is first asked for.
    """

    z: State
    residual: State
    delta_z: State
    delta_residual: State
    build: Lazy[Memory]

    @property
    def memory(self) -> Memory:
        """B^-1."""
        return self.build()

    @property
    def left(self) -> Vectors:
        """First factors of the rank-one pairs."""
        return self.memory.pairs.left

    @property
    def right(self) -> Vectors:
        """Second factors."""
        return self.memory.pairs.right

    @property
    def skipped(self) -> Int[Tensor, " batch"]:
        """Pairs left out per image."""
        return self.memory.skipped


@dataclass(frozen=True)
class Broyden:
    """Broyden's method with unlimited memory (a solve has few steps).

    Attributes:
        room: pairs that memory is allocated for at once; more is made when they are more.
        in_place: pairs are written into that memory. Otherwise their tensors are made anew with every pair, so that a
            gradient can be taken through the steps; on a CPU the bits are the same.
    """

    room: int = field(default=8, compare=False)
    in_place: bool = True

    def init(self, fn: FixedPointMap, z0: State) -> BroydenState:
        """The solve at z^[0], with B^-1 = -I."""
        skipped = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
        return self._without_memory(z0, fn(z0) - z0, Lazy.known(skipped))

    def _without_memory(self, z: State, residual: State, skipped: Lazy[Tensor]) -> BroydenState:
        def build() -> Memory:
            pairs = StoredPairs.none(z, self.room) if self.in_place else StackedPairs.none(z)
            return Memory(pairs, -residual, skipped())

        nothing = z.new_zeros(()).expand_as(z)
        return BroydenState(z, residual, delta_z=nothing, delta_residual=nothing, build=Lazy(build))

    def propose(self, state: BroydenState) -> State:
        """z^[n] - B^-1 g(z^[n])."""
        return state.z - state.memory.correction

    def step(self, fn: FixedPointMap, state: BroydenState) -> BroydenState:
        """The solve at z^[n+1], one pair richer."""
        return self.advance(fn, state, self.propose(state))

    def advance(self, fn: FixedPointMap, state: BroydenState, z: State) -> BroydenState:
        """The solve moved to `z`, with the pair of this move."""
        residual = fn(z) - z
        delta_z, delta_residual = z - state.z, residual - state.residual

        def build() -> Memory:
            before = state.memory
            product = low_rank(before.pairs.left, before.pairs.right, residual)
            secant = Secant(delta_z, delta_residual, product - before.correction)
            return _with_pair(before.pairs, before.skipped, secant, residual, product)

        return BroydenState(z, residual, delta_z, delta_residual, Lazy(build))

    def forget(self, state: BroydenState) -> BroydenState:
        """The same z^[n] with B^-1 = -I."""
        return self._without_memory(state.z, state.residual, Lazy(lambda: state.memory.skipped))

    def reevaluate(self, fn: FixedPointMap, state: BroydenState) -> BroydenState:
        """The same z^[n] and memory with the residual of `fn` (Algorithm 1, line 13, starts from here)."""
        residual = fn(state.z) - state.z

        def build() -> Memory:
            return replace(state.memory, correction=_correction(state.memory.pairs, residual))

        return replace(state, residual=residual, build=Lazy(build))

    def rebase(self, fn: FixedPointMap, state: BroydenState) -> BroydenState:
        """The same z^[n] under `fn`, with the newest pair replaced by one for the corrected residual difference."""
        count = state.left.shape[1]
        if not count:
            return self.reevaluate(fn, state)
        residual = fn(state.z) - state.z
        corrected = state.delta_residual + residual - state.residual

        def build() -> Memory:
            older = state.memory.pairs.first(count - 1)
            secant = Secant(state.delta_z, corrected, low_rank(older.left, older.right, corrected))
            product = low_rank(older.left, older.right, residual)
            return _with_pair(older, state.memory.skipped, secant, residual, product)

        return replace(state, residual=residual, delta_residual=corrected, build=Lazy(build))

    def differentiable(self) -> "Broyden":
        """Pairs in tensors of their own."""
        return replace(self, in_place=False)

    def keep(self, old: BroydenState, new: BroydenState, running: Bool[Tensor, " batch"]) -> BroydenState:
        """`new` for the images that run, `old` for the others."""
        memory = Memory(
            pairs=self._kept_pairs(old, new, running),
            correction=where_images(running, new.memory.correction, old.memory.correction),
            skipped=where_images(running, new.skipped, old.skipped),
        )
        return BroydenState(
            z=where_images(running, new.z, old.z),
            residual=where_images(running, new.residual, old.residual),
            delta_z=where_images(running, new.delta_z, old.delta_z),
            delta_residual=where_images(running, new.delta_residual, old.delta_residual),
            build=Lazy.known(memory),
        )

    def _kept_pairs(self, old: BroydenState, new: BroydenState, running: Tensor) -> Pairs:
        """Of an image that has stopped the old pairs behind one of zeros, so that the newest remains the newest."""
        pairs: Pairs = StoredPairs.none(new.z, self.room) if self.in_place else StackedPairs.none(new.z)
        missing = new.left.shape[1] - old.left.shape[1]
        for number in range(new.left.shape[1]):
            earlier = number - missing
            left, right = (
                where_images(running, later[:, number], before[:, earlier] if earlier >= 0 else 0)
                for later, before in ((new.left, old.left), (new.right, old.right))
            )
            pairs = pairs.append(left, right)
        return pairs


@dataclass(frozen=True)
class Secant:
    """What a new pair is to satisfy: `B^-1 delta_residual = delta_z`.

    Attributes:
        delta_z: dz.
        delta_residual: dg.
        product: B^-1 dg as the pairs so far have it.
    """

    delta_z: State
    delta_residual: State
    product: State


def _with_pair(pairs: Pairs, skipped: Tensor, secant: Secant, residual: State, product: State) -> Memory:
    """The memory with the pair of a secant equation; `product` is B^-1 `residual` without it."""
    right = low_rank(pairs.right, pairs.left, secant.delta_z)
    denominator = _dot(right, secant.delta_residual)
    unusable = ~denominator.isfinite() | (denominator == 0)  # so is every pair with a number that is not finite
    left = ((secant.delta_z - secant.product) / denominator).masked_fill_(unusable, 0)
    right = right.masked_fill(unusable, 0)
    return Memory(pairs.append(left, right), _add(product, left, right, residual), skipped + unusable.squeeze(1))


def _correction(pairs: Pairs, residual: State) -> State:
    """B^-1 `residual`, the newest pair added last, as when it was appended: the same bits for the same residual."""
    count = pairs.left.shape[1]
    if not count:
        return -residual
    older = pairs.first(count - 1)
    product = low_rank(older.left, older.right, residual)
    return _add(product, pairs.left[:, -1], pairs.right[:, -1], residual)


def _add(product: State, left: State, right: State, vector: State) -> State:
    """The product with one pair more, in the memory of `product`."""
    return product.addcmul_(left, _dot(right, vector))


def _dot(one: State, other: State) -> Tensor:
    """Inner products per image, (batch, 1)."""
    return dots(one, other.unsqueeze(1))


def inverse_jacobian(state: BroydenState, vector: State) -> State:
    """B^-1 times a vector, per image."""
    return low_rank(state.left, state.right, vector)
