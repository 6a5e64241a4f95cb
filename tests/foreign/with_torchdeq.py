"""A model of torchdeq (Geng & Kolter, 2023): its solver and its weight norm in training, its f for the evaluation."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchdeq import get_deq
from torchdeq.norm import apply_norm, reset_norm


class TorchDEQ(nn.Module):
    """A dense one for small images."""

    def __init__(self, pixels: int = 64, states: int = 48, classes: int = 10) -> None:
        super().__init__()
        self.inject, self.f = nn.Linear(pixels, states), nn.Linear(states, states)
        self.head = nn.Linear(states, classes)
        apply_norm(self.f, norm_type="weight_norm")
        self.deq = get_deq(f_solver="broyden", f_max_iter=15, f_tol=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        z, _ = self.deq(self.bind(x), self.initial_state(x))
        return self.logits(z[-1])

    def bind(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        reset_norm(self.f)
        injected = self.inject(x.flatten(1))
        return lambda z: torch.tanh(0.5 * self.f(z) + injected)

    def initial_state(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.f.out_features)

    def logits(self, z: Tensor) -> Tensor:
        out: Tensor = self.head(z)
        return out


model = TorchDEQ()
solver = {"name": "broyden", "steps": 12}
