"""Robust deep equilibrium models: training, defences, intermediate-state attacks and their evaluation."""

__version__ = "0.1.0"
