"""f as one compiled function.

Compiled is the pure function of state, injection, weights and masks: what wants a gradient is a matter of these inputs,
which the compiler guards on, as it does not on parameters. The solver, gradients of gradients and what is
differentiated more than once stay as they are.
"""

from collections.abc import Callable
from typing import Any

import torch

SHAPES = 64
"""Batch sizes, with and without gradient, that one process compiles for; the compiler's own limit is lower."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, compiled for every batch size that it meets."""
    import torch._dynamo as dynamo

    name = "recompile_limit" if hasattr(dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(dynamo.config, name, max(SHAPES, getattr(dynamo.config, name)))

    def call(*inputs: Any) -> Any:
        return function(*inputs)

    # One graph per batch size: shapes are few, and known sizes give the faster code.
    return torch.compile(call, dynamic=False)
