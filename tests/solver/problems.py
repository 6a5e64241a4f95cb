"""Fixed-point problems with known answers, one per image."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deqpipe.solver.broyden import BroydenState

SIZE = 6


def affine(
    images: int, *, rate: float = 0.7, size: int = SIZE, seed: int = 0
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A linear contraction per image with the given spectral norm, and its fixed points."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(images, size, size, generator=generator, dtype=torch.float64)
    matrix = rate * matrix / torch.linalg.matrix_norm(matrix, 2)[:, None, None]
    shift = torch.randn(images, size, generator=generator, dtype=torch.float64)
    solution = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - matrix, shift)
    return lambda z: torch.einsum("bij,bj->bi", matrix, z) + shift, solution


class Curved:
    """z -> tanh(W z + b_k) of image k; a subset of the images is a problem of its own."""

    def __init__(self, images: int, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
        self.shifts = torch.randn(images, SIZE, generator=generator, dtype=torch.float64)

    def of(self, images: list[int]) -> Callable[[Tensor], Tensor]:
        """The map of some of the images."""
        shifts = self.shifts[images]
        return lambda z: torch.tanh(z @ self.matrix.T + shifts)

    def single(self, image: int) -> Callable[[Tensor], Tensor]:
        """The map of one image, without batch."""
        return lambda z: torch.tanh(self.matrix @ z + self.shifts[image])


class Counting:
    """A map that counts its calls."""

    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        self.fn, self.calls = fn, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.calls += 1
        return self.fn(z)


def start(images: int, size: int = SIZE) -> Tensor:
    """z^[0] = 0."""
    return torch.zeros(images, size, dtype=torch.float64)


def leaving(images: int, *, rate: float = 1.1, near: float = 1e-6) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """z -> 1 + rate (z - 1), and a start so near its fixed point 1 that the relative residual can grow for long.

    Under fixed-point iteration it grows by nearly `rate` a step.
    """
    ones = torch.ones(images, SIZE, dtype=torch.float64)
    return lambda z: 1 + rate * (z - 1), ones + near


def tensors(state: Any) -> dict[str, Tensor]:
    """Everything that a solver's state holds, its memory included."""
    found = {name: value for name, value in vars(state).items() if isinstance(value, Tensor)}
    if isinstance(state, BroydenState):
        found |= {"left": state.left, "right": state.right, "correction": state.memory.correction}
        found |= {"skipped": state.skipped}
    return found
