"""Robust deep equilibrium models: training, defences, intermediate-state attacks and their evaluation.

In Python `deqpipe.load` gives a trained model and `deqpipe.images` the images of a run (deqpipe/api.py);
`deqpipe.evaluate` says how robust any model is (deqpipe/foreign/evaluation.py).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {"evaluate": "deqpipe.foreign.evaluation", "images": "deqpipe.api", "load": "deqpipe.api"}


def __getattr__(name: str) -> Any:
    """What Python users take from here; it is imported when asked for, since most of deqpipe needs no torch."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Everything that `deqpipe.` offers."""
    return sorted([*globals(), *_PUBLIC])
