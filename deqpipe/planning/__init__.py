"""What a run would cost on this machine: work from the configuration, prices from a measurement."""

from deqpipe.planning.estimate import plan

__all__ = ["plan"]
