"""The memory of Broyden's method: rank-one pairs, kept in one of two ways that compute the same bits on a CPU."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from deqpipe.shapes import State

Vectors = Float[Tensor, "batch memory state"]


@runtime_checkable
class Pairs(Protocol):
    """Pairs `left_k right_k^T` of every image, oldest first. No method changes what was there before."""

    @property
    def left(self) -> Vectors:
        """First factors."""
        ...

    @property
    def right(self) -> Vectors:
        """Second factors."""
        ...

    def append(self, left: State, right: State) -> "Pairs":
        """These and one pair more."""
        ...

    def first(self, count: int) -> "Pairs":
        """The oldest `count` of them."""
        ...


@dataclass(frozen=True)
class StackedPairs:
    """Pairs whose tensors are made anew by every one that is added: a gradient can be taken through them."""

    left: Vectors
    right: Vectors

    @classmethod
    def none(cls, z: State) -> "StackedPairs":
        """No pair, for images whose states are like `z`."""
        empty = z.new_empty(len(z), 0, z.shape[1])
        return cls(empty, empty)

    def append(self, left: State, right: State) -> "StackedPairs":
        """Old and new copied into tensors one pair larger."""
        return StackedPairs(
            torch.cat([self.left, left.unsqueeze(1)], dim=1), torch.cat([self.right, right.unsqueeze(1)], dim=1)
        )

    def first(self, count: int) -> "StackedPairs":
        """The oldest `count` of them."""
        return StackedPairs(self.left[:, :count], self.right[:, :count])


@dataclass
class _Store:
    """Room for pairs, (factor, batch, capacity, state), of which the first `used` are taken."""

    room: Tensor
    used: int = 0


@dataclass(frozen=True)
class StoredPairs:
    """Pairs in memory that is allocated once.

    A pair is written behind those that are there. Where another one stands there already (a solve that went on twice
    from one state), or no room is left, the pairs move to memory of their own first: each value stays what it was.
    """

    store: _Store = field(repr=False)
    count: int

    @classmethod
    def none(cls, z: State, capacity: int) -> "StoredPairs":
        """No pair, and room for `capacity` of them, for images whose states are like `z`."""
        return cls(_Store(z.new_empty(2, len(z), capacity, z.shape[1])), 0)

    @property
    def left(self) -> Vectors:
        """First factors."""
        return self.store.room[0, :, : self.count]

    @property
    def right(self) -> Vectors:
        """Second factors."""
        return self.store.room[1, :, : self.count]

    def append(self, left: State, right: State) -> "StoredPairs":
        """These and one pair more."""
        store = self._with_room()
        store.room[0, :, self.count] = left
        store.room[1, :, self.count] = right
        store.used = self.count + 1
        return StoredPairs(store, store.used)

    def first(self, count: int) -> "StoredPairs":
        """The oldest `count` of them."""
        return StoredPairs(self.store, count)

    def _with_room(self) -> _Store:
        _, batch, capacity, size = self.store.room.shape
        if self.store.used == self.count < capacity:
            return self.store
        own = _Store(self.store.room.new_empty(2, batch, max(capacity, 2 * self.count, 1), size))
        own.room[:, :, : self.count] = self.store.room[:, :, : self.count]
        return own


def low_rank(left: Tensor, right: Tensor, vector: State) -> State:
    """(-I + left^T right) vector, per image; every vector of the memory is read once."""
    if not left.shape[1]:
        return -vector
    return torch.bmm(dots(vector, right).unsqueeze(1), left).squeeze(1).sub_(vector)


def dots(vector: State, others: Vectors) -> Float[Tensor, "batch memory"]:
    """Inner products with each of the other vectors, per image."""
    # A row times a transposed matrix: on a CPU up to ten times as fast as the matrix times a column.
    return torch.bmm(vector.unsqueeze(1), others.transpose(1, 2)).squeeze(1)
