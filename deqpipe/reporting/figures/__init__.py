"""Figures 2 to 6."""
