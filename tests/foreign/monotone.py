"""A monotone operator equilibrium network, written from the equations of Winston & Kolter (2020).

z* = relu(W z* + U x + b) with W = (1 - m) I - A^T A + B - B^T (their Eqs. 5 and 9), which has one equilibrium for every
A and B if m > 0. f is a step of forward-backward splitting (their Eq. 12), whose equilibrium is the same.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class MonotoneDEQ(nn.Module):
    """A dense one for small images."""

    def __init__(
        self, pixels: int = 64, states: int = 48, classes: int = 10, m: float = 1.0, step: float = 0.2
    ) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.randn(states, states) / states**0.5) for _ in range(2))
        self.inject, self.head = nn.Linear(pixels, states), nn.Linear(states, classes)
        self.m, self.step = m, step

    def bind(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        identity = torch.eye(len(self.a), device=x.device)
        w = (1 - self.m) * identity - self.a.T @ self.a + self.b - self.b.T
        injected = self.inject(x.flatten(1))
        return lambda z: torch.relu((1 - self.step) * z + self.step * (z @ w.T + injected))

    def initial_state(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), len(self.a))

    def logits(self, z: Tensor) -> Tensor:
        out: Tensor = self.head(z)
        return out


model = MonotoneDEQ()
solver = {"name": "anderson", "steps": 15}
