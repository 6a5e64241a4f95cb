"""Intervals, tests and races."""
