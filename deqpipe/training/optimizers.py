"""PyTorch's optimisers, without what their first use imports: the compiler, which takes as long as PyTorch itself."""

import inspect
from typing import Any

import torch
from torch import optim
from torch.optim import Optimizer


class _Eager(Optimizer):
    """What every optimiser has of its base class, as it is written there: not excepted from a compilation."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As that of PyTorch."""
        inspect.unwrap(Optimizer.add_param_group)(self, param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As that of PyTorch."""
        inspect.unwrap(Optimizer.load_state_dict)(self, state_dict)

    def state_dict(self) -> dict[str, Any]:
        """As that of PyTorch."""
        state: dict[str, Any] = inspect.unwrap(Optimizer.state_dict)(self)
        return state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As that of PyTorch."""
        inspect.unwrap(Optimizer.zero_grad)(self, set_to_none)


class Adam(_Eager, optim.Adam):
    """Adam (Kingma and Ba, 2015)."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the parameters from their gradients."""
        inspect.unwrap(optim.Adam.step)(self)


class SGD(_Eager, optim.SGD):
    """Stochastic gradient descent with momentum."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the parameters from their gradients."""
        inspect.unwrap(optim.SGD.step)(self)
