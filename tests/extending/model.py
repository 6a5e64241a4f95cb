"""A model of one's own that is no MDEQ: a dense layer on flattened images, tied over all its applications."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deqpipe.extending import Model

WIDTH = 32


class Dense(nn.Module):
    """f(z; x) = tanh(W z + U x + b), with W scaled so that f contracts; logits are linear in z."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.tied = nn.Linear(WIDTH, WIDTH)
        self.injection = nn.Linear(channels * height * width, WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def bind(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """z -> f(z; x)."""
        injected = self.injection(x.flatten(1))
        weight = self.tied.weight / self.tied.weight.norm().clamp_min(1.0)
        return lambda z: torch.tanh(z @ weight.T + injected + self.tied.bias)

    def initial_state(self, x: Tensor) -> Tensor:
        """Zeros."""
        return x.new_zeros(len(x), WIDTH)

    def logits(self, z: Tensor) -> Tensor:
        """What is read off a state."""
        out: Tensor = self.head(z)
        return out


DENSE = Model("dense", "dense DEQ", build=Dense, frameworks=("trades",), defences=("plain", "entropy"))
